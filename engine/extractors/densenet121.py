"""DenseNet-121 (Huang et al., CVPR 2017), without its classifier: 224 px in, 1,024 numbers out.

A layer is batch norm, ReLU, 1x1 convolution, batch norm, ReLU, 3x3 convolution, and its result is concatenated to what
it saw. The batch norms that stand before a ReLU and after a concatenation stay, as scale and shift.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Affine, Conv, average_pool, max_pool

_GROWTH = 32
_LAYERS = (6, 12, 24, 16)


class Layer(nnx.Module):
    """The input with `_GROWTH` new channels behind it."""

    def __init__(self, i: int, *, rngs: nnx.Rngs | None):
        """`i` channels in."""
        self.norm = Affine(i)
        self.conv1 = Conv(i, 4 * _GROWTH, (1, 1), rngs=rngs)
        self.conv2 = Conv(4 * _GROWTH, _GROWTH, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "h w o"]:
        """One example in, one out."""
        y = jax.nn.relu(self.conv1(jax.nn.relu(self.norm(x))))
        return jnp.concatenate([x, self.conv2(y)], axis=-1)


class Transition(nnx.Module):
    """Halves the channels and the resolution."""

    def __init__(self, i: int, *, rngs: nnx.Rngs | None):
        """`i` channels in."""
        self.norm = Affine(i)
        self.conv = Conv(i, i // 2, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        return average_pool(self.conv(jax.nn.relu(self.norm(x))), window=2)


class DenseNet121(nnx.Module):
    """The network. Input: one crop (s, s, 3), scaled as its source has it. Output: (1024,), not normalised."""

    def __init__(self, *, rngs: nnx.Rngs | None):
        """Zeros without `rngs`."""
        self.stem = Conv(3, 64, (7, 7), stride=2, padding=3, rngs=rngs)
        blocks, transitions, channels = [], [], 64
        for count in _LAYERS:
            blocks.append(nnx.List([Layer(channels + n * _GROWTH, rngs=rngs) for n in range(count)]))
            channels += count * _GROWTH
            if len(blocks) < len(_LAYERS):
                transitions.append(Transition(channels, rngs=rngs))
                channels //= 2
        self.blocks = nnx.List(blocks)
        self.transitions = nnx.List(transitions)
        self.norm = Affine(channels)

    def __call__(self, x: Float[Array, "s s 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = jax.nn.relu(self.stem(x))
        x = max_pool(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), window=3, stride=2)  # after a ReLU, zeros never win
        for n, block in enumerate(self.blocks):
            for layer in block:
                x = layer(x)
            if n < len(self.transitions):
                x = self.transitions[n](x)
        return jnp.mean(jax.nn.relu(self.norm(x)), axis=(0, 1))


def build(*, rngs: nnx.Rngs | None) -> DenseNet121:
    """DenseNet-121, randomly initialised, or zero without `rngs`."""
    return DenseNet121(rngs=rngs)
