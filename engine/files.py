"""Files as users have them: opened only if they are files, written whole or not at all, held by one process at a time.

Every write of the engine goes through `Draft` or `write`, every lock through `locked`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path
from types import TracebackType
from uuid import uuid4

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a symbolic link"),
)
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
"""Permissions of what shows originals or tells of them: for the owner alone."""
PART = ".part"
"""The suffix of files that are not whole yet."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The error numbers of a disk, or a share of one, without room."""
UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""The error numbers of a file system that has no locks."""
PATIENCE = 60.0
"""Seconds to wait for a lock file of another process, which cannot be watched as a lock can."""

_unfinished: set[Draft] = set()
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WHOLE = 2**63 - 1


class NotAFileError(OSError):
    """Something other than what is needed lies at a path; `strerror` says what."""


class HeldError(RuntimeError):
    """Another process holds a lock. by: who, as far as it is known, else ""."""

    def __init__(self, by: str = "") -> None:
        """by: who holds it, in words."""
        super().__init__(by or "another process holds it")
        self.by = by


def opened(path: Path) -> BufferedReader:
    """The file, open for reading bytes. Never waits, whatever lies there.

    Raises NotAFileError for a pipe, a device, a socket or a folder, and OSError if the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EOPNOTSUPP):  # a socket, or a device that is not there
            raise NotAFileError(0, f"it is {_kind(os.stat(path).st_mode)}, not a file", str(path)) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotAFileError(0, f"it is {_kind(mode)}, not a file", str(path))
    return os.fdopen(descriptor, "rb")


def modified(status: os.stat_result) -> int:
    """Modification time in nanoseconds since 1970, within 64 bits: file systems know years that databases do not."""
    return max(-_WHOLE, min(_WHOLE, status.st_mtime_ns))


class Draft:
    """A file on its way to its place: written beside it, then renamed into it. A context manager.

    Nothing but `place` shows it at its place, and whatever goes wrong before leaves nothing behind.
    """

    def __init__(
        self,
        path: Path,
        *,
        root: Path | None = None,
        parts: Path | None = None,
        name: str = "",
        mode: int | None = PRIVATE,
    ) -> None:
        """Make the missing folders below root, and begin. Raises OSError, NotAFileError for what lies in the way.

        root: a folder below which no symbolic link is followed, by default the one that holds `path`. parts: a folder
        for the unfinished file, by default that of `path`. name: begins the unfinished file's name. mode: permissions,
        None for those that the user's umask leaves.
        """
        root = path.parent if root is None else root
        self.path, self.mode = path, mode
        self._root, self._parts = root, parts
        self._part = f"{name or '.' + path.name[:40]}-{uuid4().hex}{PART}"
        self._file: BufferedRandom | None = None
        self._at = self._place = -1
        try:
            self._approach(create=True)
            self._begin()
        except BaseException:
            self.discard()
            raise

    def _approach(self, *, create: bool = False) -> None:
        self._place = folder(self._root, self.path.parent.relative_to(self._root), create=create)
        self._at = self._place if self._parts is None else os.open(self._parts, _FOLDER | os.O_NOFOLLOW)

    def _begin(self) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = 0o666 if self.mode is None else PRIVATE
        self._file = os.fdopen(os.open(self._part, flags, mode, dir_fd=self._at), "w+b")
        _unfinished.add(self)

    def write(self, data: bytes | Iterable[bytes]) -> Draft:
        """Add bytes, or pieces of them. Raises OSError."""
        assert self._file is not None
        for piece in (data,) if isinstance(data, bytes) else data:
            self._file.write(piece)
        return self

    def rest(self) -> Draft:
        """Close the file until `place` or `discard`, so that any number of drafts can wait. Raises OSError."""
        assert self._file is not None
        self._file.close()
        self._file = None
        self._let_go()
        return self

    def place(self, *, modified: int | None = None) -> None:
        """Rename the file into its place once it is on the disk. Raises OSError; then it is as if nothing was begun.

        modified: the time that it shall bear, in nanoseconds; the present by default.
        """
        try:
            if self._file is None:
                self._approach()
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.fdopen(os.open(self._part, flags, dir_fd=self._at), "r+b")
            self._place_it(modified)
        finally:
            self.discard()

    def _place_it(self, modified: int | None) -> None:
        assert self._file is not None
        self._file.flush()
        descriptor = self._file.fileno()
        if self.mode is not None and self.mode != PRIVATE:
            with suppress(OSError):  # a file system without permissions
                os.fchmod(descriptor, self.mode)
        if modified is not None:
            with suppress(OSError, OverflowError):  # a time that this file system does not know
                os.utime(descriptor, ns=(modified, modified))
        os.fsync(descriptor)
        try:
            os.rename(self._part, self.path.name, src_dir_fd=self._at, dst_dir_fd=self._place)
        except OSError as error:
            if error.errno != errno.EXDEV or self._at == self._place:
                raise
            self._move_near()
            self._place_it(modified)

    def _move_near(self) -> None:
        """Another file system lies at the place: the unfinished file has to be there too."""
        far, at = self._file, self._at
        assert far is not None
        self._at = self._place
        try:
            self._begin()
            far.seek(0)
            self.write(iter(lambda: far.read(1 << 20), b""))
        finally:
            far.close()
            with suppress(OSError):
                os.unlink(self._part, dir_fd=at)
            os.close(at)

    def discard(self) -> None:
        """Remove the unfinished file. Never raises; after `place` it does nothing."""
        begun = self in _unfinished
        _unfinished.discard(self)
        if begun and self._at == -1:  # at rest
            with suppress(OSError):
                self._approach()
        if self._file is not None:
            with suppress(OSError, ValueError):
                self._file.close()
            self._file = None
        if begun and self._at != -1:
            with suppress(OSError):
                os.unlink(self._part, dir_fd=self._at)
        self._let_go()

    def _let_go(self) -> None:
        for descriptor in {self._at, self._place} - {-1}:
            with suppress(OSError):
                os.close(descriptor)
        self._at = self._place = -1

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def abandon() -> None:
    """Remove all unfinished files of this process, which is about to end in the middle of them. Never raises."""
    for draft in list(_unfinished):
        draft.discard()


