"""The command `cloak` with an extractor "tiny", for tests that need a process of its own: CHECKPOINT ARGUMENTS..."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import tiny

from engine import checkpoint, cli
from engine.extractors import Entry, register
from engine.extractors.registry import available

CHECKPOINT = "TINY_CHECKPOINT"
"""The variable that tells `entry` where the tiny network is saved."""


def save(path: Path) -> None:
    """Save the tiny network at `path` unless it is there."""
    if not path.exists():
        checkpoint.save(path, tiny.extractor().params)


def provide(path: Path) -> None:
    """Save the tiny network at `path` unless it is there, and register it as "tiny"."""
    save(path)
    if "tiny" not in available():
        register("tiny", _entry(path))


def entry() -> Entry:
    """The value of an entry point "tiny", for processes that a test does not start itself."""
    return _entry(Path(os.environ[CHECKPOINT]))


def _entry(path: Path) -> Entry:
    network = tiny.extractor()
    return Entry(lambda *, rngs: tiny.Net(seed=0), network.spec, network.dim, path)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background would ignore it
    provide(Path(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
