"""IResNet, the ResNet of ArcFace (Deng et al., CVPR 2019), with squeeze-and-excitation as an option (IR-SE).

112 px in, 512 numbers out; CosFace, MagFace and others train the same network. A block is batch norm, convolution,
PReLU, convolution. Its first batch norm stands before a zero-padded convolution and so stays, as scale and shift;
all others are folded.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Affine, Conv, PReLU, SqueezeExcite

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
}
"""Blocks in each of the four stages, by the depth that names the network."""


class Block(nnx.Module):
    """A residual block; the shortcut is a strided convolution where the stage begins."""

    def __init__(self, i: int, o: int, *, stride: int, project: bool, se: bool, rngs: nnx.Rngs | None):
        """`i` channels in, `o` out. `project`: whether the shortcut is a convolution or what it passes over."""
        shortcut = Conv(i, o, (1, 1), stride=stride, rngs=rngs) if project else None
        if se:  # The order in which layers are defined is that in which they run in the source: see engine.convert.
            self.shortcut = shortcut
        self.norm = Affine(i)
        self.conv1 = Conv(i, o, (3, 3), padding=1, rngs=rngs)
        self.prelu = PReLU(o)
        self.conv2 = Conv(o, o, (3, 3), stride=stride, padding=1, rngs=rngs)
        self.se = SqueezeExcite(o, rngs=rngs) if se else None
        self.shortcut = shortcut
        self.stride = stride

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        y = self.conv2(self.prelu(self.conv1(self.norm(x))))
        if self.se is not None:
            y = self.se(y)
        return y + (x[:: self.stride, :: self.stride] if self.shortcut is None else self.shortcut(x))


class IResNet(nnx.Module):
    """The network. Input: one crop (112, 112, 3), RGB, (x * 255 - 127.5) / 127.5. Output: (dim,), not normalised."""

    def __init__(self, *, depth: int, se: bool = False, dim: int = 512, rngs: nnx.Rngs | None):
        """`depth`: a key of BLOCKS. `se`: squeeze-and-excitation in every block. `dim`: length of an embedding.

        The SE form (cavaface's) has no convolution in the shortcut of its first stage.
        """
        self.stem = Conv(3, 64, (3, 3), padding=1, rngs=rngs)
        self.stem_prelu = PReLU(64)
        stages, i = [], 64
        for o, count in zip((64, 128, 256, 512), BLOCKS[depth], strict=True):
            first = Block(i, o, stride=2, project=not se or i != o, se=se, rngs=rngs)
            rest = [Block(o, o, stride=1, project=False, se=se, rngs=rngs) for _ in range(count - 1)]
            stages.append(nnx.List([first, *rest]))
            i = o
        self.stages = nnx.List(stages)
        self.bottleneck = Conv(512, dim, (7, 7), padding="VALID", rngs=rngs)

    def __call__(self, x: Float[Array, "112 112 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = self.stem_prelu(self.stem(x))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.bottleneck(x)[0, 0]


def build(*, depth: int, se: bool = False, dim: int = 512, rngs: nnx.Rngs | None) -> IResNet:
    """IResNet-`depth` (18, 34, 50 or 100), randomly initialised, or zero without `rngs`."""
    return IResNet(depth=depth, se=se, dim=dim, rngs=rngs)
