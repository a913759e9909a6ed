"""Faces per second and the quality that they get: whole cloaks, and cloaks that stop once the shift is enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from engine import compiles
from engine.bench import machine
from engine.bench.plan import Plan
from engine.bench.timing import figure
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Lane, Usage
from engine.config import Recipe

GOALS = (0.5, 0.8, 1.0, 1.2)
"""Shifts, the extractors' weighted mean."""


class Solved(NamedTuple):
    """seconds: of wall time, from the first face's entrance to the last one's cloak. chunks: of each call's. compiled:
    programs in that time, none if all is well.
    """

    cloaks: list[FaceCloak]
    seconds: float
    chunks: list[float]
    usage: Usage
    memory: machine.Memory
    compiled: int


def solved(batcher: Batcher, jobs: list[FaceJob]) -> Solved:
    """All faces through one lane; all are there from the start. Everything is compiled before."""
    batcher.solve(jobs[:1])
    lane: Lane[int] = batcher.lane()
    for index, job in enumerate(jobs):
        lane.add(index, job)
    cloaks: dict[int, FaceCloak] = {}
    chunks: list[float] = []
    with machine.memory() as memory, compiles.record() as compiled:
        begun = time.perf_counter()
        while lane.busy:
            before = lane.usage.seconds
            cloaks.update(lane.advance())
            chunks.append(lane.usage.seconds - before)
        seconds = time.perf_counter() - begun
    done = [cloaks[index] for index in range(len(jobs))]
    return Solved(done, seconds, chunks, lane.usage, memory, compiled.as_dict()["programs"])


def _speed(result: Solved, batcher: Batcher, devices: int) -> dict[str, Any]:
    count = len(result.cloaks)
    return {
        "batch": batcher.size,
        "devices": devices,
        "faces": count,
        "seconds": figure(result.seconds),
        "faces_per_s": figure(count / result.seconds),
        "s_per_face": figure(result.seconds / count),
        "faces_per_s_per_device": figure(count / result.seconds / devices),
        "occupancy": figure(result.usage.worked / result.usage.slot_steps),
        "compiled": result.compiled,
    }


def _quality(result: Solved, recipe: Recipe) -> dict[str, Any]:
    dssim = [cloak.dssim for cloak in result.cloaks]
    shifts = np.array([cloak.shift for cloak in result.cloaks])
    return {
        "dssim_median": figure(median(dssim)),
        "dssim_max": figure(max(dssim)),
        "rho": recipe.rho,
        "shift": {name: figure(value) for name, value in zip(recipe.names, np.median(shifts, axis=0), strict=True)},
        "steps": median(cloak.steps for cloak in result.cloaks),
        **result.memory.as_dict(),
    }


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """The section `solve`."""
    for batcher, devices in plan.batchers():
        result = solved(batcher, plan.jobs(batcher))
        yield {
            **_speed(result, batcher, devices),
            "chunk_s": figure(median(result.chunks)),
            "chunk_s_max": figure(max(result.chunks)),
            "between_s": figure(result.usage.between),
            **_quality(result, plan.recipe),
        }


def goals(plan: Plan) -> Iterator[dict[str, Any]]:
    """The section `goal`, at the largest batch. seconds_to_goal: that a face was in its slot, the median."""
    devices = plan.devices[0]
    weights = np.array(plan.recipe.weights) / sum(plan.recipe.weights)
    for goal in GOALS:
        batcher = plan.batcher(plan.widest, devices, enough=goal)
        result = solved(batcher, plan.jobs(batcher))
        means = np.array([cloak.shift for cloak in result.cloaks]) @ weights
        # The device sums otherwise: a face that it let go at the goal may be a rounding error short of it here.
        reached = means >= goal * (1 - 1e-6)
        quality = _quality(result, batcher.recipe)
        each = result.usage.seconds / (result.usage.slot_steps / batcher.size)
        yield {
            "goal": goal,
            **_speed(result, batcher, devices),
            "reached": figure(float(reached.mean())),
            "steps_median": quality["steps"],
            "seconds_to_goal": figure(each * quality["steps"]),
            **{name: value for name, value in quality.items() if name != "steps"},
        }
