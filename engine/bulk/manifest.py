"""The record of a run, in its output folder: what became of every input, so that a second call resumes.

SQLite in WAL mode. A row is written after the photo's file is in place. If a kill comes between the two, a note has the
row (`outputs`). On a file system without locks a file names who holds the manifest.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import json
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

from engine import faults, files, private
from engine.bulk.inputs import OWN_FOLDER, InputError

WAIT = 5.0
"""Seconds to wait for another program that reads or writes the manifest."""
Status = Literal["cloaked", "no_face", "skipped", "failed"]
UNCLOAKED = "Not cloaked:"
"""Words in a reason, before each face that was found and cannot be cloaked."""
ASIDE = "The file that lay there had been changed since it was written, and is kept as"
"""Words in a reason, before the name of that file."""
BARED = "would be clean again:"
"""Words in the reason of a photo that an earlier call has cloaked more faces of."""
ORDER: tuple[Status, ...] = ("failed", "no_face", "skipped", "cloaked")
"""Statuses, first those that a person must know of."""
INTERRUPTED = "Interrupted before it was done."
"""The reason of a photo whose file may have been written, while no row says so."""
MOST = 2**63 - 1
"""The largest number that SQLite holds."""
YOUNG = 2_000_000_000
"""Nanoseconds: the coarsest grain of a file system's times, that of FAT."""
SCHEMA = 2
"""The form of the tables, as SQLite's user_version: 0 was version 0.1, 1 had no turns. LATER has what they lack."""
LATER = dict.fromkeys(("output", "stamp", "place", "state"), "TEXT NOT NULL DEFAULT ''") | {
    "turn": "INTEGER NOT NULL DEFAULT 0"
}


@dataclass(frozen=True)
class Row:
    """Outcome of one input.

    target: path of the output, relative to the output folder. source: path of the input, as the call spelled it. `at`
    is where it lies, and `named` is for messages. size, modified: of the source, to see whether it changed. key: hash
    of photo, settings and weights; "" if the photo could not be read. reason: why it is not cloaked, or what to know
    about it. faces: one dictionary each. written: the output's bytes. output: SHA-256 of the output. stamp: `stamped`
    of it when it was last known to be whole. place: absolute path of the input. These three are "" in rows of version
    0.1; `at` makes up for the last. state: `stated` of the source when it was hashed. It is "" if the source was
    `young` then, and in rows of version 0.1. Such a source is hashed again. turn: the larger, the later the row was
    written, in whichever manifest; `Manifest.put` sets it.
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
    state: str = ""
    turn: int = field(default=0, compare=False)

    @property
    def at(self) -> str:
        """The absolute path of the input. Version 0.1 kept what it was called: of that, the same call's is meant."""
        return self.place or os.path.abspath(self.source)

    @property
    def named(self) -> str:
        """Name of the input in messages: `source`, or `at` if `source` means another place from here."""
        return self.source if os.path.abspath(self.source) == self.at else self.at

    @property
    def unprotected(self) -> bool:
        """Whether it failed, or a face was found that is not cloaked. A photo without any face is not meant."""
        return self.status == "failed" or (self.status in ("cloaked", "no_face") and UNCLOAKED in self.reason)

    def intact(self, out: Path) -> bool:
        """Whether its output is there as it was written; True if none was to be."""
        if self.status != "cloaked":
            return True
        file = os.path.join(out, self.target)
        stamp = stamped(file)
        if not stamp or int(stamp.rpartition(" ")[2]) != self.written:
            return False
        return stamp == self.stamp or self._reads_as_written(Path(file))

    def as_dict(self) -> dict[str, Any]:
        """Columns by name. Nothing is copied, as `asdict` would."""
        return {name: getattr(self, name) for name in NAMES}

    def _reads_as_written(self, file: Path) -> bool:
        """Looks at the bytes: the file was touched, or copied with its folder."""
        try:
            with files.opened(file) as opened:
                if not self.output:  # of an earlier version: at least it must not be blank
                    return self.written == 0 or any(opened.read(16))
                return hashlib.file_digest(opened, "sha256").hexdigest() == self.output  # type: ignore[bad-argument-type]
        except OSError:
            return False


def stated(status: os.stat_result) -> str:
    """State that changes with a file's content and cannot be set, as a modification time can: change time and inode."""
    return f"{status.st_ctime_ns} {status.st_ino}"


def young(status: os.stat_result, *, now: int) -> bool:
    """Whether a file was written so recently that it may be written again and look the same ("racy clean" in git).

    now: time in nanoseconds before it was looked at.
    """
    return min(abs(now - status.st_mtime_ns), abs(now - status.st_ctime_ns)) < YOUNG


def stamped(file: Path | str) -> str:
    """State that changes whenever a file is written: times, inode and size. "" without a file."""
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


