"""dlib's ResNet of 29 convolutions (King 2017), what `face_recognition` runs: He et al.'s ResNet-34, thinner.

150 px in, 128 numbers out. Batch norms are folded. No convolution widens a shortcut. Where a stage begins, the shortcut
is averaged. The smaller of the two terms is filled with zeros, in height, width and channels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, average_pool, max_pool

STAGES: tuple[tuple[int, int], ...] = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Channels and blocks of each stage; all but the first begin with a block that halves the map."""


def add(x: Float[Array, "h w c"], y: Float[Array, "H W o"]) -> Float[Array, "M N p"]:
    """The sum of maps that begin at the same corner, of the larger of their sizes on each axis."""
    size = tuple(map(max, x.shape, y.shape))
    x, y = (
        jnp.pad(grid, [(0, whole - length) for whole, length in zip(size, grid.shape, strict=True)]) for grid in (x, y)
    )
    return x + y


class Block(nnx.Module):
    """Two convolutions and what they pass over."""

    def __init__(self, i: int, o: int, *, halve: bool, rngs: nnx.Rngs | None):
        """`i` channels in, `o` out; `halve`: the first convolution has stride 2 and no padding."""
        self.conv1 = Conv(i, o, (3, 3), stride=2 if halve else 1, padding=0 if halve else 1, rngs=rngs)
        self.conv2 = Conv(o, o, (3, 3), padding=1, rngs=rngs)
        self.halve = halve

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        y = self.conv2(jax.nn.relu(self.conv1(x)))
        return jax.nn.relu(add(y, average_pool(x, window=2)) if self.halve else x + y)


class ResNet29(nnx.Module):
    """The network. Input: one crop (150, 150, 3), RGB, (x * 255 - mean) / 256. Output: (dim,), not normalised."""

    def __init__(self, *, dim: int = 128, rngs: nnx.Rngs | None):
        """`dim`: length of an embedding."""
        self.stem = Conv(3, 32, (7, 7), stride=2, padding=0, rngs=rngs)
        blocks, i = [], 32
        for stage, (o, count) in enumerate(STAGES):
            for number in range(count):
                blocks.append(Block(i, o, halve=stage > 0 and number == 0, rngs=rngs))
                i = o
        self.blocks = nnx.List(blocks)
        self.bottleneck = Conv(i, dim, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "150 150 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = max_pool(jax.nn.relu(self.stem(x)), window=3, stride=2)
        for block in self.blocks:
            x = block(x)
        return self.bottleneck(jnp.mean(x, axis=(0, 1), keepdims=True))[0, 0]


def build(*, dim: int = 128, rngs: nnx.Rngs | None) -> ResNet29:
    """ResNet-29, by default that of the `dlib-resnet` checkpoint; zero without `rngs`."""
    return ResNet29(dim=dim, rngs=rngs)
