"""Sightings in photos: the faces that the detector found, and their embeddings, so that nothing is looked at twice.

The key is the photo's content hash and what saw it: the detector's weights and settings, an extractor's weights and
input. If any of these has changed, nothing is found. In a run's output folder it is a SQLite file for the owner alone.
The second pass, the next call and other shards use it. Elsewhere it lives in memory as long as the object.

It is a cache: what is damaged is thrown away, what cannot be written is found again, and no error comes out of it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from engine import files, private
from engine.bulk.manifest import connected
from engine.config import CROPS
from engine.detect import Detector
from engine.types import Face

NAME = "sightings.sqlite"
SCHEMA = 2
"""The form of the table, as SQLite's user_version."""
WAIT = 2000
"""Milliseconds that a shard waits for another one's row."""
FACE = 15
"""Numbers of a face: box, landmarks, score."""
CHECK = 8
"""Bytes after a row's numbers that show whether they are what was written: SQLite does not see a changed value."""
Matrix = Float32[np.ndarray, "n _d"]


class Sightings:
    """Faces of one detector, and their embeddings. Usable from several threads and, in a folder, by processes."""

    def __init__(self, detector: Detector, folder: Path | None = None) -> None:
        """folder: where to keep it beyond this object's life, if the detector has a `key` that tells it from others."""
        key = getattr(detector, "key", None)
        self._detector = _hashed(CROPS, key)
        self._lock = threading.Lock()
        self._database = (None if folder is None or key is None else _open(folder)) or _memory()
        weakref.finalize(self, self._database.close)

    def faces(self, sha256: str) -> list[Face] | None:
        """The faces of a photo in the order in which they were found, None if it was not looked at."""
        rows = self._get(sha256, self._detector)
        if rows is None:
            return None
        return [Face(row[:4].copy(), row[4:14].reshape(5, 2).copy(), float(row[14])) for row in rows]

    def keep_faces(self, sha256: str, faces: Sequence[Face]) -> None:
        """Remember all faces that the detector found in a photo."""
        rows = [np.concatenate([face.box, face.landmarks.ravel(), [face.score]]) for face in faces]
        self._put(sha256, {self._detector: np.array(rows, np.float32).reshape(len(rows), FACE)})

    def embeddings(self, sha256: str, networks: Sequence[str]) -> list[Matrix] | None:
        """The embeddings by each network of those faces of a photo that can be cut out. None if one is not known.

        networks: the `key` of each.
        """
        matrices = [self._get(sha256, self._by(network)) for network in networks]
        known = [rows for rows in matrices if rows is not None]
        return known if len(known) == len(matrices) and len({len(rows) for rows in known}) == 1 else None

    def keep_embeddings(self, sha256: str, rows: dict[str, Matrix]) -> None:
        """Remember them, by each network's `key`; those that are not finite numbers are computed again next time."""
        if all(np.isfinite(matrix).all() for matrix in rows.values()):
            self._put(sha256, {self._by(network): matrix for network, matrix in rows.items()})

    def _by(self, network: str) -> str:
        return _hashed(self._detector, network)

    def _get(self, sha256: str, by: str) -> Matrix | None:
        try:
            with self._lock:
                query = "SELECT faces, data FROM seen WHERE photo = ? AND by = ?"
                entry = self._database.execute(query, (sha256, by)).fetchone()
            if entry is None:
                return None
            count, data, check = int(entry[0]), bytes(entry[1])[:-CHECK], bytes(entry[1])[-CHECK:]
            if _check(sha256, by, count, data) != check:
                return None
            rows = np.frombuffer(data, "<f4").astype(np.float32)
            return rows.reshape(count, -1 if count else FACE)
        except sqlite3.Error:
            self._give_up()
        except (ValueError, TypeError):  # no row of ours
            pass
        return None

    def _put(self, sha256: str, rows: dict[str, Matrix]) -> None:
        values = []
        for by, matrix in rows.items():
            data = np.ascontiguousarray(matrix, "<f4").tobytes()
            values.append((sha256, by, len(matrix), data + _check(sha256, by, len(matrix), data)))
        try:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", values)
        except sqlite3.Error:
            self._give_up()

    def _give_up(self) -> None:
        """Go on in memory: a disk that fails once would cost a wait for every photo."""
        with self._lock:
            self._database.close()
            self._database = _memory()
            weakref.finalize(self, self._database.close)


def tidy(folder: Path) -> None:
    """Take away what SQLite left beside the database when a run was killed."""
    if any((folder / f"{NAME}{suffix}").exists() for suffix in ("-wal", "-shm")) and (database := _open(folder)):
        database.close()


def network_key(weights: str, precision: str, spec: object) -> str:
    """Key of a face's embedding by an extractor, besides the face: its weights' hash, precision and input."""
    return _hashed(weights, precision, repr(spec))


def _check(sha256: str, by: str, count: int, data: bytes) -> bytes:
    return hashlib.blake2b(repr((sha256, by, count)).encode() + data, digest_size=CHECK).digest()


def _hashed(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _memory() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _make(database)
    return database


def _open(folder: Path) -> sqlite3.Connection | None:
    """The database of a folder. A damaged one is replaced by a new one. None if there can be none."""
    path = folder / NAME
    for again in (False, True):
        try:
            with files.locked(private.made(folder) / "probe.lock", shared=True) as locks:
                if not locks:  # several shards would write into each other's rows
                    return None
            return _connected(path)
        except sqlite3.DatabaseError as error:
            if again or getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                return None
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    path.with_name(NAME + suffix).unlink()
        except (OSError, files.HeldError):
            return None
    return None


def _connected(path: Path) -> sqlite3.Connection:
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, files.PRIVATE)
    with suppress(OSError):
        os.fchmod(descriptor, files.PRIVATE)
    os.close(descriptor)
    database = connected(path, locks=True, threads=True)
    try:
        database.execute(f"PRAGMA busy_timeout={WAIT}")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")  # what a power cut takes is found again
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA) or database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("of another form, or damaged")
        _make(database)
    except BaseException:
        database.close()
        raise
    return database


def _make(database: sqlite3.Connection) -> None:
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "CREATE TABLE IF NOT EXISTS seen"
            " (photo TEXT, by TEXT, faces INTEGER, data BLOB, PRIMARY KEY (photo, by)) WITHOUT ROWID"
        )
        database.execute(f"PRAGMA user_version = {SCHEMA}")
        database.execute("SELECT photo, by, faces, data FROM seen LIMIT 0")  # of another form: an error
