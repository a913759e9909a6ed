"""Cloaked files on their way to their places: whole or not at all, and nobody's work is lost under them.

A file that was changed since it was written is somebody's work. A kill between a file and its row must not look like
that. So before a file gets its place, a note in the tool's own folder says which bytes it will have; its row ends that.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from engine import files, private
from engine.bulk.inputs import OWN_FOLDER
from engine.bulk.manifest import Manifest, Row, stamped
from engine.bulk.sightings import tidy

BLANK = 4096
"""Bytes of a file that are looked at to tell whether it is blank, as after a crash of the machine."""
NOTE = ".next"
"""The suffix of a note. Its name has hashes of the file's name and bytes, and its content is the file's name."""


def clean(out: Path, *, shard: tuple[int, int]) -> None:
    """Remove what a killed run left half-written."""
    for path in (out / OWN_FOLDER).glob(f"{_prefix(shard)}-*{files.PART}"):
        path.unlink(missing_ok=True)
    tidy(out / OWN_FOLDER)


def set_aside(out: Path, target: str, data: bytes, *, stamp: str, shard: tuple[int, int]) -> str:
    """Keep a copy of a file that somebody has changed since it was written, before `data` replaces it; its name in out.

    "" if nothing of theirs can be in it: it is as it was written, as it will be, gone, empty or blank. stamp: `stamped`
    of the file as it was written. Raises OSError.
    """
    path = out / target
    if stamped(path) in ("", stamp):
        return ""
    with files.opened(path) as file:
        if not any(file.read(BLANK)):
            return ""
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[bad-argument-type]
        if digest == hashlib.sha256(data).hexdigest() or _noted(out, target, digest):
            return ""
        kept = Path(OWN_FOLDER) / "replaced" / f"{digest[:32]}{path.suffix[:16]}"
        private.made(out / kept.parent)
        file.seek(0)
        pieces = iter(partial(file.read, 1 << 20), b"")
        files.write(out / kept, pieces, parts=out / OWN_FOLDER, name=_prefix(shard))
    return str(kept)


def write(out: Path, target: str, data: bytes, source: Path, *, shard: tuple[int, int]) -> None:
    """Put a file in place whole or not at all, with the permissions and the modification time of its source.

    Others may not read the copy of a photo that they may not read, and libraries sort photos by that time. Raises
    OSError.
    """
    mode, modified = files.PRIVATE, None
    with suppress(OSError):  # away since it was read
        status, folders = source.stat(), source.absolute().parents[: len(Path(target).parts)]
        modified = status.st_mtime_ns
        entering = [folder.stat().st_mode for folder in folders]  # the collection's: who may not enter reads nothing
        shown = (0o070 * all(bits & 0o010 for bits in entering)) | (0o007 * all(bits & 0o001 for bits in entering))
        mode = status.st_mode & (0o700 | shown)
    note = out / OWN_FOLDER / f"{_prefix(shard)}-{_name(target, hashlib.sha256(data).hexdigest())}"
    note.unlink(missing_ok=True)
    files.append(note, os.fsencode(target))
    files.write(
        out / target,
        data,
        root=out,
        parts=out / OWN_FOLDER,
        name=_prefix(shard),
        mode=mode,
        modified=modified,
    )


def recorded(out: Path, row: Row, *, shard: tuple[int, int]) -> None:
    """The manifest has the row of a file that `write` has put in place: its note has served."""
    if row.output:
        with suppress(OSError):
            (out / OWN_FOLDER / f"{_prefix(shard)}-{_name(row.target, row.output)}").unlink()


def settle(out: Path, manifest: Manifest, *, shard: tuple[int, int]) -> None:
    """Remove the notes of earlier calls about files that are now as their rows say, or that no row speaks of."""
    for note in (out / OWN_FOLDER).glob(f"{_prefix(shard)}-*{NOTE}"):
        with suppress(OSError, ValueError):
            row = manifest.get(os.fsdecode(note.read_bytes()))
            if row is None or (row.status == "cloaked" and row.intact(out)):
                note.unlink()


def _prefix(shard: tuple[int, int]) -> str:
    """The beginning of the names of a shard's files in the tool's own folder."""
    return f"{shard[0]}-of-{shard[1]}"


def _noted(out: Path, target: str, digest: str) -> bool:
    """Whether any call was about to put a file with this SHA-256 there."""
    return any((out / OWN_FOLDER).glob(f"*-{_name(target, digest)}"))


def _name(target: str, digest: str) -> str:
    """The end of a note's name."""
    return hashlib.sha256(os.fsencode(f"{digest} {target}")).hexdigest()[:32] + NOTE
