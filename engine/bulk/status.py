"""Outcome of every photo of an output folder, by all its manifests: one photo at a time, and nothing is written."""

from __future__ import annotations

import heapq
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby, starmap
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from engine.bulk.kinds import unread
from engine.bulk.manifest import Row, columns_of, naming, read_row
from engine.bulk.untouched import manifests, reading
from engine.terminal import readable

GONE = "Its cloaked file is no longer there, or has another size: the same `cloak run` makes it again."
"""The reason of a photo whose row says that it is cloaked."""
WORDS = {"failed": "FAILED", "no_face": "NOT PROTECTED", "skipped": "skipped", "cloaked": "cloaked"}


def rows(out: Path) -> Iterator[Row]:
    """Every photo's row, by the name of its output. Memory does not grow with their number.

    If two manifests have a row for one name, the newest is believed. A photo whose cloaked file is
    gone has failed, for `GONE`. Raises sqlite3.Error and OSError for a manifest that cannot be read.
    """
    with ExitStack() as stack:
        databases = [(path, stack.enter_context(reading(path))) for path in manifests(out)]
        # Of equals that of the first manifest comes first.
        merged = heapq.merge(*starmap(_ordered, databases), key=lambda entry: entry[0])
        for _, entries in groupby(merged, key=lambda entry: entry[0]):
            row = max((row for _, row in entries), key=lambda row: row.turn)
            yield replace(row, status="failed", reason=GONE) if _gone(out, row) else row


def _ordered(path: Path, database: sqlite3.Connection) -> Iterator[tuple[tuple[bool, bytes], Row]]:
    """A manifest's rows, each with its place in SQLite's order: names that are UTF-8 come before those that are not."""
    with naming(path):
        columns = columns_of(database, "photos")
        for values in database.execute("SELECT * FROM photos ORDER BY target"):
            entry = dict(zip(columns, values, strict=True))
            name = entry["target"]
            row = read_row(entry)
            yield (isinstance(name, bytes), os.fsencode(row.target)), row


def _gone(out: Path, row: Row) -> bool:
    if row.status != "cloaked":
        return False
    try:
        status = os.stat(out / row.target)
    except (OSError, ValueError):
        return True
    return not stat.S_ISREG(status.st_mode) or status.st_size != row.written


def word(row: Row) -> str:
    """Outcome of a photo, in capitals if it is `of_note`."""
    if row.status == "cloaked" and row.unprotected:
        return "PROTECTED IN PART"
    if is_unread(row):
        return "NOT READ"
    return WORDS[row.status]


def of_note(row: Row) -> bool:
    """Whether a person must know of a photo: it is not protected, or not in all of its faces."""
    return word(row).isupper()


def is_unread(row: Row) -> bool:
    """Whether it shows people and is not read."""
    return row.status == "skipped" and unread(row.reason)


def is_faceless(row: Row) -> bool:
    """Whether no face was found in it, not even one that cannot be cloaked."""
    return row.status == "no_face" and not row.unprotected


def tally(counts: Mapping[str, int], faces: int) -> str:
    """Photos by outcome, in words. faces: cloaked ones.

    Example:
        >>> tally({"cloaked": 1, "no_face": 0, "failed": 2, "skipped": 3}, 1)
        '1 cloaked (1 face), 0 without a face, 2 failed, 3 skipped'
    """
    text = f"{counts['cloaked']} cloaked ({faces} face{'' if faces == 1 else 's'}), {counts['no_face']} without a face"
    return f"{text}, {counts['failed']} failed, {counts['skipped']} skipped"


def of_note_by_kind(*, unprotected: int, faceless: int, unread: int) -> str:
    """Photos `of_note` by why they are, in words; "" without any.

    Example:
        >>> of_note_by_kind(unprotected=0, faceless=2, unread=1)
        '2 without a face, 1 not read'
    """
    kinds = {"failed or with a face that is not protected": unprotected, "without a face": faceless, "not read": unread}
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def several(out: Path) -> set[str]:
    """Places of the originals that have rows of several names. Raises as `rows`."""
    with ExitStack() as stack:
        databases = [(path, stack.enter_context(reading(path))) for path in manifests(out)]
        merged = heapq.merge(*starmap(_placed, databases))
        return {
            os.fsdecode(place)
            for place, entries in groupby(merged, key=itemgetter(0))
            if len({target for _, target in entries}) > 1
        }


