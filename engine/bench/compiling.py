"""Seconds to trace, lower and compile each program, and to read it from the persistent cache the next time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from engine import compiles
from engine.bench.plan import Plan
from engine.bench.timing import figure

SMALL = 0.01
"""Share of all seconds under which a program gets no row of its own."""


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """The section `compile`: what one face needs, at the largest batch, with an empty cache and with a filled one."""
    devices = plan.devices[0]
    plan.batcher(plan.widest, devices)  # copying the weights may compile, which is not the solver's
    with _empty_cache():
        cold, warm = _needed(plan, devices), _needed(plan, devices)
    total = sum(program.seconds for program in cold.values())
    shown = [name for name, program in cold.items() if program.seconds >= SMALL * total]
    rest = [name for name in cold if name not in shown]
    groups = [*((name, [name]) for name in shown), (f"{len(rest)} others", rest), ("all", [*cold])]
    for title, names in groups:
        if not names:
            continue
        some = [cold[name] for name in names]
        again = [warm[name] for name in names if name in warm]
        yield {
            "program": title,
            "batch": plan.widest,
            "devices": devices,
            "made": sum(program.made for program in some),
            "trace_s": figure(sum(program.trace_seconds + program.lower_seconds for program in some)),
            "cold_s": figure(sum(program.compile_seconds + program.load_seconds for program in some)),
            "warm_s": figure(sum(program.compile_seconds + program.load_seconds for program in again)),
            "warm_trace_s": figure(sum(program.trace_seconds + program.lower_seconds for program in again)),
            "from_cache": sum(program.loaded for program in again),
        }


def _needed(plan: Plan, devices: int) -> dict[str, compiles.Program]:
    jax.clear_caches()
    compilation_cache.reset_cache()
    with compiles.record() as recorder:
        plan.batcher(plan.widest, devices).solve(plan.some(1))
    return recorder.made


@contextmanager
def _empty_cache() -> Iterator[None]:
    """A persistent cache of its own that keeps everything; the one there was is back after it."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": 0,
        }
        before = {name: jax.config.values[name] for name in wanted}
        try:
            for name, value in wanted.items():
                jax.config.update(name, value)
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
