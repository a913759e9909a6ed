"""Folders and files that are the user's alone: nobody else could have written what is read from them.

What a cache holds is run (compiled programs) or shows people (embeddings, faces). A folder of it has mode 0700, its
files 0600, whatever the umask says. On systems without POSIX owners (Windows) the profile's own permissions stand.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

OTHERS_WRITE, OTHERS = 0o022, 0o077
"""Bits of a mode: what others may write, and whatever they may do."""


def folder(path: Path) -> bool:
    """Whether `path` is a folder of the user's own, which is made, or closed to others, if need be.

    False for a link, for anything of another user, and for a folder in which others could write until now: what lies
    there may be theirs. Also False if it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or not _own(status, OTHERS_WRITE):
            return False
        if status.st_mode & OTHERS:
            path.chmod(0o700)
    except OSError:
        return False
    return True


def read(path: Path) -> bytes | None:
    """The bytes of a file that nobody but the user can read or write; None if there is none. Follows no link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            closed = stat.S_ISREG(status.st_mode) and _own(status, OTHERS)
            return file.read() if closed else None
    except OSError:
        return None


def write(path: Path, data: bytes) -> None:
    """A file of mode 0600, whole or not at all. Raises OSError if it cannot be written."""
    # mkstemp's files have that mode from the start.
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def claim(path: Path) -> None:
    """A file of mode 0600 at `path`, an empty one if there is none, for a library that opens it by its name.

    Raises OSError if it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0), 0o600)
    try:
        if hasattr(os, "fchmod") and os.fstat(descriptor).st_uid == os.geteuid():
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _own(status: os.stat_result, others: int) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & others
