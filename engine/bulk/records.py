"""Records of an output folder, all its manifests together: those of shards and of other calls too."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

from engine.bulk.manifest import INTERRUPTED, Row, columns_of, connected, naming, read_row, stored
from engine.bulk.outputs import unrecorded
from engine.bulk.untouched import manifests, reading


class _Entry(NamedTuple):
    """A row without its faces. path: of its manifest. table: in which it is there, "" for a note, with its faces."""

    row: Row
    path: Path
    table: str


@dataclass(frozen=True)
class Known:
    """Knowledge of one name in an output folder, without faces.

    last: what was said of it last. holder: the row of the tool's own file that lies there, None if none does. intact:
    whether that file is as its row says.
    """

    last: Row
    holder: Row | None = None
    intact: bool = False


class Records:
    """All rows of an output folder's manifests as they are at one moment, without faces.

    Takes no lock: others may be writing. If two rows have one name, the row that fits the file there counts, else the
    newest.
    """

    def __init__(self, out: Path, *, fold: Callable[[str], str] = lambda name: name, untouched: bool = False) -> None:
        """Reads what is there, which may be nothing. Raises sqlite3.Error and OSError for what cannot be read.

        fold: gives all names of one file of the output's disk the same form (`places.Disk`). untouched: leave not
        even a trace of reading in the folder.
        """
        self.out, self.fold, self._untouched = out, fold, untouched
        self._entries: dict[str, list[_Entry]] = defaultdict(list)
        self._outputs: dict[str, Row] = {}
        for path in manifests(out):
            with naming(path), _reading(path, untouched=untouched) as database:
                for table in ("photos", "kept"):
                    for row in _rows(database, table):
                        self._entries[fold(row.target)].append(_Entry(row, path, table))
                        if row.output:
                            self._outputs.setdefault(row.output, row)
        for path, row in unrecorded(out):
            self._entries[fold(row.target)].append(_Entry(row, path, ""))
            self._outputs.setdefault(row.output, row)
        for entries in self._entries.values():
            entries.sort(key=lambda entry: -entry.row.turn)  # of equals the manifest that was written last stays first

    def __len__(self) -> int:
        return len(self._entries)

    def row(self, target: str) -> Row | None:
        """The row with that very name, None without one: of a photo that has no place among the others."""
        return next(
            (entry.row for entry in self._entries.get(self.fold(target), ()) if entry.row.target == target), None
        )

    def known(self, target: str) -> Known | None:
        """Knowledge of a name, None if there is none. Raises OSError if the file there cannot be looked at."""
        entries = self._entries.get(self.fold(target))
        if not entries:
            return None
        last = entries[0].row
        holders = [entry.row for entry in entries if owns(entry.row) and present(self.out / entry.row.target)]
        intact = next((row for row in holders if row.status == "cloaked" and row.intact(self.out)), None)
        if intact is not None:
            return Known(last, intact, True)
        return Known(last, holders[0] if holders else None)

    def output(self, digest: str) -> Row | None:
        """The row whose file has this SHA-256, None if there is none."""
        return self._outputs.get(digest)

    def whole(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Rows that came from here, with their faces."""
        places = {id(entry.row): entry for row in rows for entry in self._entries[self.fold(row.target)]}
        by_path: dict[Path, list[_Entry]] = defaultdict(list)
        for row in rows:
            if (entry := places[id(row)]).table:
                by_path[entry.path].append(entry)
            else:
                yield row
        for path, entries in by_path.items():
            with naming(path), _reading(path, untouched=self._untouched) as database:
                for entry in entries:
                    complete = next(_rows(database, entry.table, target=entry.row.target), entry.row)
                    yield replace(entry.row, faces=complete.faces)


def owns(row: Row) -> bool:
    """Whether the file at a row's target is the tool's own, if one is there."""
    return row.status == "cloaked" or row.reason == INTERRUPTED


def present(path: Path) -> bool:
    """Whether anything lies at a path, a link to nothing too. Raises OSError if that cannot be known."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def _reading(path: Path, *, untouched: bool) -> Iterator[sqlite3.Connection]:
    with reading(path) if untouched else closing(connected(path)) as database:
        yield database


def _rows(database: sqlite3.Connection, table: str, *, target: str | None = None) -> Iterator[Row]:
    """The rows of a table. A manifest of before may lack columns, and "kept". target: of one, with faces."""
    columns = columns_of(database, table)
    if not columns and table == "kept":
        return
    if not columns:
        raise sqlite3.DatabaseError("it is damaged: it has no table of photos")
    wanted = [
        column.name
        for column in fields(Row)
        if column.name in columns and (target is not None or column.name != "faces")
    ]
    query = f"SELECT {', '.join(wanted)} FROM {table}"
    rows = (
        database.execute(query) if target is None else database.execute(f"{query} WHERE target = ?", (stored(target),))
    )
    for values in rows:
        yield read_row(dict(zip(wanted, values, strict=True)))
