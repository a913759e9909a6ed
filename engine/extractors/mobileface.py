"""MobileFace (becauseofAI/MobileFace, identification V3, 2018): 112 px in, 256 numbers out.

Four stages halve the map and then add a pair of depthwise convolutions to it. A dense layer follows over what is left,
4 x 4. Batch norms are folded.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, Depthwise, PReLU


class Stage(nnx.Module):
    """A 1x1 convolution, a depthwise one of stride 2, and a residual of two more depthwise ones."""

    def __init__(self, i: int, o: int, *, rngs: nnx.Rngs | None):
        """`i` channels in, `o` out."""
        self.expand = Conv(i, o, (1, 1), rngs=rngs)
        self.reduce = Depthwise(o, (3, 3), stride=2, padding=1, rngs=rngs)
        self.reduce_prelu = PReLU(o)
        self.residual = nnx.List([Depthwise(o, (3, 3), padding=1, rngs=rngs) for _ in range(2)])
        self.residual_prelu = nnx.List([PReLU(o) for _ in range(2)])

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        x = self.reduce_prelu(self.reduce(self.expand(x)))
        y = x
        for layer, prelu in zip(self.residual, self.residual_prelu, strict=True):
            y = prelu(layer(y))
        return x + y


class MobileFace(nnx.Module):
    """The network. Input: one crop (112, 112, 3), RGB, (x * 255 - 127.5) / 128. Output: (256,), not normalised."""

    def __init__(self, *, dim: int = 256, rngs: nnx.Rngs | None):
        """`dim`: length of an embedding."""
        self.stem = Conv(3, 32, (3, 3), stride=2, padding=1, rngs=rngs)
        self.stem_prelu = PReLU(32)
        self.stages = nnx.List([Stage(i, o, rngs=rngs) for i, o in ((32, 32), (32, 32), (32, 64), (64, 128))])
        self.bottleneck = Conv(128, dim, (4, 4), padding="VALID", rngs=rngs)

    def __call__(self, x: Float[Array, "112 112 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = self.stem_prelu(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.bottleneck(x)[0, 0]


def build(*, rngs: nnx.Rngs | None) -> MobileFace:
    """The network of the `mobileface` checkpoint, randomly initialised, or zero without `rngs`."""
    return MobileFace(rngs=rngs)
