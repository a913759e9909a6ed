"""Inception-ResNet-v1 as facenet defines it (Szegedy et al., AAAI 2017; davidsandberg/facenet, 2018).

160 px in, 512 numbers out. Batch norms are folded, so a layer is a convolution, a bias and a ReLU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, Padding, max_pool


def _run(layers: nnx.List, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
    for layer in layers:
        x = jax.nn.relu(layer(x))
    return x


class Residual(nnx.Module):
    """x + scale * project(branches of x), with a ReLU after it unless it is the last block."""

    def __init__(
        self,
        channels: int,
        branches: tuple[tuple[tuple[int, tuple[int, int]], ...], ...],
        *,
        scale: float,
        activate: bool = True,
        rngs: nnx.Rngs | None,
    ):
        """`channels` in and out; `branches`: (channels, kernel size) of each convolution of each branch."""
        self.branches = nnx.List([_branch(channels, branch, rngs=rngs) for branch in branches])
        self.project = Conv(sum(branch[-1][0] for branch in branches), channels, (1, 1), rngs=rngs)
        self.entry: Conv | None = nnx.data(None)
        self.widths: tuple[int, ...] = ()
        self.scale = scale
        self.activate = activate

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        starts: list[Array] = [x] * len(self.branches)
        if self.entry is not None:
            starts = jnp.split(jax.nn.relu(self.entry(x)), self.widths, axis=-1)
        mixed = [_run(branch, start) for branch, start in zip(self.branches, starts, strict=True)]
        x = x + self.scale * self.project(jnp.concatenate(mixed, axis=-1))
        return jax.nn.relu(x) if self.activate else x

    def tune(self) -> None:
        """One product, `entry`, in place of those with which the branches begin; widths: where it is split."""
        first = [branch[0] for branch in self.branches]
        kernel = np.concatenate([np.asarray(conv.kernel[...]) for conv in first], axis=3)
        self.entry = Conv(kernel.shape[2], kernel.shape[3], (1, 1), rngs=None)
        self.entry.kernel[...] = kernel
        self.entry.bias[...] = np.concatenate([np.asarray(conv.bias[...]) for conv in first])
        self.widths = tuple(np.cumsum([conv.bias[...].shape[0] for conv in first])[:-1].tolist())
        self.branches = nnx.List([nnx.List(branch[1:]) for branch in self.branches])


class Reduction(nnx.Module):
    """Halves the resolution: strided branches beside a max pool, concatenated."""

    def __init__(
        self, channels: int, branches: tuple[tuple[tuple[int, tuple[int, int]], ...], ...], *, rngs: nnx.Rngs | None
    ):
        """`channels` in; `branches`: (channels, kernel size) of each convolution of each branch."""
        self.branches = nnx.List([_branch(channels, branch, reduce=True, rngs=rngs) for branch in branches])

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        return jnp.concatenate([*(_run(branch, x) for branch in self.branches), max_pool(x, window=3, stride=2)], -1)


def _branch(i: int, layers: tuple[tuple[int, tuple[int, int]], ...], *, reduce: bool = False, rngs: nnx.Rngs | None):
    """Convolutions in a row, (channels, kernel size) each; the last one has stride 2 when `reduce`."""
    convs = []
    for index, (o, size) in enumerate(layers):
        last = reduce and index == len(layers) - 1
        padding: Padding = "VALID" if last else "SAME"
        convs.append(Conv(i, o, size, stride=2 if last else 1, padding=padding, rngs=rngs))
        i = o
    return nnx.List(convs)


_1, _3 = (1, 1), (3, 3)
_BLOCK35 = (((32, _1),), ((32, _1), (32, _3)), ((32, _1), (32, _3), (32, _3)))
_BLOCK17 = (((128, _1),), ((128, _1), (128, (1, 7)), (128, (7, 1))))
_BLOCK8 = (((192, _1),), ((192, _1), (192, (1, 3)), (192, (3, 1))))
_REDUCTION_A = (((384, _3),), ((192, _1), (192, _3), (256, _3)))
_REDUCTION_B = (((256, _1), (384, _3)), ((256, _1), (256, _3)), ((256, _1), (256, _3), (256, _3)))


class InceptionResnetV1(nnx.Module):
    """The network. Input: one crop (s, s, 3), RGB, (x * 255 - 127.5) / 128. Output: (512,), not normalised."""

    def __init__(self, *, dim: int = 512, rngs: nnx.Rngs | None):
        """`dim`: length of an embedding."""
        self.conv1a = Conv(3, 32, _3, stride=2, padding="VALID", rngs=rngs)
        self.conv2a = Conv(32, 32, _3, padding="VALID", rngs=rngs)
        self.conv2b = Conv(32, 64, _3, rngs=rngs)
        self.conv3b = Conv(64, 80, _1, padding="VALID", rngs=rngs)
        self.conv4a = Conv(80, 192, _3, padding="VALID", rngs=rngs)
        self.conv4b = Conv(192, 256, _3, stride=2, padding="VALID", rngs=rngs)
        self.block35 = nnx.List([Residual(256, _BLOCK35, scale=0.17, rngs=rngs) for _ in range(5)])
        self.reduction_a = Reduction(256, _REDUCTION_A, rngs=rngs)
        self.block17 = nnx.List([Residual(896, _BLOCK17, scale=0.1, rngs=rngs) for _ in range(10)])
        self.reduction_b = Reduction(896, _REDUCTION_B, rngs=rngs)
        self.block8 = nnx.List([Residual(1792, _BLOCK8, scale=0.2, rngs=rngs) for _ in range(5)])
        self.block8_last = Residual(1792, _BLOCK8, scale=1.0, activate=False, rngs=rngs)
        self.bottleneck = Conv(1792, dim, _1, rngs=rngs)

    def __call__(self, x: Float[Array, "s s 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        for layer in (self.conv1a, self.conv2a, self.conv2b):
            x = jax.nn.relu(layer(x))
        x = max_pool(x, window=3, stride=2)
        for layer in (self.conv3b, self.conv4a, self.conv4b):
            x = jax.nn.relu(layer(x))
        stages = (*self.block35, self.reduction_a, *self.block17, self.reduction_b, *self.block8, self.block8_last)
        for stage in stages:
            x = stage(x)
        return self.bottleneck(jnp.mean(x, axis=(0, 1), keepdims=True))[0, 0]


def build(*, dim: int = 512, rngs: nnx.Rngs | None) -> InceptionResnetV1:
    """The network of the `web-incept` checkpoint, randomly initialised, or zero without `rngs`."""
    return InceptionResnetV1(dim=dim, rngs=rngs)
