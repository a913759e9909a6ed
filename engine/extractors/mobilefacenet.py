"""MobileFaceNet (Chen et al., CCBR 2018) as sirius-ai/MobileFaceNet_TF trained it: 112 px in, 192 numbers out.

Batch norms are folded. Inverted residuals of 1x1, depthwise 3x3, 1x1, with PReLU after the first two.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, Depthwise, PReLU


class InvertedResidual(nnx.Module):
    """Expand, filter, project; the input is added where the shape allows."""

    def __init__(self, i: int, expanded: int, o: int, *, stride: int, rngs: nnx.Rngs | None):
        """`i` channels in, `expanded` between, `o` out; `stride` in the depthwise convolution."""
        self.expand = Conv(i, expanded, (1, 1), rngs=rngs)
        self.expand_prelu = PReLU(expanded)
        self.depthwise = Depthwise(expanded, (3, 3), stride=stride, rngs=rngs)
        self.depthwise_prelu = PReLU(expanded)
        self.project = Conv(expanded, o, (1, 1), rngs=rngs)
        self.residual = stride == 1 and i == o

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        y = self.expand_prelu(self.expand(x))
        y = self.depthwise_prelu(self.depthwise(y))
        y = self.project(y)
        return x + y if self.residual else y


# (input, expanded, output channels, stride) of each block.
_BLOCKS = (
    (64, 128, 64, 2),
    *((64, 128, 64, 1),) * 4,
    (64, 256, 128, 2),
    *((128, 256, 128, 1),) * 6,
    (128, 512, 128, 2),
    *((128, 256, 128, 1),) * 2,
)


class MobileFaceNet(nnx.Module):
    """The network. Input: one crop (112, 112, 3), RGB, (x * 255 - 127.5) / 128. Output: (192,), not normalised."""

    def __init__(self, *, dim: int = 192, rngs: nnx.Rngs | None):
        """`dim`: length of an embedding."""
        self.stem = Conv(3, 64, (3, 3), stride=2, rngs=rngs)
        self.stem_prelu = PReLU(64)
        self.stem_depthwise = Depthwise(64, (3, 3), rngs=rngs)
        self.stem_depthwise_prelu = PReLU(64)
        self.stem_project = Conv(64, 64, (1, 1), rngs=rngs)
        self.blocks = nnx.List([InvertedResidual(i, e, o, stride=stride, rngs=rngs) for i, e, o, stride in _BLOCKS])
        self.head = Conv(128, 512, (1, 1), rngs=rngs)
        self.head_prelu = PReLU(512)
        self.global_depthwise = Depthwise(512, (7, 7), padding="VALID", rngs=rngs)
        self.global_project = Conv(512, 512, (1, 1), rngs=rngs)
        self.bottleneck = Conv(512, dim, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "112 112 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = self.stem_prelu(self.stem(x))
        x = self.stem_project(self.stem_depthwise_prelu(self.stem_depthwise(x)))
        for block in self.blocks:
            x = block(x)
        x = self.head_prelu(self.head(x))
        return self.bottleneck(self.global_project(self.global_depthwise(x)))[0, 0]


def build(*, rngs: nnx.Rngs | None) -> MobileFaceNet:
    """The network of the `mobilefacenet-192` checkpoint, randomly initialised, or zero without `rngs`."""
    return MobileFaceNet(rngs=rngs)
