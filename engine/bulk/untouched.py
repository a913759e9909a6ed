"""Manifests read without a trace: no lock, no journal, nothing beside them, whether or not a run is writing to them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from engine.bulk.inputs import OWN_FOLDER
from engine.bulk.manifest import connected, last_written, naming


def manifests(out: Path) -> list[Path]:
    """The manifests of an output folder, that which was written last first."""
    return sorted((out / OWN_FOLDER).glob("manifest*.sqlite"), key=last_written, reverse=True)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A manifest to read from. Raises sqlite3.Error, which names it, and OSError for one that cannot be read."""
    with naming(path), _readable(path) as database:
        yield database


@contextmanager
def _readable(path: Path) -> Iterator[sqlite3.Connection]:
    log = path.with_name(path.name + "-wal")
    if (database := _shared(path, log)) is None and log.exists() and log.stat().st_size:
        with tempfile.TemporaryDirectory() as folder:
            for file in (path, log):
                shutil.copyfile(file, Path(folder) / file.name)
            with closing(connected(Path(folder) / path.name)) as copy:
                yield copy
        return
    with closing(database or _opened(path, "immutable=1")) as database:
        yield database


def _shared(path: Path, log: Path) -> sqlite3.Connection | None:
    """The manifest beside who may be writing to it, None if it has no log, or a file system without locks."""
    if not (log.exists() and path.with_name(path.name + "-shm").exists()):
        return None
    # SQLite reads the log's index as it is, or makes one in memory if that is of a run that was killed.
    database = _opened(path, "mode=ro&readonly_shm=1")
    try:
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        database.close()
        if isinstance(error, sqlite3.OperationalError):
            return None
        raise
    return database


def _opened(path: Path, query: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(os.fsencode(path.resolve()))}?{query}", uri=True, isolation_level=None)
