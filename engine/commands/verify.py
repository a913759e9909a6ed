"""`cloak verify`: an original and its cloaked version compared."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from engine.commands.options import Telling
from engine.commands.outcome import OK, print_json, usage


def verify(original: Path, cloaked: Path, /, *, telling: Telling = Telling()) -> int:
    """Do it. Returns the exit code."""
    from engine.bulk.verify import verify as compare
    from engine.checkpoint import CheckpointError
    from engine.types import PhotoError

    try:
        report = compare(original, cloaked)
    except (PhotoError, CheckpointError, ValueError) as error:
        return usage(str(error), as_json=telling.json)
    if telling.json:
        print_json(asdict(report))
        return OK
    print(f"whole photo: DSSIM {report.dssim:.5f}, largest change {report.max_change}, {report.changed:.1%} of pixels")
    for face in report.faces:
        shift = ", ".join(f"{name} {value:.2f}" for name, value in face.shift.items())
        print(f"face at {face.box}: DSSIM {face.dssim:.5f}, largest change {face.max_change}, shift {shift}")
    if not report.faces:
        print("no face was found in the original")
    if report.missing:
        print(f"not measured, as their weights are not installed (see `cloak models`): {', '.join(report.missing)}")
    return OK
