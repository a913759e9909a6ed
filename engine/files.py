"""Files as users have them: opened only if they are files."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class NotAFileError(OSError):
    """Something other than a regular file lies at a path; `strerror` says what."""


def opened(path: Path) -> BufferedReader:
    """The file, open for reading bytes. Never waits, whatever lies there.

    Raises NotAFileError for a pipe, a device, a socket or a folder, and OSError if the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((words for matches, words in KINDS if matches(mode)), "no regular file")
        raise NotAFileError(0, f"it is {kind}, not a file", str(path))
    return os.fdopen(descriptor, "rb")