def _placed(path: Path, database: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """Places of originals, each with the name of an output, in order. Rows of version 0.1 have no place."""
    with naming(path):
        if "place" in columns_of(database, "photos"):
            # As blobs, so that SQLite sorts names that are no UTF-8 as Python does.
            columns = "CAST(place AS BLOB) AS lies, CAST(target AS BLOB) AS named"
            yield from database.execute(f"SELECT {columns} FROM photos WHERE place != '' ORDER BY lies, named")


def line(row: Row, *, several: Container[str] = ()) -> str:
    """All there is to say of a photo, as one line that can steer no terminal. several: as in `named`."""
    sentences = [row.reason] if row.reason else []
    if row.faces:
        largest = "" if (dssim := largest_dssim(row)) is None else f", DSSIM {dssim:.5f}"
        sentences.insert(0, f"{len(row.faces)} face{'' if len(row.faces) == 1 else 's'}{largest}.")
    return readable(f"{word(row)} {named(row, several=several)}" + (f": {' '.join(sentences)}" if sentences else ""))


def named(row: Row, *, several: Container[str] = ()) -> str:
    """Name of a photo, and of its cloaked file if that is called otherwise or the photo is one of `several`."""
    renamed = os.path.basename(row.target) != os.path.basename(row.source)
    shown = row.status == "cloaked" and (renamed or row.at in several)
    return f"{row.named} -> {row.target}" if shown else row.named


def largest_dssim(row: Row) -> float | None:
    """The largest DSSIM of its faces, None without a cloaked one."""
    values = [value for face in row.faces if isinstance(value := face.get("dssim"), (int, float))]
    return max(values, default=None)


class Record(NamedTuple):
    """Outcome of a photo for machines. output: None without one. faces: how many. dssim: the largest of them."""

    source: str
    output: str | None
    status: str
    unprotected: bool
    faces: int
    dssim: float | None
    bytes: int
    reason: str

    @classmethod
    def of(cls, row: Row) -> Record:
        """The record of a row."""
        output = row.target if row.status == "cloaked" else None
        dssim = largest_dssim(row)
        return cls(row.named, output, row.status, row.unprotected, len(row.faces), dssim, row.written, row.reason)


@dataclass
class Totals:
    """Photos by outcome. faces: cloaked ones. unprotected: photos that failed or have a face uncloaked.

    faceless, unread: the other photos `of_note`.
    """

    counts: Counter[str] = field(default_factory=lambda: Counter(cloaked=0, no_face=0, skipped=0, failed=0))
    faces: int = 0
    dssim_max: float | None = None
    unprotected: int = 0
    faceless: int = 0
    unread: int = 0

    def add(self, row: Row) -> None:
        """One more."""
        self.counts[row.status] += 1
        self.unprotected += row.unprotected
        self.faceless += is_faceless(row)
        self.unread += is_unread(row)
        if row.status == "cloaked":
            self.faces += len(row.faces)
            values = [value for value in (self.dssim_max, largest_dssim(row)) if value is not None]
            self.dssim_max = max(values, default=None)

    @property
    def worked(self) -> int:
        """Photos that were not passed by."""
        return self.counts.total() - self.counts["skipped"]

    def as_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            "counts": dict(self.counts),
            "faces": self.faces,
            "dssim_max": self.dssim_max,
            "unprotected": self.unprotected,
            "faceless": self.faceless,
            "unread": self.unread,
        }

    def __str__(self) -> str:
        of_note = of_note_by_kind(unprotected=self.unprotected, faceless=self.faceless, unread=self.unread)
        return f"{tally(self.counts, self.faces)}." + (f" Not protected: {of_note}." if of_note else "")
