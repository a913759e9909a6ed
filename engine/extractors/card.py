"""The model card of a shipped extractor: what the manifest says of it, and what its network costs."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from engine import checkpoint
from engine.extractors.registry import abstract, find


def card(name: str) -> dict[str, Any]:
    """Everything there is to say of one shipped extractor, as one dictionary that JSON can hold.

    It has the name, the extractor's table of checkpoints/manifest.toml, `megabytes` on disk, `parameters`, and
    `gflops`: 10^9 floating-point operations of one forward pass of one crop, a multiplication and an addition being
    two, as XLA counts them in the network before it is optimised. No weights are loaded. Raises ValueError, naming
    the shipped ones, for any other name.

    Example:
        >>> card("sface")["dim"]
        128
    """
    tables = checkpoint.manifest()["extractors"]
    if name not in tables:
        raise ValueError(f"no extractor named {name!r} is shipped; there are {', '.join(sorted(tables))}")
    entry = find(name)
    graphdef, params = abstract(entry.build)
    crop = jax.ShapeDtypeStruct((entry.spec.size, entry.spec.size, 3), jnp.float32)
    cost = jax.jit(lambda params, crop: nnx.merge(graphdef, params)(crop)).lower(params, crop).cost_analysis() or {}
    return {
        "name": name,
        **tables[name],
        "megabytes": checkpoint.megabytes(tables[name]["path"]),
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        "gflops": round(cost.get("flops", math.nan) / 1e9, 3),
    }