def write(
    path: Path,
    data: bytes | Iterable[bytes],
    *,
    root: Path | None = None,
    parts: Path | None = None,
    name: str = "",
    mode: int | None = PRIVATE,
    modified: int | None = None,
) -> None:
    """Put a file in place whole or not at all; nothing half-written stays. Raises OSError. Arguments as in `Draft`."""
    with Draft(path, root=root, parts=parts, name=name, mode=mode) as draft:
        draft.write(data).place(modified=modified)


def remove(path: Path, *, root: Path) -> None:
    """Remove a file if it is there, through no symbolic link below root. Raises OSError."""
    try:
        at = folder(root, path.parent.relative_to(root))
    except FileNotFoundError:
        return
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=at)
    finally:
        os.close(at)


def folder(root: Path, below: Path, *, create: bool = False) -> int:
    """A descriptor of a folder, to be closed by the caller. Symbolic links are followed up to root, none below it.

    create: make the folders that are missing. Raises NotAFileError for what is no folder, and OSError.
    """
    if create:
        os.makedirs(root, exist_ok=True)
    at = os.open(root, _FOLDER)
    for part in below.parts:
        try:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=at)
            try:
                inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                kind = _kind(os.stat(part, dir_fd=at, follow_symlinks=False).st_mode)
                raise NotAFileError(error.errno, f"{kind} lies where the folder {part} has to be", part) from error
        finally:
            os.close(at)
        at = inner
    return at


def append(path: Path, data: bytes) -> None:
    """Add bytes to a private file's end. Raises OSError."""
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, PRIVATE), "ab") as file:
        file.write(data)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a path while the block lasts; False if the file system has no locks.

    Then an exclusive lock is a file beside it, PATH.held, which names its owner; of a shared one there is no trace.
    shared: with others that share it. wait: until it is free. Raises HeldError if another process holds it, OSError.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    try:
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        if _flocked(descriptor, kind):
            yield True
        elif shared:
            yield False
        else:
            with _named(path.with_name(path.name + ".held"), patience=PATIENCE if wait else 0.0):
                yield False
    finally:
        os.close(descriptor)


def _flocked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise HeldError from None
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True


@contextmanager
def _named(path: Path, *, patience: float) -> Iterator[None]:
    """Hold a file that names its owner: this host, process and time."""
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    until = time.monotonic() + patience
    while not _created(path, json.dumps(mine).encode()):
        if owner := _owner(path):
            if time.monotonic() >= until:
                raise HeldError(f"{owner}; if that has ended, delete {path}")
            time.sleep(0.2)
    try:
        for leftover in path.parent.glob(f"{path.name}-*{PART}"):  # of calls that were killed
            leftover.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def _created(path: Path, data: bytes) -> bool:
    """Make a file with its content at once, so that no kill leaves it empty; False if there is one already."""
    aside = path.with_name(f"{path.name}-{uuid4().hex}{PART}")
    try:
        append(aside, data)
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: between these two calls a kill can leave it empty
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, PRIVATE), "wb") as file:
                file.write(data)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            aside.unlink()
    return True


def _owner(path: Path) -> str:
    """Holder of a lock file, in words; "" if nobody does any more, and then the file is gone."""
    try:
        owner = json.loads(path.read_bytes())
        host, pid, since = owner["host"], int(owner["pid"]), owner["since"]
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError):
        return f"somebody who left no name in {path.name}"
    if host == socket.gethostname() and not _alive(pid):
        aside = path.with_name(f"{path.name}-{uuid4().hex}")
        with suppress(OSError):
            os.rename(path, aside)  # of two who find it, one alone moves it
            aside.unlink()
        return ""
    return f"process {pid} on {host}, since {since}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _kind(mode: int) -> str:
    return next((words for matches, words in KINDS if matches(mode)), "a file" if stat.S_ISREG(mode) else "no file")
