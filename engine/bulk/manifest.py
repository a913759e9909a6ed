"""The record of a run, in its output folder: what became of every input, so that a second call resumes.

SQLite in WAL mode. A row is written after the photo's file is in place; whatever is killed between the two is done
again, and comes out the same.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

from engine.bulk.inputs import OWN_FOLDER

Status = Literal["cloaked", "no_face", "skipped", "failed"]
ORDER: tuple[Status, ...] = ("failed", "no_face", "skipped", "cloaked")
"""What a person must know of comes first."""


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

    def intact(self, out: Path) -> bool:
        """Whether its output is there as it was written; True where none was to be."""
        if self.status != "cloaked":
            return True
        file = out / self.target
        return file.is_file() and file.stat().st_size == self.written


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
        found = self._database.execute("SELECT * FROM photos WHERE target = ?", (_stored(target),)).fetchone()
        return None if found is None else _row(found)

    def put(self, *rows: Row) -> None:
        """Write or replace rows, at once and all or none."""
        marks = ", ".join("?" * len(fields(Row)))
        values = ([_stored(value) for value in asdict(row).values()] for row in rows)
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT OR REPLACE INTO photos VALUES ({marks})", values)

    def rows(self) -> Iterator[Row]:
        """All rows, by target."""
        for found in self._database.execute("SELECT * FROM photos ORDER BY target").fetchall():
            yield _row(found)


class Survey:
    """All rows of a folder's manifests, those of shards too, as they are at one moment. A context manager.

    Only reads, and takes no lock: a run may be writing. Where two manifests have a row for one output, that of the
    manifest written to last counts.
    """

    def __init__(self, out: Path) -> None:
        """Opens what is there, which may be nothing. Raises sqlite3.Error for a manifest that cannot be read."""
        paths = sorted((out / OWN_FOLDER).glob("manifest*.sqlite"), key=_last_written)
        self._databases = [
            sqlite3.connect(f"file:{quote(os.fsencode(path.resolve()))}?mode=rw", uri=True, isolation_level=None)
            for path in paths
        ]
        self._chosen: dict[str | bytes, int] = {}
        for index, database in enumerate(self._databases):
            database.execute("BEGIN")  # one snapshot for all that follows
            self._chosen.update((target, index) for (target,) in database.execute("SELECT target FROM photos"))

    def __enter__(self) -> Survey:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for database in self._databases:
            database.close()

    def rows(self) -> Iterator[Row]:
        """One at a time: what failed first, then photos without a face, skipped ones, cloaked ones; by target."""
        merged = heapq.merge(*map(self._own, range(len(self._databases))), key=lambda pair: pair[0])
        return (row for _, row in merged)

    def _own(self, index: int) -> Iterator[tuple[tuple[int, bytes], Row]]:
        rank = " ".join(f"WHEN '{status}' THEN {place}" for place, status in enumerate(ORDER))
        query = f"SELECT CASE status {rank} END AS rank, * FROM photos ORDER BY rank, CAST(target AS BLOB)"
        for place, *found in self._databases[index].execute(query):
            if self._chosen[found[0]] == index:
                row = _row(tuple(found))
                yield (place, os.fsencode(row.target)), row


def _last_written(path: Path) -> int:
    log = path.with_name(path.name + "-wal")
    return max(one.stat().st_mtime_ns for one in (path, log) if one.exists())


def _stored(value: object) -> object:
    """As SQLite takes it: a name that is no UTF-8 as its bytes."""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return os.fsencode(value)
    return value


def _row(found: tuple) -> Row:
    values: list[Any] = [os.fsdecode(value) if isinstance(value, bytes) else value for value in found]
    return Row(*values[:-1], faces=json.loads(values[-1]))
