"""Limits of the device, the ceiling of every other figure: products of large matrices, copies of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from engine import sharding
from engine.bench.timing import Times, figure, times
from engine.cloak.objective import Extractors

if TYPE_CHECKING:
    from engine.bench.plan import Plan

CPU_SIDE, ACCELERATOR_SIDE = 2048, 8192
"""Sides of the matrices: a product must take far longer than its call, some tens of microseconds."""
CPU_COPIED, ACCELERATOR_COPIED = 32 * 1024 * 1024, 256 * 1024 * 1024
"""Numbers of four bytes; far more than any cache holds."""


class Ceiling(NamedTuple):
    """what: "product" or "copy". precision: JAX's name, or bfloat16. best, median: GFLOP/s, or GB/s read and written.

    spread: (most - least) / median, of the seconds.
    """

    what: str
    precision: str
    best: float
    median: float
    spread: float


def _sizes() -> tuple[int, int]:
    """Side of the matrices and numbers copied."""
    on_cpu = jax.default_backend() == "cpu"
    return (CPU_SIDE, CPU_COPIED) if on_cpu else (ACCELERATOR_SIDE, ACCELERATOR_COPIED)


def measure(*, repeats: int) -> list[Ceiling]:
    """The ceilings of the first device, by jitted JAX.

    On an accelerator also in full float32, and in bfloat16 if that suits it.
    """
    kinds = ["default"] if jax.default_backend() == "cpu" else ["default", "highest"]
    kinds += ["bfloat16"] if sharding.precision() == "bfloat16" else []
    products = [product(kind, repeats=repeats) for kind in kinds]
    _, count = _sizes()
    key = jnp.zeros(count, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return [*products, _rate("copy", "float32", 2 * 4 * count, times(lambda: copy(key), repeats=repeats))]


def product(kind: str = "default", *, repeats: int) -> Ceiling:
    """The ceiling by a product of two square matrices. kind: as in `Ceiling.precision`."""
    dtype = jnp.bfloat16 if kind == "bfloat16" else jnp.float32
    side, _ = _sizes()
    matrix = jax.random.uniform(jax.random.key(0), (side, side), jnp.float32).astype(dtype)
    precision = "highest" if kind == "highest" else "default"
    # Accumulated in float32, or a CPU that has units for bfloat16 does not use them.
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision, preferred_element_type=jnp.float32))
    return _rate("product", kind, 2 * side**3, times(lambda: multiply(matrix, matrix), repeats=repeats))


def _rate(kind: str, precision: str, work: float, measured: Times) -> Ceiling:
    return Ceiling(
        kind,
        precision,
        figure(work / measured.least / 1e9),
        figure(work / measured.median / 1e9),
        figure(measured.spread),
    )


def of_products(ceilings: list[Ceiling], extractors: Extractors, devices: int) -> float:
    """GFLOP/s that these networks cannot exceed. The devices of a CPU share its cores; accelerators add up."""
    kind = "bfloat16" if all(extractor.precision == "bfloat16" for extractor in extractors) else "default"
    rates = {ceiling.precision: ceiling.best for ceiling in ceilings if ceiling.what == "product"}
    return rates.get(kind, rates["default"]) * (1 if jax.default_backend() == "cpu" else devices)


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """The section `peak`."""
    side, count = _sizes()
    for ceiling in plan.ceilings:
        unit = "GFLOP/s" if ceiling.what == "product" else "GB/s read and written"
        label = (
            f"{side}^3 {ceiling.what}" if ceiling.what == "product" else f"{ceiling.what} of {4 * count // 2**20} MiB"
        )
        yield {
            "what": label,
            "precision": ceiling.precision,
            "unit": unit,
            "best": ceiling.best,
            "median": ceiling.median,
            "spread": ceiling.spread,
        }
