"""Folders and files that are the user's alone: nobody else could have written what is read from them.

What a cache holds is run (compiled programs) or shows people (embeddings, faces). A folder of it has mode 0700, its
files 0600, whatever the umask says. On systems without POSIX owners (Windows) the profile's own permissions stand.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from engine import files

OTHERS_WRITE, OTHERS = 0o022, 0o077
"""Bits of a mode: what others may write, and whatever they may do."""


def made(path: Path) -> Path:
    """A folder for its owner alone, made if it is missing. Raises NotAFileError for a link or a file, and OSError."""
    at = files.folder(path.parent, Path(path.name), create=True)
    try:
        with suppress(OSError):  # somebody else's, or a file system without permissions
            os.fchmod(at, files.PRIVATE_FOLDER)
    finally:
        os.close(at)
    return path


def trusted(path: Path) -> bool:
    """Whether `path` is a folder of the user's own, which is made, or closed to others, if need be.

    False for a link, for anything of another user, and for a folder in which others could write until now. What lies
    there may be theirs. Also False if it cannot be made.
    """
    try:
        path.mkdir(mode=files.PRIVATE_FOLDER, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or not _closed_to(status, OTHERS_WRITE):
            return False
        if status.st_mode & OTHERS:
            path.chmod(files.PRIVATE_FOLDER)
    except OSError:
        return False
    return True


def read(path: Path) -> bytes | None:
    """The bytes of a file that nobody but the user can read or write; None if there is none. Follows no link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            closed = stat.S_ISREG(status.st_mode) and _closed_to(status, OTHERS)
            return file.read() if closed else None
    except OSError:
        return None


def claim(path: Path) -> None:
    """A file of mode 0600 at `path`, an empty one if there is none, for a library that opens it by its name.

    Raises OSError if it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0), files.PRIVATE)
    try:
        if hasattr(os, "fchmod") and os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, files.PRIVATE)
    finally:
        os.close(descriptor)


def _closed_to(status: os.stat_result, bits: int) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & bits
