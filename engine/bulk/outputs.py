"""Cloaked files on their way to their places: whole or not at all, and nobody's work is lost under them.

Before a file gets its place, a note in the tool's own folder holds the row that the manifest will have of it. So
whatever is killed between the two, the next call knows whose the file is and which faces it protects.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path

from engine import files, private
from engine.bulk.inputs import OWN_FOLDER
from engine.bulk.manifest import Manifest, Row, finished, read_row, stamped
from engine.bulk.sightings import tidy

BLANK = 4096
"""Bytes of a file that are looked at to tell whether it is blank, as after a crash of the machine."""
NOTE = ".next"
"""The suffix of a note."""
LONGEST = 1 << 24
"""Most bytes of a note that are read."""


def clean(out: Path, *, shard: tuple[int, int]) -> None:
    """Remove what a killed run left half-written."""
    for path in (out / OWN_FOLDER).glob(f"{_prefix(shard)}-*{files.PART}"):
        _remove(path)
    tidy(out / OWN_FOLDER)


def set_aside(out: Path, target: str, data: bytes, *, stamp: str, shard: tuple[int, int]) -> str:
    """Keep a copy of a file that somebody has changed since it was written, before `data` replaces it; its name in out.

    "" if nothing of theirs can be in it: it is as it was written, as it will be, gone, empty or blank. stamp: `stamped`
    of the file as it was written. Raises OSError.
    """
    if stamped(out / target) in ("", stamp):
        return ""
    with files.opened(out / target) as file:
        if not any(file.read(BLANK)):
            return ""
        digest = _digest(file)
        # A worker of Ray that died may have written it in this very call, rounded otherwise.
        noted = (row.output for _, row in unrecorded(out) if row.target == target)
        return "" if digest in (hashlib.sha256(data).hexdigest(), *noted) else _kept(out, target, file, digest, shard)


def retire(out: Path, target: str, *, shard: tuple[int, int]) -> str:
    """Move a file from its place to where `set_aside` keeps others; its name in out. Raises OSError."""
    with files.opened(out / target) as file:
        kept = _kept(out, target, file, _digest(file), shard)
    files.remove(out / target, root=out)
    return kept


def write(out: Path, row: Row, data: bytes, source: Path, *, shard: tuple[int, int]) -> Row:
    """Put a file in place whole or not at all, with the permissions and the modification time of its source; its row.

    Others may not read the copy of a photo that they may not read, and libraries sort photos by that time. Raises
    OSError.
    """
    mode, modified = files.PRIVATE, None
    with suppress(OSError):  # away since it was read
        status, folders = source.stat(), source.absolute().parents[: len(Path(row.target).parts)]
        modified = status.st_mtime_ns
        entering = [folder.stat().st_mode for folder in folders]  # the collection's: who may not enter reads nothing
        shown = (0o070 * all(bits & 0o010 for bits in entering)) | (0o007 * all(bits & 0o001 for bits in entering))
        mode = status.st_mode & (0o700 | shown)
    row = replace(finished(row, out, data), stamp="", turn=time.time_ns())
    note = _note(out, row, shard)
    note.unlink(missing_ok=True)
    files.append(note, json.dumps(row.as_dict() | {"faces": json.dumps(row.faces)}).encode())
    files.write(
        out / row.target,
        data,
        root=out,
        parts=out / OWN_FOLDER,
        name=_prefix(shard),
        mode=mode,
        modified=modified,
    )
    return replace(row, stamp=stamped(out / row.target))


def recorded(out: Path, row: Row, *, shard: tuple[int, int]) -> None:
    """The manifest has the row of a file that `write` has put in place: its note has served."""
    _remove(_note(out, row, shard))


def unrecorded(out: Path) -> Iterator[tuple[Path, Row]]:
    """The notes of files that have no row yet, each with the row that its file was to have."""
    for path in sorted((out / OWN_FOLDER).glob(f"*{NOTE}")):
        if (row := _read(path)) is not None:
            yield path, row


def record(out: Path, manifest: Manifest) -> None:
    """Put into the manifest what notes say of files that are in place. Raises sqlite3.Error."""
    for path, row in unrecorded(out):
        if row.intact(out):
            manifest.put(replace(row, stamp=stamped(out / row.target)))
            _remove(path)


def recover(out: Path, manifest: Manifest, *, shard: tuple[int, int]) -> None:
    """Take up what calls before this one left: notes are recorded, halves removed.

    What shares of the same number left, their own calls take up. Raises sqlite3.Error.
    """
    record(out, manifest)
    clean(out, shard=shard)
    notes = dict(unrecorded(out))
    for path in (out / OWN_FOLDER).glob("*-of-*"):
        owner = re.fullmatch(rf"(\d+)-of-(\d+)-[0-9a-f]+({NOTE}|{files.PART})", path.name)
        if owner and ((int(owner[1]), int(owner[2])) == shard or (int(owner[2]) != shard[1] and manifest.alone)):
            row = notes.get(path)
            if row is not None and not os.path.lexists(out / row.target):
                continue  # it never got its place, or was moved and may come back
            if row is not None and _is_newer(row, manifest.get(row.target), out):
                manifest.put(row)
            _remove(path)


def _is_newer(row: Row, old: Row | None, out: Path) -> bool:
    """Whether the file in place, which is not as the note says, may be a changed form of it.

    old: the manifest's row. If that has more faces, they are what must not be forgotten.
    """
    if old is None or old.status != "cloaked":
        return True
    return not old.intact(out) and len(old.faces) <= len(row.faces)


def _read(path: Path) -> Row | None:
    """The row of a note, None for what is none: half a note is of a file that never got its place."""
    # Whatever somebody has put there must not lead out of the folder, or end the call.
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError, sqlite3.DatabaseError):
        if not path.is_symlink():
            with files.opened(path) as file:
                row = read_row(json.loads(file.read(LONGEST)))
            if row.status == "cloaked" and path.name.endswith(f"-{_name(row.target)}") and _is_inside(row.target):
                return row
    return None


def _is_inside(target: str) -> bool:
    """Whether a name is one of a file in the output folder that is not the tool's own."""
    parts = Path(target).parts
    return bool(parts) and not os.path.isabs(target) and ".." not in parts and parts[0] != OWN_FOLDER


def _remove(path: Path) -> None:
    with suppress(OSError):  # a folder, which is nobody's note
        path.unlink()


def _prefix(shard: tuple[int, int]) -> str:
    """The beginning of the names of a shard's files in the tool's own folder."""
    return f"{shard[0]}-of-{shard[1]}"


def _note(out: Path, row: Row, shard: tuple[int, int]) -> Path:
    """The place of the note of a file."""
    return out / OWN_FOLDER / f"{_prefix(shard)}-{_name(row.target)}"


def _name(target: str) -> str:
    """The end of a note's name."""
    return hashlib.sha256(os.fsencode(target)).hexdigest()[:32] + NOTE


def _digest(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[bad-argument-type]


def _kept(out: Path, target: str, file: BufferedReader, digest: str, shard: tuple[int, int]) -> str:
    """The name in out of a copy of a file."""
    kept = Path(OWN_FOLDER) / "replaced" / f"{digest[:32]}{Path(target).suffix[:16]}"
    private.made(out / kept.parent)
    file.seek(0)
    files.write(out / kept, iter(partial(file.read, 1 << 20), b""), parts=out / OWN_FOLDER, name=_prefix(shard))
    return str(kept)
