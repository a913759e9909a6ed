"""The record of a run, in its output folder: what became of every input, so that a second call resumes.

SQLite in WAL mode. A row is written after the photo's file is in place; whatever is killed between the two is done
again, and comes out the same.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from engine.bulk.inputs import OWN_FOLDER

Status = Literal["cloaked", "no_face", "skipped", "failed"]


@dataclass(frozen=True)
class Row:
    """What became of one input.

    target: path of the output, relative to the output folder. source: path of the input. size, modified: of the
    source, to see whether it changed. key: hash of photo, settings and weights; "" where the photo could not be read.
    reason: why it is not cloaked, or what to know about it. faces: one dictionary each. written: the output's bytes.
    """

    target: str
    source: str
    size: int
    modified: int
    sha256: str
    key: str
    status: Status
    reason: str = ""
    written: int = 0
    faces: list[dict[str, object]] = field(default_factory=list)


class BusyError(RuntimeError):
    """Another run is writing to the same output folder."""


class Manifest:
    """The manifest of one output folder, held by one run at a time. A context manager."""

    def __init__(self, out: Path, *, shard: str = "") -> None:
        """Opens or creates it. shard: names a manifest of its own. Raises BusyError while another run holds it."""
        folder = out / OWN_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        name = f"manifest{shard and '-' + shard}"
        self._lock = os.open(folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise BusyError(f"another run is writing to {out}: wait for it, or choose another --out") from None
        self._database = sqlite3.connect(folder / f"{name}.sqlite", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS photos (target TEXT PRIMARY KEY, source TEXT, size INTEGER, modified INTEGER,"
            " sha256 TEXT, key TEXT, status TEXT, reason TEXT, written INTEGER, faces TEXT)"
        )

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        os.close(self._lock)

    def get(self, target: str) -> Row | None:
        """The row of one output, or None."""
        found = self._database.execute("SELECT * FROM photos WHERE target = ?", (target,)).fetchone()
        return None if found is None else _row(found)

    def put(self, row: Row) -> None:
        """Write or replace a row, at once."""
        values = [json.dumps(value) if isinstance(value, list) else value for value in asdict(row).values()]
        marks = ", ".join("?" * len(values))
        self._database.execute(f"INSERT OR REPLACE INTO photos VALUES ({marks})", values)

    def rows(self) -> Iterator[Row]:
        """All rows, by target."""
        for found in self._database.execute("SELECT * FROM photos ORDER BY target").fetchall():
            yield _row(found)


def _row(found: tuple) -> Row:
    *values, faces = found
    return Row(*values, faces=json.loads(faces))
