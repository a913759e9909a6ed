"""MobileNet-v1 (Howard et al., 2017) as HSE_FaceRec_tf trained it on VGGFace2: 224 px in, 1024 numbers out.

The embedding is the mean of the last feature map, before the heads for age and gender. Batch norms are folded.
`Trunk` has the layers in the form that SFace shares.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, Depthwise, Padding

Activation = Callable[[Float[Array, "h w c"]], Float[Array, "h w c"]]

_CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels of the first convolution and of each separable one after it."""
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""Strides of the separable convolutions."""


class Relu6(nnx.Module):
    """min(max(x, 0), 6). A module, since a function in a network has no name that another process knows it by."""

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        return jax.nn.relu6(x)


class Separable(nnx.Module):
    """A depthwise 3x3 and a 1x1 convolution, with an activation after each."""

    def __init__(
        self,
        i: int,
        o: int,
        *,
        stride: int,
        padding: Padding,
        activation: Callable[[int], Activation],
        rngs: nnx.Rngs | None,
    ):
        """`i` channels in, `o` out; `stride` and `padding` of the 3x3; `activation` makes one, of so many channels."""
        self.depthwise = Depthwise(i, (3, 3), stride=stride, padding=padding, rngs=rngs)
        self.depthwise_activation = activation(i)
        self.project = Conv(i, o, (1, 1), rngs=rngs)
        self.project_activation = activation(o)

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        x = self.depthwise_activation(self.depthwise(x))
        return self.project_activation(self.project(x))


class Trunk(nnx.Module):
    """A convolution and thirteen separable ones: (s, s, 3) to (s / 16 / stride, s / 16 / stride, 1024)."""

    def __init__(
        self, *, stride: int, padding: Padding, activation: Callable[[int], Activation], rngs: nnx.Rngs | None
    ):
        """`stride` of the first convolution; `padding` of all 3x3 ones; `activation` as in `Separable`."""
        self.stem = Conv(3, _CHANNELS[0], (3, 3), stride=stride, padding=padding, rngs=rngs)
        self.stem_activation = activation(_CHANNELS[0])
        self.blocks = nnx.List(
            [
                Separable(i, o, stride=stride, padding=padding, activation=activation, rngs=rngs)
                for i, o, stride in zip(_CHANNELS[:-1], _CHANNELS[1:], _STRIDES, strict=True)
            ]
        )

    def __call__(self, x: Float[Array, "s s 3"]) -> Float[Array, "t t 1024"]:
        """One example in, one out."""
        x = self.stem_activation(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return x


class MobileNetV1(nnx.Module):
    """The network. Input: one crop (s, s, 3), BGR, 0 to 255 less ImageNet's means. Output: (1024,), not normalised."""

    def __init__(self, *, rngs: nnx.Rngs | None):
        """Zeros without `rngs`."""
        self.trunk = Trunk(stride=2, padding="SAME", activation=lambda channels: Relu6(), rngs=rngs)

    def __call__(self, x: Float[Array, "s s 3"]) -> Float[Array, " 1024"]:
        """One example in, one embedding out."""
        return jnp.mean(self.trunk(x), axis=(0, 1))


def build(*, rngs: nnx.Rngs | None) -> MobileNetV1:
    """The network of the `faceres` checkpoint, randomly initialised, or zero without `rngs`."""
    return MobileNetV1(rngs=rngs)
