"""`cloak status`: what became of every photo of an output folder."""

from __future__ import annotations

import csv
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from engine import faults, terminal
from engine.bulk import status as photos
from engine.bulk.manifest import Row
from engine.bulk.untouched import manifests
from engine.commands.options import Telling
from engine.commands.outcome import FAILED, NOTHING, OK, interrupted, print_json, say, usage

COLUMNS = ("source", "output", "status", "unprotected", "faces", "dssim", "bytes", "reason")
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""


def status(
    out: Annotated[Path, Parameter(help="The output folder of `cloak run`.")],
    /,
    *,
    failed: Annotated[
        bool, Parameter(negative="", help="Only photos that failed or have a face that is not protected.")
    ] = False,
    table: Annotated[
        bool, Parameter("--csv", negative="", help="A table with a row a photo; the totals go to stderr.")
    ] = False,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    if telling.json and table:
        return usage("--json or --csv, not both", as_json=True)
    try:
        if not manifests(out):
            return usage(f"{out}: no `cloak run` has written there: name its --out", as_json=telling.json)
        show = _as_json if telling.json else _table() if table else _as_text
        totals = photos.Totals()
        for row in photos.rows(out):
            totals.add(row)
            if row.unprotected or not failed:
                show(row)
    except (sqlite3.Error, OSError) as error:
        return usage(f"{out}: a manifest in it cannot be read ({faults.words(error)})", as_json=telling.json)
    except KeyboardInterrupt:
        return interrupted("Nothing was changed.", as_json=telling.json)
    if telling.json:
        print_json(totals.as_dict())
    else:
        (say if table else print)(str(totals))
    if totals.unprotected:
        return FAILED
    return OK if totals.worked else NOTHING


def _as_text(row: Row) -> None:
    print(photos.line(row))


def _as_json(row: Row) -> None:
    print_json({**_columns(row), "faces": row.faces})


def _columns(row: Row) -> dict[str, Any]:
    values = (
        row.source,
        row.target if row.status == "cloaked" else None,
        row.status,
        row.unprotected,
        len(row.faces),
        photos.largest_dssim(row),
        row.written,
        row.reason,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _table() -> Callable[[Row], None]:
    """What writes a row of the table; its head is written at once."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(row: Row) -> None:
        writer.writerow([_cell(value) for value in _columns(row).values()])

    return write


def _cell(value: object) -> object:
    """A value as no spreadsheet takes it for a formula and no terminal for an order."""
    if not isinstance(value, str):
        return value
    text = terminal.readable(value)
    return f"'{text}" if text.startswith(FORMULA) else text
