"""A small residual network for small sets of photos: a face to logits, with group normalisation.

The networks of the engine have their batch norms folded and cannot be trained from random weights. Group normalisation
(Wu and He, ECCV 2018) has no statistics over the batch, and so nothing to fold.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, average_pool

SIZE = 64
"""Side of its input in pixels."""
WINDOW = (24.0, 152.0)
"""The crop of the canvas that it sees: ArcFace's template and 8 pixels more on every side."""
GROUPS = 8
SCALE = 16.0
"""Logits are cosines times this (Wang et al., CosFace, CVPR 2018)."""


class GroupNorm(nnx.Module):
    """Mean 0 and deviation 1 over space and each group of channels, then scaled and shifted by channel."""

    def __init__(self, channels: int, *, scale: float = 1.0):
        """`scale` at first."""
        self.scale = nnx.Param(jnp.full((channels,), scale, jnp.float32))
        self.shift = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        groups = x.reshape(*x.shape[:2], GROUPS, -1)
        centred = groups - jnp.mean(groups, axis=(0, 1, 3), keepdims=True)
        normal = centred * lax.rsqrt(jnp.mean(centred * centred, axis=(0, 1, 3), keepdims=True) + 1e-5)
        return normal.reshape(x.shape) * self.scale[...][None, None] + self.shift[...][None, None]


class Block(nnx.Module):
    """Two 3x3 convolutions, the first of stride 2, added to a 1x1 convolution of the input at half its size."""

    def __init__(self, i: int, o: int):
        """`i` channels in, `o` out."""
        self.first = Conv(i, o, (3, 3), stride=2, rngs=None)
        self.first_norm = GroupNorm(o)
        self.second = Conv(o, o, (3, 3), rngs=None)
        self.second_norm = GroupNorm(o, scale=0.0)  # starts as the shortcut alone, which trains faster
        self.shortcut = Conv(i, o, (1, 1), rngs=None)

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        y = jax.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return jax.nn.relu(y + self.shortcut(average_pool(x, window=2)))


class SmallNet(nnx.Module):
    """The network. Input: one crop (64, 64, 3) in [0, 1]. Output: (labels,) logits, cosines times SCALE."""

    def __init__(self, labels: int, *, width: int = 16):
        """`width`: channels of the first layer, a multiple of 8; the last has four times as many. Kernels are zero:
        see `initialised`.
        """
        if width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS}, the number of groups; got {width}")
        self.stem = Conv(3, width, (5, 5), stride=2, rngs=None)
        self.stem_norm = GroupNorm(width)
        shapes = ((width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width))
        self.blocks = nnx.List([Block(i, o) for i, o in shapes])
        self.classes = nnx.Param(jnp.zeros(((SIZE // 16) ** 2 * 4 * width, labels)))

    def __call__(self, x: Float[Array, "s s 3"], *, dropout: Float[Array, "h w c"] | None = None) -> Float[Array, " k"]:
        """One example in, its logits out. dropout: (4, 4, 4 * width) factors of the last features, in training."""
        x = (x - jnp.mean(x)) / (jnp.std(x) + 0.05)
        x = jax.nn.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        x = x if dropout is None else x * dropout
        features = x.reshape(-1)
        features = features * lax.rsqrt(jnp.sum(features * features) + 1e-6)
        classes = self.classes[...]
        classes = classes * lax.rsqrt(jnp.sum(classes * classes, axis=0, keepdims=True) + 1e-6)
        return SCALE * (features @ classes)


def initialised(params: Any, *, seed: int) -> Any:
    """Parameters of the network with kernels drawn anew, He-normal (He et al., ICCV 2015); biases and scales stay."""
    # By numpy: JAX would compile a program for every shape, which takes longer than an epoch.
    random = np.random.default_rng(seed)

    def drawn(leaf: Array) -> Array:
        if leaf.ndim < 2:
            return leaf
        deviation = (2 / np.prod(leaf.shape[:-1])) ** 0.5
        return jnp.asarray(deviation * random.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(drawn, params)
