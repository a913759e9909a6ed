"""The record of a run, in its output folder: what became of every input, so that a second call resumes.

SQLite in WAL mode. A row is written after the photo's file is in place; whatever is killed between the two is done
again, and comes out the same. On a file system without locks a file names who holds the manifest.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

from engine import faults, files
from engine.bulk.inputs import OWN_FOLDER, InputError

SCHEMA = 1
"""The form of the tables, as SQLite's user_version; manifests of before it was counted say 0 and have the same form."""
WAIT = 5.0
"""Seconds to wait for another program that reads or writes the manifest."""
Status = Literal["cloaked", "no_face", "skipped", "failed"]
UNCLOAKED = "Not cloaked:"
"""In a reason, before each face that was found and cannot be cloaked."""
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

    @property
    def unprotected(self) -> bool:
        """Whether it failed, or a face was found that is not cloaked. A photo without any face is not meant."""
        return self.status == "failed" or (self.status in ("cloaked", "no_face") and UNCLOAKED in self.reason)

    def intact(self, out: Path) -> bool:
        """Whether its output is there as it was written; True where none was to be."""
        if self.status != "cloaked":
            return True
        file = out / self.target
        return file.is_file() and file.stat().st_size == self.written


class BusyError(RuntimeError):
    """Another run is writing to the same output folder."""


class ManifestError(InputError):
    """The manifest of an output folder cannot be used."""


class Manifest:
    """The manifest of one output folder, held by one run at a time. A context manager."""

    def __init__(self, out: Path, *, shard: str = "") -> None:
        """Opens or creates it, for its owner alone. shard: names a manifest of its own.

        Raises BusyError while another run holds it, ManifestError for one that cannot be used, OSError if there can be
        none.
        """
        folder = files.private(out / OWN_FOLDER)
        name = f"manifest{shard and '-' + shard}"
        self.path = folder / f"{name}.sqlite"
        with ExitStack() as stack:
            try:
                locks = stack.enter_context(files.locked(folder / f"{name}.lock"))
            except files.HeldError as error:
                who = f" ({error.by})" if error.by else ""
                raise BusyError(f"another run is writing to {out}{who}: wait for it, or choose another --out") from None
            flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            os.close(os.open(self.path, flags, files.PRIVATE))
            try:
                self._database = _connected(self.path, locks=locks)
                stack.callback(self._database.close)
                self._prepare(locks)
            except sqlite3.Error as error:
                if faults.full(error) or faults.no_room(folder):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
                raise ManifestError(_fault(self.path, error)) from error
            self._open = stack.pop_all()

    def _prepare(self, locks: bool) -> None:
        """Make the tables of an empty database, refuse one that this program did not make or cannot write."""
        run = self._database.execute
        with suppress(sqlite3.OperationalError):  # some shares have no shared memory, which WAL needs
            run(f"PRAGMA journal_mode={'WAL' if locks else 'DELETE'}")
        (version,) = run("PRAGMA user_version").fetchone()
        columns = [name for _, name, *_ in run("PRAGMA table_info(photos)").fetchall()]
        expected = [one.name for one in fields(Row)]
        if version > SCHEMA or (columns and columns != expected):
            raise ManifestError(
                f"{self.path} was written by another version of this program: use that one, or choose another --out"
            )
        if (found := run("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise sqlite3.DatabaseError(f"it is damaged: {found}")
        run("BEGIN IMMEDIATE")  # also to see whether it can be written
        with self._database:
            for table in ("photos", "kept"):
                run(
                    f"CREATE TABLE IF NOT EXISTS {table} (target TEXT PRIMARY KEY, source TEXT, size INTEGER,"
                    " modified INTEGER, sha256 TEXT, key TEXT, status TEXT, reason TEXT, written INTEGER, faces TEXT)"
                )
            run(f"PRAGMA user_version = {SCHEMA}")

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def get(self, target: str) -> Row | None:
        """The row of one output, or None."""
        found = self._database.execute("SELECT * FROM photos WHERE target = ?", (_stored(target),)).fetchone()
        return None if found is None else _row(found)

    def put(self, *rows: Row, kept: Row | None = None) -> None:
        """Write or replace rows, at once and all or none.

        kept: what an earlier call said of a file that stays where it is though these rows say that it failed.
        """
        with self._database:
            self._database.execute("BEGIN")
            self._insert("photos", rows)
            self._insert("kept", () if kept is None else (kept,))
            cloaked = ((_stored(row.target),) for row in rows if row.status == "cloaked")
            self._database.executemany("DELETE FROM kept WHERE target = ?", cloaked)

    def _insert(self, table: str, rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(fields(Row)))
        values = ([_stored(value) for value in asdict(row).values()] for row in rows)
        self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)

    def kept(self, target: str) -> Row | None:
        """The row that an earlier call wrote of a file that was kept when its photo failed later, or None."""
        found = self._database.execute("SELECT * FROM kept WHERE target = ?", (_stored(target),)).fetchone()
        return None if found is None else _row(found)

    def left(self) -> Iterator[Row]:
        """The rows of photos that are not cloaked, or not all of their faces; not of what is no photo."""
        query = "SELECT * FROM photos WHERE status IN ('failed', 'no_face') OR reason LIKE ? ORDER BY target"
        for found in self._database.execute(query, (f"%{UNCLOAKED}%",)).fetchall():
            yield _row(found)

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
        self._databases = [_connected(path, locks=_has_locks(path.with_suffix(".lock"))) for path in paths]
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


def _connected(path: Path, *, locks: bool) -> sqlite3.Connection:
    """locks: False on a file system without any, where SQLite must not try."""
    address = f"file:{quote(os.fsencode(path.resolve()))}?mode=rw{'' if locks else '&vfs=unix-none'}"
    database = sqlite3.connect(address, uri=True, isolation_level=None, timeout=WAIT)
    if not locks:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")  # or a database in WAL mode could not be opened
    return database


def _has_locks(path: Path) -> bool:
    try:
        with files.locked(path, shared=True) as locks:
            return locks
    except (files.HeldError, OSError):
        return True  # held, so there are some; or nothing can be created here, and SQLite says it best


def _fault(path: Path, error: sqlite3.Error) -> str:
    """Why a manifest cannot be used, and what to do."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another program holds {path}: close it, then run the same command again"
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")):
        return f"{path} cannot be written ({error}): see to its permissions, or choose another --out"
    if name.startswith("SQLITE_IOERR"):
        return f"{path} cannot be read or written ({error}): see to that disk, or choose another --out"
    return f"{path} is damaged ({error}): put a copy of it in its place, or choose another --out"


def _stored(value: object) -> object:
    """As SQLite takes it: a name that is no UTF-8 as its bytes, a number within its 64 bits."""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, int):
        return max(-(2**63), min(2**63 - 1, value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            try:
                return os.fsencode(value)
            except UnicodeEncodeError:  # a half of a UTF-16 pair, of some message
                return value.encode(errors="backslashreplace").decode()
    return value


def _row(found: tuple) -> Row:
    values: list[Any] = [os.fsdecode(value) if isinstance(value, bytes) else value for value in found]
    return Row(*values[:-1], faces=json.loads(values[-1]))
