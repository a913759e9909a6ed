"""Output and records of a training: a file of JSON lines, one line of text for a person, a plot at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import files
from engine.robust.validation import Validation


class Log:
    """`log.jsonl` of a training: rows of figures, each with its step; a row with "validation" has a validation."""

    def __init__(self, path: Path, *, after: int) -> None:
        """after: rows of later steps are dropped, and will come again.

        They are of a training that was stopped before its next checkpoint.
        """
        self.path = path
        rows = [row for row in read(path) if row["step"] <= after]
        files.write(path, "".join(json.dumps(row) + "\n" for row in rows).encode(), mode=None)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a killed process did not finish is not one."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def line(row: Mapping[str, Any], *, steps: int) -> str:
    """A row as a person reads it."""
    begin = f"step {row['step']} of {steps}"
    if "validation" in row:
        validation = Validation(**row["validation"])
        return (
            f"{begin}: held out: accuracy {validation.accuracy:.1%} clean, {validation.robust_accuracy:.1%} robust; "
            f"cosine to the clean extractor {validation.cosine:.3f}; shift {validation.shift:.3f}; "
            f"score {validation.score:.3f}"
            + (", the best so far" if row.get("best") else "")
            + (", COLLAPSED: back to the last checkpoint with smaller steps" if row.get("collapsed") else "")
        )
    terms = ", ".join(f"{name} {value:.4f}" for name, value in row["figures"].items())
    return f"{begin}: {terms}; {row['images_per_second']:.2f} images/s, {duration(row['seconds_left'])} left"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(5400)
        '1.5 h'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def plot(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Loss, accuracy on the people held out, and cosine and shift, over the steps; SVG or PNG by the path's suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 8.0), layout="constrained")
    loss, accuracy, moved = figure.subplots(3, 1, sharex=True)
    learned = [row for row in rows if "figures" in row]
    for name in learned[0]["figures"] if learned else ():
        if name != "shift":
            loss.plot([row["step"] for row in learned], [row["figures"][name] for row in learned], label=name)
    seen = [row for row in rows if "validation" in row]
    for axes, names in ((accuracy, ("accuracy", "robust_accuracy")), (moved, ("cosine", "shift", "robust_margin"))):
        for name in names:
            values = [row["validation"][name] for row in seen]
            axes.plot([row["step"] for row in seen], values, marker="o", markersize=3, label=name.replace("_", " "))
    loss.set_title(title)
    loss.set_ylabel("loss, training")
    accuracy.set_ylabel("accuracy, held out")
    accuracy.set_ylim(-0.02, 1.02)
    moved.set_ylabel("cosine and distance, held out")
    moved.set_xlabel("step")
    for axes in (loss, accuracy, moved):
        if axes.lines:
            axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path)
