"""Seconds of repeats: after a warm-up, until the device is done, as median, best and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax


class Times(NamedTuple):
    """median, least: seconds. spread: (most - least) / median."""

    median: float
    least: float
    spread: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """The times from the seconds of repeats."""
        median = statistics.median(seconds)
        return cls(median, min(seconds), (max(seconds) - min(seconds)) / median)


def times(work: Callable[[], Any], *, repeats: int) -> Times:
    """The times of `work`, which returns what has to be ready; called once more before, to be compiled."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - begun)
    return Times.of(seconds)


def figure(value: float) -> float:
    """Six digits of it: no timing has more, and rates and their inverses still agree."""
    return float(f"{value:.6g}")
