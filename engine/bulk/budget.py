"""How much of the machine photos may take: one thread for each core, and a budget of memory.

The budget is in bytes, since one photo may be as large as a hundred others.
"""

from __future__ import annotations

import math
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from engine import photo as photos
from engine.bulk.prepare import Source
from engine.photo.footprint import of_pixels
from engine.types import Photo

SHARE = 4
"""The budget is one of so many parts of the memory that is available."""
LEAST = 64 << 20
"""Bytes of the smallest budget; one photo at a time is let in whatever it takes."""

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """CPU cores that this process may use: of the machine, its affinity (taskset) and its container."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        counts += [] if quota == "max" else [math.ceil(int(quota) / int(period))]
    return max(min(counts), 1)


def footprint(source: Source) -> int:
    """About how many bytes a photo takes while it is worked on, told from its header or size. Never raises."""
    if isinstance(source, (Path, bytes)):
        return photos.footprint(source)
    if isinstance(source, Image.Image):
        return of_pixels(source.width * source.height)
    pixels = source.pixels if isinstance(source, Photo) else source
    return of_pixels(math.prod(pixels.shape[:2])) if isinstance(pixels, np.ndarray) else 0


def available() -> int:
    """Bytes of memory that this process could still take: of the machine, its container and its limits."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        amounts += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
    with suppress(OSError, ValueError):
        amounts.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    with suppress(OSError, ValueError):
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        amounts += [limit - taken] if limit != resource.RLIM_INFINITY else []
    return max(min(amounts), 0)


def allowed() -> int:
    """Bytes that all photos in flight may take together."""
    return max(available() // SHARE, LEAST)


class Budget:
    """Bytes for photos, to be held by threads that do nothing else meanwhile than to work on one."""

    def __init__(self, size: int | None = None) -> None:
        """size: in bytes, by default what is `allowed` now."""
        self.size = allowed() if size is None else size
        self._taken = 0
        self._free = threading.Condition()

    @contextmanager
    def hold(self, cost: int) -> Iterator[None]:
        """Wait until there is room for so many bytes, or nobody else has any; give them back after the block."""
        with self._free:
            self._free.wait_for(lambda: not self._taken or self._taken + cost <= self.size)
            self._taken += cost
        try:
            yield
        finally:
            with self._free:
                self._taken -= cost
                self._free.notify_all()
