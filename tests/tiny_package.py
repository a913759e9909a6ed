"""An installed package that brings the extractor "tiny", for processes that no test starts itself: workers of Ray."""

from __future__ import annotations

import os
from pathlib import Path

import tiny_cloak
from conftest import REPOSITORY


def install(folder: Path) -> None:
    """Write the tiny network, and beside it the package whose entry point names it."""
    tiny_cloak.save(folder / "tiny")
    package = folder / "package" / "tiny_extractor-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-extractor\nVersion: 0\n")
    (package / "entry_points.txt").write_text("[fawkes_engine.extractors]\ntiny = tiny_cloak:entry\n")


def environment(folder: Path, *more: Path) -> dict[str, str]:
    """The variables of a process that knows the package and its own Ray alone; more: other places of modules.

    Its cache of programs is beside the package, since processes that are killed may leave half an entry. Those compile
    quickly: there are many of them, and each runs them shortly.
    """
    path = [REPOSITORY, REPOSITORY / "tests", *more, folder / "package"]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_USAGE_STATS_ENABLED": "0",
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        tiny_cloak.CHECKPOINT: str(folder / "tiny"),
    }
