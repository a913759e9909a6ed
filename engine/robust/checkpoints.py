"""Checkpoints of a training: everything that it needs to go on exactly, each in a numbered folder of its own.

A folder appears under its name only when it is complete. The one before is kept until then, so that a process may be
killed at any moment.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from engine import checkpoint
from engine.robust.guard import History
from engine.robust.train import State

KEPT = 2
_NAME = re.compile(r"step-(\d{8})")


class Position(NamedTuple):
    """How far a training is. step: updates done. best, best_step: the highest score so far and when it was reached.
    history: the guard's.
    """

    step: int
    best: float
    best_step: int
    history: History


def steps(folder: Path) -> list[int]:
    """The steps at which there is a complete checkpoint, in order."""
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for match in matches if match)


def save(folder: Path, state: State, position: Position) -> None:
    """Write a checkpoint, then remove all but the last KEPT."""
    tree = _tree(jax.tree.map(np.asarray, state), position)
    path = _path(folder, position.step)
    if path.exists():  # after a roll-back the step may come again; what is there is of the same step or unwanted
        shutil.rmtree(path)
    checkpoint.save(path, tree, exact=set(checkpoint.flatten(tree)))
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(_path(folder, old))


def restore(folder: Path, step: int, like: State) -> tuple[State, Position]:
    """The checkpoint of a step; like: a state of the same training. Arrays come as NumPy.

    Raises `checkpoint.CheckpointError` if it does not fit.
    """
    tree = _tree(like, Position(0, 0.0, 0, History(0.0, 0.0, 0)))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    restored, _ = checkpoint.restore(_path(folder, step), shapes)
    numbers = restored["position"]
    history = History(float(numbers["lowest_shift"]), float(numbers["highest_accuracy"]), int(numbers["collapses"]))
    position = Position(int(numbers["step"]), float(numbers["best"]), int(numbers["best_step"]), history)
    return restored["state"], position


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _tree(state: State, position: Position) -> dict[str, Any]:
    # Python's floats are float64, and stay it: a best score that was rounded would not equal the one it came from.
    history = position.history
    return {
        "state": state,
        "position": {
            "step": np.array(position.step, np.int64),
            "best": np.array(position.best, np.float64),
            "best_step": np.array(position.best_step, np.int64),
            "lowest_shift": np.array(history.shift, np.float64),
            "highest_accuracy": np.array(history.accuracy, np.float64),
            "collapses": np.array(history.collapses, np.int64),
        },
    }
