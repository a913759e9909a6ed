"""MobileFaceNet (Chen et al., CCBR 2018) in the forms of sirius-ai, of insightface and of frbench.

112 px in; 192, or 512, numbers out. Batch norms are folded. Inverted residuals of 1x1, depthwise 3x3, 1x1, with PReLU
after the first two.
"""

from __future__ import annotations

from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, Depthwise, EfficientAttention, Padding, PReLU

Form = Literal["sirius", "arcface"]


class InvertedResidual(nnx.Module):
    """Expand, filter, project; the input is added if the shape allows."""

    def __init__(
        self,
        i: int,
        expanded: int,
        o: int,
        *,
        stride: int,
        padding: Padding = "SAME",
        eca: bool = False,
        rngs: nnx.Rngs | None,
    ):
        """`i` channels in, `expanded` between, `o` out; `stride` and `padding` of the depthwise convolution."""
        self.expand = Conv(i, expanded, (1, 1), rngs=rngs)
        self.expand_prelu = PReLU(expanded)
        self.depthwise = Depthwise(expanded, (3, 3), stride=stride, padding=padding, rngs=rngs)
        self.depthwise_prelu = PReLU(expanded)
        self.project = Conv(expanded, o, (1, 1), rngs=rngs)
        self.eca = EfficientAttention(o, rngs=rngs) if eca else None
        self.residual = stride == 1 and i == o

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        y = self.expand_prelu(self.expand(x))
        y = self.depthwise_prelu(self.depthwise(y))
        y = self.project(y)
        if self.eca is not None:
            y = self.eca(y)
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
    """The network. Input: one crop (112, 112, 3), RGB, scaled as its source has it. Output: (dim,), not normalised."""

    def __init__(
        self, *, form: Form = "sirius", width: int = 1, eca: bool = False, dim: int = 192, rngs: nnx.Rngs | None
    ):
        """`dim`: length of an embedding. `form`: "sirius" has TensorFlow's padding and two more 1x1 convolutions,
        "arcface" (insightface, frbench) PyTorch's padding. `width`: how many times 64 and 128 channels run between
        the blocks. `eca`: channel attention at the end of every block.
        """
        sirius = form == "sirius"
        padding: Padding = "SAME" if sirius else 1
        stem = 64 * width
        self.stem = Conv(3, stem, (3, 3), stride=2, padding=padding, rngs=rngs)
        self.stem_prelu = PReLU(stem)
        # insightface's has 64 groups here whatever its width: where a group is several channels, a full convolution.
        self.stem_depthwise = (
            Depthwise(stem, (3, 3), padding=padding, rngs=rngs)
            if width == 1
            else Conv(stem, stem, (3, 3), padding=padding, rngs=rngs)
        )
        self.stem_depthwise_prelu = PReLU(stem)
        self.stem_project = Conv(stem, stem, (1, 1), rngs=rngs) if sirius else None
        self.blocks = nnx.List(
            [
                InvertedResidual(i * width, e, o * width, stride=stride, padding=padding, eca=eca, rngs=rngs)
                for i, e, o, stride in _BLOCKS
            ]
        )
        self.head = Conv(128 * width, 512, (1, 1), rngs=rngs)
        self.head_prelu = PReLU(512)
        self.global_depthwise = Depthwise(512, (7, 7), padding="VALID", rngs=rngs)
        self.global_project = Conv(512, 512, (1, 1), rngs=rngs) if sirius else None
        self.bottleneck = Conv(512, dim, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "112 112 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = self.stem_prelu(self.stem(x))
        x = self.stem_depthwise_prelu(self.stem_depthwise(x))
        if self.stem_project is not None:
            x = self.stem_project(x)
        for block in self.blocks:
            x = block(x)
        x = self.global_depthwise(self.head_prelu(self.head(x)))
        if self.global_project is not None:
            x = self.global_project(x)
        return self.bottleneck(x)[0, 0]


def build(
    *, form: Form = "sirius", width: int = 1, eca: bool = False, dim: int = 192, rngs: nnx.Rngs | None
) -> MobileFaceNet:
    """MobileFaceNet, by default that of the `mobilefacenet-192` checkpoint; zero without `rngs`."""
    return MobileFaceNet(form=form, width=width, eca=eca, dim=dim, rngs=rngs)
