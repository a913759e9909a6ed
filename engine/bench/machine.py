"""The machine that was measured: what it is, how busy it was, and how much memory a block of work took at most."""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from engine import __version__

INTERVAL = 0.1
"""Seconds between two looks at the memory."""


def describe() -> dict[str, Any]:
    """Conditions of a figure besides the program: device, host, versions, flags, and the load at this moment."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu(),
        "load": load(),
        "engine": __version__,
        "python": platform.python_version(),
        "jax": version("jax"),
        "jaxlib": version("jaxlib"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def load() -> float:
    """Processes that wanted a core, mean of the last minute; over the number of cores, times are of a busy machine."""
    return round(os.getloadavg()[0], 2)


def peak_rss() -> float:
    """The most memory, in MB, that this process ever had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


@dataclass
class Memory:
    """The peak memory in MB while a block ran, None if it is not known. host: resident memory of this process, sampled.

    device: peak memory in use on one device since the process began. Devices keep no other peak.
    """

    host: float | None = None
    device: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Entries for a row."""
        return {"host_mb": self.host, "device_mb": self.device}


@contextmanager
def memory() -> Iterator[Memory]:
    """Samples the memory while its block runs; the figures are there after it."""
    usage, ended = Memory(), threading.Event()

    def sample() -> None:
        while True:
            resident = _resident()
            if resident is not None:
                usage.host = max(usage.host or 0.0, resident)
            if ended.wait(INTERVAL):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        ended.set()
        thread.join()
        usage.device = _in_use()


def _resident() -> float | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * resource.getpagesize() / 1e6, 1)


def _in_use() -> float | None:
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return round(max(known) / 1e6, 1) if known else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
