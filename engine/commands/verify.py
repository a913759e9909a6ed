"""`cloak verify`: an original and its cloaked version compared."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.commands.options import Telling
from engine.commands.outcome import FAILED, OK, print_json, usage

VERDICTS = {
    "same": "not cloaked: both show the same pixels",
    "no pair": "no photo and its cloaked version: they differ more than any cloak changes",
}
"""Verdicts that are a failure."""


def verify(
    original: Annotated[Path, Parameter(help="The photo as it was.")],
    cloaked: Annotated[Path, Parameter(help="Its cloaked version, of the same size.")],
    /,
    *,
    telling: Telling = Telling(),
) -> int:
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
        return FAILED if report.verdict in VERDICTS else OK
    dssim = "not defined" if report.dssim is None else f"{report.dssim:.5f}"
    print(f"whole photo: DSSIM {dssim}, largest change {report.max_change}, {report.changed:.1%} of pixels")
    for face in report.faces:
        x, y, width, height = map(round, face.box)
        print(
            f"face of {width} x {height} pixels, {x} from the left and {y} from the top: DSSIM {face.dssim:.5f}, "
            f"largest change {face.max_change}, shift of its embedding (0 to 2) by network:"
        )
        for name, value in face.shift.items():
            print(f"  {name} {value:.2f}")
    if not report.faces:
        print("no face was found in the original")
    if report.missing:
        print(f"not measured, as their weights are not installed (see `cloak models`): {', '.join(report.missing)}")
    if report.verdict in VERDICTS:
        print(VERDICTS[report.verdict])
        return FAILED
    return OK
