"""The record of a run, in its output folder: what became of every input, so that a second call resumes.

SQLite in WAL mode. A row is written after the photo's file is in place; whatever is killed between the two is done
again, and comes out the same.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

from engine import files
from engine.bulk.inputs import OWN_FOLDER

Status = Literal["cloaked", "no_face", "skipped", "failed"]
ORDER: tuple[Status, ...] = ("failed", "no_face", "skipped", "cloaked")
"""What a person must know of comes first."""
INTERRUPTED = "Interrupted before it was done."
"""The reason of a photo whose file may have been written, while no row says so."""
SCHEMA = 1
"""The form of the tables, as SQLite's user_version; those of version 0.1 say 0 and lack the columns of LATER."""
LATER = ("output", "stamp", "place")


@dataclass(frozen=True)
class Row:
    """What became of one input.

    target: path of the output, relative to the output folder. source: path of the input. size, modified: of the
    source, to see whether it changed. key: hash of photo, settings and weights; "" where the photo could not be read.
    reason: why it is not cloaked, or what to know about it. faces: one dictionary each. written: the output's bytes.
    output: SHA-256 of the output. stamp: `stamped` of it when it was last known to be whole. place: absolute path of
    the input. These three are "" in rows of version 0.1; `at` makes up for the last.
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
    output: str = ""
    stamp: str = ""
    place: str = ""

    @property
    def at(self) -> str:
        """The absolute path of the input, "" if it is not known."""
        return self.place or (self.source if os.path.isabs(self.source) else "")

    def intact(self, out: Path) -> bool:
        """Whether its output is there as it was written; True where none was to be."""
        if self.status != "cloaked":
            return True
        file = out / self.target
        stamp = stamped(file)
        if not stamp or os.stat(file).st_size != self.written:
            return False
        return stamp == self.stamp or self._reads_as_written(file)

    def _reads_as_written(self, file: Path) -> bool:
        """Looks at the bytes: the file was touched, or copied with its folder."""
        try:
            with files.opened(file) as opened:
                if not self.output:  # of an earlier version: at least it must not be blank
                    return self.written == 0 or any(opened.read(16))
                return hashlib.file_digest(opened, "sha256").hexdigest() == self.output  # type: ignore[bad-argument-type]
        except OSError:
            return False


def stamped(file: Path) -> str:
    """What changes whenever a file is written: times, inode and size. "" without a file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return ""
    if not stat.S_ISREG(status.st_mode):
        return ""
    return f"{status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} {status.st_size}"


def finished(row: Row, out: Path, data: bytes) -> Row:
    """The row of a photo whose cloaked file, these bytes, is in place."""
    file = {"written": len(data), "output": hashlib.sha256(data).hexdigest(), "stamp": stamped(out / row.target)}
    return replace(row, **file)  # type: ignore[arg-type]


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
        _upgrade(self._database)

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
        os.close(self._lock)

    def get(self, target: str) -> Row | None:
        """The row of one output, or None."""
        found = self._database.execute(f"SELECT {NAMES} FROM photos WHERE target = ?", (stored(target),)).fetchone()
        return None if found is None else _row(found)

    def put(self, *rows: Row) -> None:
        """Write or replace rows, at once and all or none."""
        marks = ", ".join("?" * len(fields(Row)))
        values = ([stored(value) for value in asdict(row).values()] for row in rows)
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT OR REPLACE INTO photos ({NAMES}) VALUES ({marks})", values)

    def rows(self) -> Iterator[Row]:
        """All rows, by target."""
        for found in self._database.execute(f"SELECT {NAMES} FROM photos ORDER BY target").fetchall():
            yield _row(found)


class Survey:
    """All rows of a folder's manifests, those of shards too, as they are at one moment. A context manager.

    Only reads, and takes no lock: a run may be writing. Where two manifests have a row for one output, that of the
    manifest written to last counts.
    """

    def __init__(self, out: Path) -> None:
        """Opens what is there, which may be nothing. Raises sqlite3.Error for a manifest that cannot be read."""
        paths = sorted((out / OWN_FOLDER).glob("manifest*.sqlite"), key=last_written)
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
        columns = columns_of(self._databases[index], "photos")
        query = f"SELECT CASE status {rank} END AS rank, * FROM photos ORDER BY rank, CAST(target AS BLOB)"
        for place, *found in self._databases[index].execute(query):
            if self._chosen[found[0]] == index:
                row = read_row(dict(zip(columns, found, strict=True)))
                yield (place, os.fsencode(row.target)), row


def last_written(path: Path) -> int:
    """When a manifest was written to, in nanoseconds."""
    log = path.with_name(path.name + "-wal")
    return max(one.stat().st_mtime_ns for one in (path, log) if one.exists())


def stored(value: object) -> object:
    """As SQLite takes it: a name that is no UTF-8 as its bytes."""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return os.fsencode(value)
    return value


NAMES = ", ".join(one.name for one in fields(Row))
"""The columns, in the order of a Row."""


def _row(found: tuple) -> Row:
    return read_row(dict(zip((one.name for one in fields(Row)), found, strict=True)))


def read_row(found: dict[str, Any]) -> Row:
    """A Row of columns as SQLite gives them; those that are missing get their defaults."""
    values: dict[str, Any] = {
        name: os.fsdecode(value) if isinstance(value, bytes) else value for name, value in found.items()
    }
    if "faces" in values:
        values["faces"] = json.loads(values["faces"])
    return Row(**values)


def columns_of(database: sqlite3.Connection, table: str) -> list[str]:
    """The names of a table's columns, none if there is no such table."""
    return [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})").fetchall()]


def _upgrade(database: sqlite3.Connection) -> None:
    """Take over tables of an earlier version: what it did is known, and not done again."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        there = columns_of(database, "photos")
        for column in LATER:
            if column not in there:
                database.execute(f"ALTER TABLE photos ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
        database.execute(f"PRAGMA user_version = {SCHEMA}")
