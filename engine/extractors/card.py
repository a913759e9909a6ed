"""The model card of an extractor: what is written of it, and what its network costs."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from engine import sharding
from engine.extractors.registry import about, described, find


def card(name: str) -> dict[str, Any]:
    """Everything there is to say of one extractor, as one dictionary that JSON can hold.

    It has what `registry.about` tells (the extractor's table of checkpoints/manifest.toml, or its card), `parameters`
    and `gflops`. The last is 10^9 floating-point operations of one forward pass of one crop, a multiplication and an
    addition being two. XLA counts them in the network before it is optimised. No weights are loaded. Raises ValueError
    for any other name, naming those there are, and if JAX has no device. Raises `checkpoint.CheckpointError` for a
    damaged card.

    Example:
        >>> card("sface")["dim"]
        128
    """
    known = about(name)
    sharding.devices_here()
    entry = find(name)
    graphdef, params = described(name, entry)
    return {
        **known,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        "gflops": round(gflops(graphdef, params, entry.spec.size), 3),
    }


def gflops(graphdef: nnx.GraphDef, params: Any, size: int) -> float:
    """10^9 operations of one forward pass of one crop of `size` pixels, as in `card`; params: arrays or shapes."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    crop = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    plain = jax.jit(lambda params, crop: nnx.merge(graphdef, params)(crop))
    return (plain.lower(shapes, crop).cost_analysis() or {}).get("flops", math.nan) / 1e9
