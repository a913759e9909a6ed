"""`cloak status`: what became of every photo of an output folder."""

from __future__ import annotations

import csv
import os
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine import terminal
from engine.commands.options import Telling
from engine.commands.outcome import FAILED, NOTHING, OK, interrupted, print_json, say, usage

FORMULA = ("=", "+", "-", "@")
"""Characters that a spreadsheet takes for the beginning of a formula."""


@Parameter(name="*")
@dataclass(frozen=True)
class Lines(Telling):
    """The same, but for what `--json` prints."""

    json: Annotated[
        bool,
        Parameter(
            negative="", help="JSON for machines: an object a photo, each a line, and one of the totals at the end."
        ),
    ] = False


def status(
    out: Annotated[Path, Parameter(help="The output folder of `cloak run`.")],
    /,
    *,
    failed: Annotated[
        bool,
        Parameter(
            negative="",
            help="Only photos that are not protected: failed, in part, without a face, or not read, as films are. One "
            "without a face or not read is no failure for the exit code.",
        ),
    ] = False,
    table: Annotated[
        bool, Parameter("--csv", negative="", help="A table with a row a photo; the totals go to stderr.")
    ] = False,
    telling: Lines = Lines(),
) -> int:
    """Do it. Returns the exit code."""
    from engine import faults
    from engine.bulk import status as photos
    from engine.bulk.inputs import OWN_FOLDER
    from engine.bulk.untouched import manifests

    if telling.json and table:
        return usage("--json and --csv exclude each other", as_json=True)
    try:
        if not manifests(out):
            if (out / OWN_FOLDER).is_dir():
                os.listdir(out / OWN_FOLDER)  # says why it shows no manifest, if it may not be read
            return usage(f"{out}: no `cloak run` has written there: name its --out", as_json=telling.json)
        totals = photos.Totals()
        several = () if table or telling.json else photos.several(out)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        if table:
            writer.writerow(photos.Record._fields)
        for row in photos.rows(out):
            totals.add(row)
            if failed and not photos.of_note(row):
                continue
            if table:
                writer.writerow(map(_cell, photos.Record.of(row)))
            elif telling.json:
                print_json(photos.Record.of(row)._asdict())
            else:
                print(photos.line(row, several=several))
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


def _cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula and no terminal for an order."""
    if not isinstance(value, str):
        return value
    text = terminal.readable(value)
    return f"'{text}" if text.startswith(FORMULA) else text