class ManifestError(InputError):
    """The manifest of an output folder cannot be used."""


class Manifest:
    """The manifest of one output folder, held by one run at a time. A context manager."""

    def __init__(self, out: Path, *, shard: str = "") -> None:
        """Opens or creates it, for its owner alone. shard: "I-of-N" names a manifest of its own.

        Raises BusyError while another run holds it, or one that shares the photos out otherwise: both would do a photo.
        Raises ManifestError for a manifest that cannot be used, and OSError if there can be none.
        """
        folder = private.made(out / OWN_FOLDER)
        name = f"manifest{shard and '-' + shard}"
        self.path = folder / f"{name}.sqlite"
        with ExitStack() as stack:
            try:
                locks = stack.enter_context(files.locked(folder / f"{name}.lock"))
            except files.HeldError as error:
                holder = f" ({error.by})" if error.by else ""
                raise BusyError(
                    f"another run is writing to {out}{holder}: wait for it, or choose another --out"
                ) from None
            self._share(stack, out, _shares(self.path))
            if not os.path.lexists(self.path):
                files.write(self.path, _blank(), name=shard or "1-of-1")  # whole, so that one without a byte is damaged
            os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
            try:
                if not self.path.stat().st_size:
                    raise sqlite3.DatabaseError("it is empty")
                self.alone = locks
                """Whether no run with another number of shares is at work: only with locks is that known."""
                self._database = connected(self.path, locks=locks)
                stack.callback(self._database.close)
                with suppress(sqlite3.OperationalError):  # some shares have no shared memory, which WAL needs
                    self._database.execute(f"PRAGMA journal_mode={'WAL' if locks else 'DELETE'}")
                self._prepare()
                self._turn = self._newest(folder)
            except sqlite3.Error as error:
                if faults.full(error) or faults.no_room(folder):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
                raise ManifestError(_fault(self.path, error)) from error
            self._open = stack.pop_all()

    def _share(self, stack: ExitStack, out: Path, count: str) -> None:
        """Announce into how many shares the photos are divided, and see that no run is at work with another number."""
        own_lock = self.path.with_name(f"shares-{count}.lock")
        stack.enter_context(files.locked(own_lock, shared=True, wait=True))
        for lock in sorted(self.path.parent.glob("shares-*.lock")):
            try:
                if lock != own_lock:
                    with files.locked(lock):
                        pass
            except files.HeldError:
                number = lock.stem.partition("-")[2]
                by = "without --shard" if number == "1" else f"with --shard I/{number}"
                raise BusyError(f"a run {by} is writing to {out}, and has the same photos: wait for it") from None

    def _prepare(self) -> None:
        """Bring the tables of an earlier version up to date, refuse others."""
        run = self._database.execute
        (version,) = run("PRAGMA user_version").fetchone()
        columns = columns_of(self._database, "photos")
        if version > SCHEMA or (columns and set(NAMES) - set(LATER) - set(columns)):
            raise ManifestError(
                f"{self.path} was written by another version of this program: use that one, or choose another --out"
            )
        if (verdict := run("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise sqlite3.DatabaseError(f"it is damaged: {verdict}")
        _make(self._database)

    def _newest(self, folder: Path) -> int:
        """The largest turn of any row in the folder's manifests, as far as it can be seen of those of others."""
        newest = "SELECT max(turn) FROM photos"
        turns = [*self._database.execute(newest).fetchone()]
        for path in folder.glob("manifest*.sqlite"):
            if path != self.path:
                with suppress(sqlite3.Error, OSError), closing(connected(path)) as database:
                    turns += database.execute(newest).fetchone()
        return max((turn for turn in turns if isinstance(turn, int)), default=0)  # of a damaged one Records speaks

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def get(self, target: str) -> Row | None:
        """The row of one output, or None."""
        values = self._database.execute(f"SELECT {COLUMNS} FROM photos WHERE target = ?", (stored(target),)).fetchone()
        return None if values is None else _row(values)

    def put(self, *rows: Row, kept: Row | None = None) -> None:
        """Write or replace rows, at once and all or none. They count as the newest, whatever the clock says.

        kept: what an earlier call said of a file that stays where it is though these rows say that it failed.
        """
        self._turn = max(time.time_ns(), self._turn + 1)
        with self._database:
            self._database.execute("BEGIN")
            self._insert("photos", rows)
            self._insert("kept", () if kept is None else (kept,))
            cloaked = ((stored(row.target),) for row in rows if row.status == "cloaked")
            self._database.executemany("DELETE FROM kept WHERE target = ?", cloaked)

    def _insert(self, table: str, rows: Iterable[Row]) -> None:
        marks = ", ".join("?" * len(fields(Row)))
        values = ([stored(value) for value in (row.as_dict() | {"turn": self._turn}).values()] for row in rows)
        self._database.executemany(f"INSERT OR REPLACE INTO {table} ({COLUMNS}) VALUES ({marks})", values)

    def forget(self, gone: Callable[[Row], bool]) -> None:
        """Remove rows of what is not cloaked, or put back what they say of its earlier file if one is kept.

        gone: whether the photo of a row is. Manifests of another number of shares are seen to as well, if the file
        system has locks: no run is at work with them. One that cannot be used is left as it is.
        """
        _forget(self._database, gone)
        count = _shares(self.path)
        for path in self.path.parent.glob("manifest*.sqlite") if self.alone else ():
            if _shares(path) not in (count, "") and not path.is_symlink():
                with suppress(sqlite3.Error, OSError), closing(connected(path, locks=True)) as database:
                    if database.execute("PRAGMA user_version").fetchone() == (SCHEMA,):
                        _forget(database, gone)

    def rows(self) -> Iterator[Row]:
        """All rows, by target."""
        for values in self._database.execute(f"SELECT {COLUMNS} FROM photos ORDER BY target").fetchall():
            yield _row(values)


class Survey:
    """All rows of a folder's manifests, those of shards too, as they are at one moment. A context manager.

    Only reads, and takes no lock: a run may be writing. If two manifests have a row for one output, the newer counts.
    """

    def __init__(self, out: Path) -> None:
        """Opens what is there, which may be nothing. Raises sqlite3.Error for a manifest that cannot be read."""
        paths = sorted((out / OWN_FOLDER).glob("manifest*.sqlite"), key=last_written)
        self._chosen: dict[str | bytes, tuple[int, int]] = {}
        """The turn of the newest row for each output, and the index of its manifest."""
        self._databases: list[sqlite3.Connection] = []
        with ExitStack() as stack:
            for index, path in enumerate(paths):
                with naming(path):
                    self._databases.append(stack.enter_context(closing(connected(path))))
                    self._databases[-1].execute("BEGIN")  # one snapshot for all that follows
                    turn = "turn" if "turn" in columns_of(self._databases[-1], "photos") else "0"
                    for target, number in self._databases[-1].execute(f"SELECT target, {turn} FROM photos"):
                        known = self._chosen.get(target, (0, index))
                        # A turn that is no number is refused with its row, so that row must be read.
                        self._chosen[target] = max((number, index), known) if isinstance(number, int) else (MOST, index)
            self._open = stack.pop_all()

    def __enter__(self) -> Survey:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def rows(self) -> Iterator[Row]:
        """One at a time: what failed first, then photos without a face, skipped ones, cloaked ones; by target."""
        merged = heapq.merge(*map(self._own, range(len(self._databases))), key=lambda pair: pair[0])
        return (row for _, row in merged)

    def _own(self, index: int) -> Iterator[tuple[tuple[int, bytes], Row]]:
        rank = " ".join(f"WHEN '{status}' THEN {place}" for place, status in enumerate(ORDER))
        columns = columns_of(self._databases[index], "photos")
        query = f"SELECT CASE status {rank} END AS rank, * FROM photos ORDER BY rank, CAST(target AS BLOB)"
        for place, *values in self._databases[index].execute(query):
            # The listing comes from the index, these rows from the table: a damaged manifest has different ones.
            if self._chosen.get(values[0], (0, index))[1] == index:
                row = read_row(dict(zip(columns, values, strict=True)))
                yield (place, os.fsencode(row.target)), row


def _forget(database: sqlite3.Connection, gone: Callable[[Row], bool]) -> None:
    """See `Manifest.forget`; all or none of a manifest's rows."""
    query = f"SELECT {COLUMNS} FROM photos WHERE status <> 'cloaked' AND reason <> ?"
    rows = [_row(values) for values in database.execute(query, (INTERRUPTED,)).fetchall()]
    if targets := [(stored(row.target),) for row in rows if gone(row)]:
        with database:
            database.execute("BEGIN")
            database.executemany("DELETE FROM photos WHERE target = ?", targets)
            again = f"INSERT INTO photos ({COLUMNS}) SELECT {COLUMNS} FROM kept WHERE target = ? AND status = 'cloaked'"
            database.executemany(again, targets)
            database.executemany("DELETE FROM kept WHERE target = ?", targets)


def _shares(path: Path) -> str:
    """Number of shares into which the photos were divided, by the name of a manifest; "" for another name."""
    name = re.fullmatch(r"manifest(?:-\d+-of-(\d+))?\.sqlite", path.name)
    return "" if name is None else name[1] or "1"


def last_written(path: Path) -> int:
    """When a manifest was written to, in nanoseconds."""
    log = path.with_name(path.name + "-wal")
    return max((file.stat().st_mtime_ns for file in (path, log) if file.exists()), default=0)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever SQLite raises about a manifest names it."""
    try:
        yield
    except sqlite3.Error as error:
        if str(path) not in str(error):
            error.args = (f"{path}: {error}",)
        raise


def connected(path: Path, *, locks: bool | None = None, threads: bool = False) -> sqlite3.Connection:
    """A manifest that is there. locks: whether its file system has locks. If not, SQLite must not try. None finds out.

    threads: other threads may use it, one at a time. Raises sqlite3.Error.
    """
    locks = _has_locks(path.parent) if locks is None else locks
    address = f"file:{quote(os.fsencode(path.resolve()))}?mode=rw{'' if locks else '&vfs=unix-none'}"
    database = sqlite3.connect(address, uri=True, isolation_level=None, timeout=WAIT, check_same_thread=not threads)
    if not locks:
        try:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")  # or a database in WAL mode could not be opened
        except sqlite3.Error:
            database.close()
            raise
    return database


def _has_locks(folder: Path) -> bool:
    try:
        # A file of its own: who looks must not keep a run from its lock.
        with files.locked(folder / "probe.lock", shared=True) as locks:
            return locks
    except (files.HeldError, OSError):
        return True  # held, so there are some; or nothing can be created here, and SQLite says it best


def _make(database: sqlite3.Connection) -> None:
    """The tables, or those columns that an earlier version has not."""
    with database:
        database.execute("BEGIN IMMEDIATE")  # also to see whether it can be written
        for table in ("photos", "kept"):
            database.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (target TEXT PRIMARY KEY, source TEXT, size INTEGER,"
                " modified INTEGER, sha256 TEXT, key TEXT, status TEXT, reason TEXT, written INTEGER, faces TEXT)"
            )
            for column in sorted(set(LATER) - set(columns_of(database, table))):
                database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {LATER[column]}")
        database.execute("CREATE INDEX IF NOT EXISTS turns ON photos (turn)")
        database.execute(f"PRAGMA user_version = {SCHEMA}")


def _blank() -> bytes:
    """A manifest without a row."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        _make(database)
        return database.serialize()


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


def stored(value: object) -> object:
    """The value as SQLite takes it: a name that is no UTF-8 as its bytes, a number within its 64 bits."""
    if isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, int):
        return max(-MOST - 1, min(MOST, value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            try:
                return os.fsencode(value)
            except UnicodeEncodeError:  # a half of a UTF-16 pair, of some message
                return value.encode(errors="backslashreplace").decode()
    return value


NAMES = tuple(column.name for column in fields(Row))
COLUMNS = ", ".join(NAMES)
"""The columns, in the order of a Row."""
_KINDS = dict.fromkeys(NAMES, str) | dict.fromkeys(("size", "modified", "written", "turn"), int) | {"faces": list}


def _row(values: tuple) -> Row:
    return read_row(dict(zip((column.name for column in fields(Row)), values, strict=True)))


def read_row(columns: dict[str, Any]) -> Row:
    """A Row of columns as SQLite gives them; those that are missing get their defaults.

    Raises sqlite3.DatabaseError for values that no run has written.
    """
    values: dict[str, Any] = {
        name: os.fsdecode(value) if isinstance(value, bytes) else value for name, value in columns.items()
    }
    try:
        if "faces" in values:
            values["faces"] = json.loads(values["faces"])
    except (TypeError, ValueError, RecursionError) as error:
        raise sqlite3.DatabaseError(f"a row is damaged: its faces cannot be read ({error})") from error
    try:
        row = Row(**values)
    except TypeError as error:
        raise sqlite3.DatabaseError(f"its columns are not those of this program: {error}") from error
    wrong = next((name for name, kind in _KINDS.items() if type(getattr(row, name)) is not kind), "")
    if row.status not in ORDER:
        wrong = "status"
    if not all(map(_is_face, row.faces)):
        wrong = "faces"
    if wrong:
        raise sqlite3.DatabaseError(f"a row is damaged: its {wrong} is {getattr(row, wrong)!r:.80}")
    return row


def _is_face(face: object) -> bool:
    """Whether it has what all that tells of faces goes by: its place and its DSSIM, in numbers."""
    if not isinstance(face, dict) or not isinstance(box := face.get("box"), list) or len(box) != 4:
        return False
    shift = face.get("shift", {})
    if not isinstance(shift, dict):
        return False
    return all(map(_is_number, (*box, face.get("dssim"), *shift.values())))


def _is_number(value: object) -> bool:
    """Whether it is a number that a float can hold; by comparison, so that NaN is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST < value < MOST


def columns_of(database: sqlite3.Connection, table: str) -> list[str]:
    """The names of a table's columns, none if there is no such table."""
    return [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})").fetchall()]
