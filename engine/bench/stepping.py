"""One solver step and one forward pass, by batch and devices, beside the device's ceiling: speed without quality."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from engine.bench import ceiling, machine
from engine.bench.plan import Plan
from engine.bench.timing import figure, times
from engine.bulk.batching import Batcher, FaceJob
from engine.cloak import solver
from engine.extractors.card import gflops

NO_QUALITY = "speed of a step alone, no quality"


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """The section `step`. A step is a forward pass and the gradient of its input: two forward passes' operations."""
    each = [gflops(extractor.graphdef, extractor.params, extractor.spec.size) for extractor in plan.extractors]
    forward, turns = sum(each), plan.recipe.turns
    used = sum(each[index] for members in turns for index in members) / len(turns)
    share = "share_of_peak" if jax.default_backend() == "cpu" else "mfu"
    # Accelerators run a chunk in one call, the CPU a step a call (`solver.advance`); every turn comes equally often.
    count = len(turns) if jax.default_backend() == "cpu" else math.lcm(solver.CHUNK, len(turns))
    for batcher, devices in plan.batchers():
        peak = ceiling.of_products(plan.ceilings, plan.extractors, devices)
        with machine.memory() as memory:
            step, once = _times(batcher, plan.some(batcher.size), count=count, repeats=plan.settings.repeats)
        faces = batcher.size
        rate = 2 * used * faces * count / step.median
        yield {
            "batch": faces,
            "devices": devices,
            "step_ms": figure(1000 * step.median / faces / count),
            "step_ms_min": figure(1000 * step.least / faces / count),
            "step_spread": figure(step.spread),
            "forward_ms": figure(1000 * once.median / faces),
            "forward_ms_min": figure(1000 * once.least / faces),
            "forward_spread": figure(once.spread),
            "step_gflop": figure(2 * used),
            "step_gflops": figure(rate),
            "forward_gflops": figure(forward * faces / once.median),
            "peak_gflops": figure(peak),
            share: figure(rate / peak),
            **memory.as_dict(),
            "quality": NO_QUALITY,
        }


def _times(batcher: Batcher, jobs: list[FaceJob], *, count: int, repeats: int) -> tuple[Any, Any]:
    recipe, extractors = batcher.recipe, batcher.extractors
    batch = batcher.put(
        solver.Batch(
            canvas=jnp.asarray(np.stack([job.cut.canvas for job in jobs])),
            mask=jnp.asarray(np.stack([job.cut.mask for job in jobs])),
            region=jnp.asarray(np.stack([job.cut.region for job in jobs])),
            target=tuple(jnp.asarray(np.stack(column)) for column in zip(*(job.target for job in jobs), strict=True)),
            grey=jnp.asarray([job.grey for job in jobs]),
            identity=jnp.asarray([(0, 0, 0, job.index) for job in jobs], jnp.uint32),
        )
    )
    clean = solver.embed(extractors, batch.canvas)
    slots = batcher.put(solver.begin(recipe, batch, clean, batcher.put(np.ones(len(jobs), bool))))

    def step() -> solver.Slots:
        nonlocal slots  # a step uses its slots up
        slots = solver.steps(recipe, extractors, slots, count)
        return slots

    step_times = times(step, repeats=repeats)
    return step_times, times(lambda: solver.embed(extractors, batch.canvas), repeats=repeats)
