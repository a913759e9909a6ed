"""Vision transformer (Dosovitskiy et al., ICLR 2021) as insightface trains it: 112 px in, 512 numbers out.

Patches of 9 pixels and no class token: the embedding is made by a dense head over all tokens, whose batch norms are
folded.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from engine.extractors.layers import Conv, Dense, LayerNorm

PATCH = 9


class Attention(nnx.Module):
    """Self-attention with several heads over the tokens of one example."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs | None):
        """`width` of a token, shared out among `heads`."""
        self.qkv = Dense(width, 3 * width, rngs=rngs)
        self.project = Dense(width, width, rngs=rngs)
        self.heads = heads

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """One example's tokens in, as many out."""
        tokens, width = x.shape
        query, key, value = jnp.moveaxis(self.qkv(x).reshape(tokens, 3, self.heads, width // self.heads), 1, 0)
        weight = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", query, key) * (width // self.heads) ** -0.5, axis=-1)
        return self.project(jnp.einsum("hqk,khd->qhd", weight, value).reshape(tokens, width))


class Block(nnx.Module):
    """Attention, then two dense layers, both on normalised tokens and added to what they saw."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs | None):
        """`width` of a token, shared out among `heads`; four times as wide between the dense layers."""
        self.norm1 = LayerNorm(width)
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm2 = LayerNorm(width)
        self.expand = Dense(width, 4 * width, rngs=rngs)
        self.contract = Dense(4 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """One example's tokens in, as many out."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(jax.nn.relu6(self.expand(self.norm2(x))))


class VisionTransformer(nnx.Module):
    """The network. Input: one crop (112, 112, 3), RGB, (x * 255 - 127.5) / 127.5. Output: (dim,), not normalised."""

    def __init__(self, *, width: int, depth: int, heads: int = 8, dim: int = 512, rngs: nnx.Rngs | None):
        """`width` of a token, `depth` blocks of `heads`, `dim`: length of an embedding."""
        tokens = (112 // PATCH) ** 2
        self.patches = Conv(3, width, (PATCH, PATCH), stride=PATCH, padding="VALID", rngs=rngs)
        self.position = nnx.Param(jnp.zeros((tokens, width), jnp.float32))
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(depth)])
        self.norm = LayerNorm(width)
        self.head = Dense(tokens * width, width, rngs=rngs)
        self.bottleneck = Dense(width, dim, rngs=rngs)

    def __call__(self, x: Float[Array, "112 112 3"]) -> Float[Array, " d"]:
        """One example in, one embedding out."""
        x = self.patches(x)
        x = x.reshape(-1, x.shape[-1]) + self.position[...]
        for block in self.blocks:
            x = block(x)
        return self.bottleneck(self.head(self.norm(x).reshape(-1)))


def build(*, width: int, depth: int, heads: int = 8, dim: int = 512, rngs: nnx.Rngs | None) -> VisionTransformer:
    """A vision transformer, randomly initialised, or zero without `rngs`."""
    return VisionTransformer(width=width, depth=depth, heads=heads, dim=dim, rngs=rngs)
