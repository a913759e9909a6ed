"""The library of faults.c: compiled where it is used, told what to do, and asked what it did."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


class Kinds(IntFlag):
    """Kinds of calls. LOOK: opening for reading, reading, stat; the others change something, or take a lock."""

    MAKE = 1
    DATA = 2
    MOVE = 4
    REMOVE = 8
    SYNC = 16
    LOCK = 32
    ATTRIBUTE = 64
    LOOK = 128


CHANGES = Kinds.MAKE | Kinds.DATA | Kinds.MOVE | Kinds.REMOVE | Kinds.SYNC | Kinds.ATTRIBUTE


class Action(IntEnum):
    """What happens at the n-th call. TEAR: half of a write, then the end; FILL: half of it, then no more room."""

    COUNT = 0
    FAIL = 1
    KILL_BEFORE = 2
    KILL_AFTER = 3
    TEAR = 4
    FILL = 5
    RENAME = 6
    TRUNCATE = 7


KILLS = frozenset({Action.KILL_BEFORE, Action.KILL_AFTER, Action.TEAR})


@dataclass(frozen=True)
class Fault:
    """An order to the library. nth: from 1. stays: all calls from the n-th fail. source, to: of RENAME and TRUNCATE.

    locks: False on a file system that has none.
    """

    action: Action = Action.COUNT
    kinds: Kinds = CHANGES | Kinds.LOCK
    nth: int = 0
    error: int = 0
    stays: bool = False
    source: Path | None = None
    to: Path | None = None
    locks: bool = True


@dataclass(frozen=True)
class Found:
    """What the library saw. counts: calls by kind; done: how many were disturbed; what: the first, name and path.

    trespasses: calls that would have changed something below the guarded folder; trespass: the first.
    """

    counts: dict[Kinds, int]
    done: int
    what: str
    trespasses: int
    trespass: str


class _State(ctypes.Structure):
    _fields_ = (
        ("watched", ctypes.c_char * 1024),
        ("guarded", ctypes.c_char * 1024),
        ("source", ctypes.c_char * 1024),
        ("to", ctypes.c_char * 1024),
        ("kinds", ctypes.c_int64),
        ("nth", ctypes.c_int64),
        ("action", ctypes.c_int64),
        ("error", ctypes.c_int64),
        ("stays", ctypes.c_int64),
        ("nolocks", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("by_kind", ctypes.c_int64 * len(Kinds)),
        ("done", ctypes.c_int64),
        ("trespasses", ctypes.c_int64),
        ("what", ctypes.c_char * 1024),
        ("trespass", ctypes.c_char * 1024),
    )


def missing() -> str:
    """Why no fault can be made here; "" if it can."""
    if not os.path.exists("/proc/self/fd"):
        return "faults are made under Linux only"
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


def build(folder: Path) -> Path:
    """The compiled library, in a folder."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-O1", "-w", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Shim:
    """The driver's side of the state that it shares with the processes under test."""

    def __init__(self, path: Path) -> None:
        """path: the file of the state; made if it is not there."""
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(ctypes.sizeof(_State)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_State))
        self._state = _State.from_buffer(self._map)

    def order(self, fault: Fault, *, watched: Path, guarded: Path) -> None:
        """What the next process that starts the library is to do. watched, guarded: absolute, no links in them."""
        state = self._state
        ctypes.memset(ctypes.byref(state), 0, ctypes.sizeof(state))
        state.watched, state.guarded = os.fsencode(watched), os.fsencode(guarded)
        state.source = os.fsencode(fault.source or "")
        state.to = os.fsencode(fault.to or "")
        state.kinds, state.nth, state.action = int(fault.kinds), fault.nth, int(fault.action)
        state.error, state.stays = fault.error, int(fault.stays)
        state.nolocks = int(not fault.locks)

    def found(self) -> Found:
        """What it did since the last order."""
        state = self._state
        call, trespass = (text.decode(errors="backslashreplace") for text in (state.what, state.trespass))
        counts = dict(zip(Kinds, state.by_kind, strict=True))
        return Found(counts, state.done, call, state.trespasses, trespass)


def start() -> None:
    """From now on this process is disturbed. Raises RuntimeError if it was started without the library."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "faults_start") or not library.faults_start():
        raise RuntimeError("the library of faults.c is not loaded")
