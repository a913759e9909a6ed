"""Exceptions about this machine, in words for people: its disk, its memory, its devices; and where they arose.

Imports next to nothing: it is needed when nothing else can be imported.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
import tempfile
import time
import traceback
from pathlib import Path

from engine import files

LOG = "errors.log"
"""Log in a run's own folder: where unexpected errors arose."""
LOG_LIMIT = 10_000_000
"""Bytes after which a log takes only what is new: one mistake can repeat itself with every photo."""
LITTLE = 64 << 10
"""Bytes of a disk that is full, as far as a database is concerned."""
LEAST_MEMORY = 1 << 30
"""Bytes of address space under which numerical libraries end the process while they are loaded."""
NO_MEMORY = ("can't start new thread", "annot allocate memory", "failed to map segment")
"""Parts of messages about memory that are no MemoryError."""
LENGTH = 300
"""Characters of another program's message that are shown."""
_noted: set[tuple[Path, object]] = set()
"""Places at which exceptions arose, with the log that they are in."""


def words(error: BaseException) -> str:
    """An exception's message as one line without its full stop."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {os.fsdecode(error.filename)}"
    else:
        text = str(error).strip() or type(error).__name__
    line = " ".join(text.split())
    return (line if len(line) <= LENGTH else line[:LENGTH] + "...").rstrip(".")


def full(error: BaseException) -> bool:
    """Whether it is a disk without room, or one's share of a disk."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
    return isinstance(error, OSError) and error.errno in files.FULL


def no_room(folder: Path) -> bool:
    """Whether a folder's disk has no room, for programs that only say that something failed."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < LITTLE


def noted(error: BaseException, folder: Path | None = None, *, about: str = "") -> Path | None:
    """Write down where an exception arose; returns the file, None if it cannot be written.

    folder: for a log. Without one, or if it takes no more files, it is a new file in the system's folder for temporary
    files. about: the photo it was. Of exceptions that arose at the same place in this process, the first has its whole
    traceback in a log. The others have a line each, up to `LOG_LIMIT`.
    """
    origin = type(error), tuple((frame.filename, frame.lineno) for frame in _frames(error))
    log = None if folder is None or not folder.is_dir() else folder / LOG
    again = log is not None and (log, origin) in _noted and log.exists()
    versions = f"cloak {sys.modules['engine'].__version__}, Python {sys.version.split()[0]}, {sys.platform}"
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {versions}{about and ': ' + about}\n"
    if again:
        text = f"{head}{type(error).__name__}: {words(error)}, where the same arose above\n\n"
    else:
        text = head + "".join(traceback.format_exception(error)) + "\n"
    data = text.encode(errors="backslashreplace")
    if log is not None:
        try:
            if not again or log.stat().st_size < LOG_LIMIT:
                files.append(log, data)
            _noted.add((log, origin))
            return log
        except OSError:
            pass
    try:
        descriptor, name = tempfile.mkstemp(prefix="cloak-", suffix=".log")
        with open(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        return None
    return Path(name)


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def place(error: BaseException) -> str:
    """The line of this package in which an exception arose, as FILE:LINE, or what was called there; "" without any.

    Example:
        >>> place(ValueError("of nobody"))
        ''
    """
    root = Path(__file__).parent
    frames = [frame for frame in _frames(error) if Path(frame.filename).is_relative_to(root)]
    return f"{Path(frames[-1].filename).relative_to(root.parent)}:{frames[-1].lineno}" if frames else ""


def unexpected(error: BaseException, folder: Path | None = None, *, about: str = "") -> str:
    """Words for an exception that nobody foresaw, which is noted. folder, about: as for `noted`."""
    log = noted(error, folder, about=about)
    return mistake(error, f" with {log}, which says where it arose" if log else "")


def mistake(error: BaseException, how: str = "") -> str:
    """Words for an exception that nobody foresaw, without noting it.

    how: how to report it, after "please report it".
    """
    at = f" at {line}" if (line := place(error)) else ""
    said = f"Unexpected {type(error).__name__}{at}: {words(error)}"
    return f"{said}. It is a mistake in the program: please report it{how}."


def of_disk(error: BaseException) -> str:
    """Words of an exception for a disk without room, without a full stop; "" if it is another."""
    return f"a disk is full ({words(error)}): make room" if full(error) else ""


def too_little_memory() -> str:
    """Why nothing can be begun under this process's limit of memory, "" if there is none so low: libraries crash."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= LEAST_MEMORY:
        return ""
    return f"this process may take {limit >> 20} MiB of memory (ulimit -v), and needs 2048: raise that limit"


def of_machine(error: BaseException) -> str:
    """Words of an exception about this machine, without a full stop: its memory, its devices; "" if it is another."""
    text = str(error)
    if isinstance(error, MemoryError) or any(part in text for part in NO_MEMORY):
        return "this machine, or a limit set for it (ulimit), has not enough memory: use fewer --workers"
    if of_device(error) and ("RESOURCE_EXHAUSTED" in text or "ut of memory" in text):
        return f"the device has not enough memory ({words(error)}): use a smaller --batch"
    if reason := no_devices(error):
        return f"JAX finds no device of the kind that was asked for ({reason}): unset or correct JAX_PLATFORMS"
    if of_device(error):
        return f"the device failed ({words(error)})"
    return ""


def of_device(error: BaseException) -> bool:
    """Whether a device, or the program on it, failed: XLA's own exceptions, known without importing JAX."""
    return any(kind.__name__ in ("JaxRuntimeError", "XlaRuntimeError") for kind in type(error).__mro__)


def no_devices(error: BaseException) -> str:
    """Words of JAX about devices that were asked for and are not there, if that is what an exception means, else ""."""
    if "initialize backend" in str(error):
        return words(error)
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, (AssertionError, RuntimeError)) or not os.environ.get("JAX_PLATFORMS"):
        return ""
    try:  # JAX cuts its own part out of tracebacks, and some of what it raises says nothing
        jax.local_devices()
    except Exception as refusal:
        return words(refusal) if str(refusal) else f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}"
    return ""
