"""The roofline on paper: what an H100 and a TPU v5e could do, from the networks' FLOPs and bytes. Nothing is measured.

    python benchmarks/roofline.py [--extractors A,B] [--steps N] [--batch N]

A step is a forward pass and the gradient of the input: twice the forward FLOPs (the weights' gradients are not made).
Forward passes besides: 1 for the clean embedding and 1 in ten steps for the look at the iterate. FLOPs over the peak
rate is a ceiling. Bytes over the bandwidth is a guess of the right size: they are XLA's count of bytes accessed by the
compiled gradient program at this batch size as XLA:CPU fuses it, and a GPU's compiler fuses otherwise and more.
Peaks are the vendors' data sheets: H100 SXM 989 TFLOP/s bfloat16 dense, 495 TF32, 3.35 TB/s; TPU v5e 197 TFLOP/s
bfloat16, 819 GB/s.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.config import Recipe
from engine.extractors import card, registry

CHIPS = {
    "H100 bfloat16": (989e12, 3.35e12),
    "H100 TF32": (495e12, 3.35e12),
    "TPU v5e bfloat16": (197e12, 0.819e12),
}


def bytes_of(name: str, batch: int, dtype: Any) -> float:
    """Bytes that XLA counts for a forward pass with the gradient of the input, a face."""
    entry = registry.find(name)
    graphdef, params = registry.abstract(entry.build)
    side = entry.spec.size

    def pulled(params: Any, images: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jax.vmap(lambda canvas: nnx.merge(graphdef, params)(canvas))(x).sum())(images)

    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
    images = jax.ShapeDtypeStruct((batch, side, side, 3), dtype)
    cost = jax.jit(pulled).lower(params, images).compile().cost_analysis() or {}
    return cost["bytes accessed"] / batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extractors", default=",".join(Recipe.extractors))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    recipe = Recipe(extractors=tuple(options.extractors.split(",")), steps=options.steps)
    names, turns = recipe.names, recipe.turns

    def a_face(each: Sequence[float]) -> float:
        """In all: a step is two forward passes of its turn's networks; one look in ten steps is one of all."""
        step = sum(each[index] for members in turns for index in members) / len(turns)
        return 2 * options.steps * step + (1 + options.steps / 10) * sum(each)

    each = [card(name)["gflops"] * 1e9 for name in names]
    flops = a_face(each)
    print(f"forward {sum(each) / 1e9:.2f} GFLOP a face ({', '.join(names)})")
    print(f"{options.steps} steps in {len(turns)} turns, and a look every 10: {flops / 1e9:.0f} GFLOP a face")
    rows = []
    for chip, (peak, bandwidth) in CHIPS.items():
        dtype = jnp.bfloat16 if "bfloat16" in chip else jnp.float32
        moved = a_face([bytes_of(name, options.batch, dtype) / 2 for name in names])
        compute, memory = flops / peak, moved / bandwidth
        row = {
            "chip": chip,
            "compute_ms": round(1000 * compute, 2),
            "gigabytes": round(moved / 1e9, 2),
            "memory_ms": round(1000 * memory, 2),
            "faces_per_second_ceiling": round(1 / compute),
            "faces_per_second_by_bytes": round(1 / max(compute, memory)),
        }
        rows.append(row)
        print(
            f"{chip:<17}{flops / 1e9:.0f} GFLOP / {peak / 1e12:.0f} TFLOP/s = {1000 * compute:.2f} ms, ceiling "
            f"{1 / compute:.0f} faces/s; {moved / 1e9:.1f} GB / {bandwidth / 1e12:.2f} TB/s = {1000 * memory:.2f} ms, "
            f"{1 / max(compute, memory):.0f} faces/s"
        )
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
