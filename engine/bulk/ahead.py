"""A process that compiles for another one: half of what the first call on a machine has to wait for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Any

from engine.config import Recipe


def helper(recipe: Recipe, size: int) -> subprocess.Popen:
    """Begin such a process, for `engine.programs.ahead`. size: faces at once. Raises OSError.

    It ends with this process, however this one ends: its input is a pipe that nobody writes to.
    """
    order = json.dumps({"recipe": asdict(recipe), "size": size})
    quiet = subprocess.DEVNULL
    # -P: modules that lie in the current folder, among somebody's photos, are not the engine's.
    command = [sys.executable, "-P", "-m", __name__, order]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)


def main() -> None:
    """Make the missing programs of the order that is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # it says nothing when the user ends the run
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    order = json.loads(sys.argv[1])
    settings: dict[str, Any] = order["recipe"]
    recipe = Recipe(**settings | {"extractors": tuple(settings["extractors"])})

    from engine import programs, sharding
    from engine.bulk.batching import Batcher, loaded

    with programs.kept_in(sharding.configure()):
        batcher = Batcher(recipe, loaded(recipe), size=order["size"], mesh=sharding.faces_mesh(1))
        programs.from_the_end(batcher.programs())


def _end_with_parent() -> None:
    os.read(0, 1)  # until its other end is closed; `sys.stdin` would be locked when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    main()
