"""SFace (Zhong et al., IEEE TIP 2021) as OpenCV Zoo publishes it (2021dec): 112 px in, 128 numbers out.

MobileNet-v1's layers with PReLU and without the first stride, then a dense layer over the 7 x 7 map. Batch norms are
folded, the one before the dense layer too.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, PReLU
from engine.extractors.mobilenet_v1 import Trunk


class SFace(nnx.Module):
    """The network. Input: one crop (112, 112, 3), RGB, (x * 255 - 127.5) / 128. Output: (128,), not normalised."""

    def __init__(self, *, dim: int = 128, rngs: nnx.Rngs | None):
        """`dim`: length of an embedding."""
        self.trunk = Trunk(stride=1, padding=1, activation=PReLU, rngs=rngs)
        self.bottleneck = Conv(1024, dim, (7, 7), padding="VALID", rngs=rngs)

    def __call__(self, x: Float[Array, "112 112 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        return self.bottleneck(self.trunk(x))[0, 0]


def build(*, rngs: nnx.Rngs | None) -> SFace:
    """The network of the `sface` checkpoint, randomly initialised, or zero without `rngs`."""
    return SFace(rngs=rngs)
