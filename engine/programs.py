"""Compiled programs that outlive the process: what was compiled once is loaded, not even traced again.

JAX's persistent cache saves XLA's work. But a program has to be traced and lowered to be looked up in it, which takes
longer than cloaking a photo. A program kept here is found by what it was made from. These are the engine's source, JAX,
its settings and flags, the processor, and the shapes and static parts of the arguments. None of these covers code of
other packages or code changed at run time. So only a caller that knows of no such code uses `kept_in`. Only programs of
one CPU are kept.

A program is code, so nothing is loaded that somebody else could have written. The folder and its files are the user's
alone (`engine.private`). Every file begins with a MAC under a key that lies beside it. The MAC is checked before
anything else of the file is looked at. What fails is deleted and made again; a program that cannot be kept is used all
the same.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import pickle
import platform
import secrets
import subprocess
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial, update_wrapper
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from engine import files, private

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

LOAD = "/engine/programs/load_duration"
"""The monitoring event of a program that was loaded, with its seconds and `fun_name`."""
KEY = ".key"
"""Suffix of the file beside the folder that has the key of the MACs, 32 bytes."""
MOST = 96
"""Programs kept, those used last: the default recipe needs nineteen, each of at most some megabytes."""

_IRRELEVANT = ("jax_compilation_cache", "jax_persistent_cache", "jax_enable_compilation_cache", "jax_log")
"""JAX's settings that change no program."""

MANY = 4
"""Missing programs from which on a helper is worth its own start, some seconds."""

_folder: Path | None = None
_helpers: list[subprocess.Popen] = []
_uncaching = threading.Lock()
_uncached_by = 0
"""Threads that compile what will be kept, and JAX's own setting meanwhile put aside."""
_cached_before = True


@contextmanager
def kept_in(folder: Path | None) -> Iterator[None]:
    """Within it, programs of any thread are loaded from this folder and kept in it; None: neither, nor made ahead.

    A helper of `ahead` does not outlive it.
    """
    global _folder
    before, _folder = _folder, folder
    try:
        yield
    finally:
        _folder = before
        _end_helpers()


Call = tuple["Kept[..., Any]", tuple]
"""A kept function and the arguments that it will be called with, as in `Kept.ahead`."""


def ahead(listed: Callable[[], Sequence[Call]], *, threads: int, helper: Callable[[], subprocess.Popen]) -> None:
    """Make the programs of the calls that are `listed` beside the caller, who goes on at once.

    threads: how many to load with. Compiling holds Python's lock most of the time (jaxlib 0.10). So if MANY are missing
    and there are several threads, a process helps. `helper` begins it, and it must call `from_the_end` with the same
    list. What waits when `kept_in` ends is never begun. What fails here fails again, and is told, when the program is
    called. If nothing is kept, nothing is made.
    """
    if _folder is None:
        return
    waiting: deque[Call] = deque()

    def begin() -> None:
        waiting.extend(listed())
        if threads > 1 and sum(function.missing(*arguments) for function, arguments in waiting) >= MANY:
            _quietly(partial(_help, helper))
        for _ in range(1, threads):
            threading.Thread(target=work, name="programs-ahead").start()
        work()

    def work() -> None:
        with suppress(IndexError):
            while _folder is not None:
                function, arguments = waiting.popleft()
                _quietly(partial(function.ahead, *arguments))

    threading.Thread(target=_quietly, args=(begin,), name="programs-ahead").start()


def _help(helper: Callable[[], subprocess.Popen]) -> None:
    _helpers.append(helper())
    if _folder is None:  # it ended meanwhile
        _end_helpers()


def _end_helpers() -> None:
    with suppress(IndexError):
        while True:
            with _helpers.pop() as helper:
                helper.terminate()


def from_the_end(calls: Sequence[Call]) -> None:
    """Make the missing ones of these programs, the last first: what a helper of `ahead` does."""
    for function, arguments in reversed(calls):
        if function.missing(*arguments):
            function.ahead(*arguments)


def _quietly(make: Callable[[], None]) -> None:
    try:
        make()
    except Exception:  # whatever it is, the call that needs the program raises it too
        log.debug("a program could not be made ahead", exc_info=True)


class Kept(Generic[P, R]):
    """A jitted function of positional arguments, whose programs are kept where `kept_in` says."""

    def __init__(self, function: Callable[P, R], *, static: int | None = None, donated: int | None = None) -> None:
        """static, donated: which argument; the static one must tell all of itself in its repr."""
        self.jitted = jax.jit(function, static_argnums=static, donate_argnums=donated)
        self.lower = self.jitted.lower
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._static, self._donated = static, donated
        self._programs: dict[Any, Callable[..., R]] = {}
        self._locks: defaultdict[Any, threading.Lock] = defaultdict(threading.Lock)
        update_wrapper(self, function)

    def __call__(self, *arguments: P.args, **_: P.kwargs) -> R:
        """Result of the function; its programs are for the types and shapes of the arguments."""
        program = self._program(arguments)
        if program is None:
            return self.jitted(*arguments)
        return program(*self._dynamic(arguments))

    def ahead(self, *arguments: Any) -> None:
        """Make or load the program that a call with such arguments will run; no more than that.

        Arguments: as in the call, with `jax.ShapeDtypeStruct`s that have a sharding for arrays that are not there yet.
        """
        self._program(arguments)

    def missing(self, *arguments: Any) -> bool:
        """Whether the program of such a call would have to be compiled, and could be kept."""
        key = self._key(arguments)
        path = None if key is None or key in self._programs else self._path(key)
        return path is not None and not path.exists()

    def _dynamic(self, arguments: tuple) -> tuple:
        return tuple(argument for index, argument in enumerate(arguments) if index != self._static)

    def _program(self, arguments: tuple) -> Callable[..., R] | None:
        """None if none is to be kept."""
        key = self._key(arguments)
        if key is None:
            return None
        if key in self._programs:
            return self._programs[key]
        path = self._path(key)
        if path is None:
            return None
        with self._locks[key]:
            program = self._programs.get(key)  # another thread may just have made it
            if program is None:
                dynamic, device = self._dynamic(arguments), key[-1]
                program = _load(path, dynamic, device) or _claimed(path, dynamic, device, self.jitted, arguments)
                self._programs[key] = program
        return program

    def _key(self, arguments: tuple) -> tuple | None:
        """Key that tells the program from others of the function, the device last; None if none is to be kept."""
        if _folder is None:
            return None
        leaves, tree = jax.tree.flatten(self._dynamic(arguments))
        device = _one_cpu(leaves)
        if device is None:
            return None
        static = None if self._static is None else arguments[self._static]
        kinds = tuple((leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves)
        return static, tree, kinds, device

    def _path(self, key: tuple) -> Path | None:
        """The program's file; None if something tells it from others only by its place in this process's memory."""
        text = f"{(*key[:-1], key[-1].id)} {self._donated}"
        if _folder is None or " at 0x" in text:
            return None
        return _folder / f"{self._name}-{_hash(text)}.program"


def kept(*, static: int | None = None, donated: int | None = None) -> Callable[[Callable[P, R]], Kept[P, R]]:
    """`Kept` as a decorator."""
    return partial(Kept, static=static, donated=donated)


def _one_cpu(leaves: Sequence[Any]) -> jax.Device | None:
    kinds = (jax.Array, jax.ShapeDtypeStruct)
    if any(not isinstance(leaf, kinds) or isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    devices = {device for leaf in leaves if leaf.sharding is not None for device in leaf.sharding.device_set}
    return devices.pop() if len(devices) == 1 and next(iter(devices)).platform == "cpu" else None


def _hash(text: str) -> str:
    return hashlib.sha256(f"{_surroundings()}\n{text}".encode()).hexdigest()[:32]


def _load(path: Path, dynamic: tuple, device: jax.Device) -> Callable[..., Any] | None:
    begun = time.perf_counter()
    key = _key(path.parent) if path.parent.is_dir() else None
    data = None if key is None else private.read(path)
    if key is None or data is None:
        return None
    mac, packed = data[:32], data[32:]
    try:
        if not hmac.compare_digest(mac, _mac(key, path, packed)):
            raise ValueError("not what was written")
        payload, out_tree = pickle.loads(packed)
        in_tree = jax.tree.structure((dynamic, {}))
        program = serialize_executable.deserialize_and_load(payload, in_tree, out_tree, execution_devices=[device])
        os.utime(path)
    except Exception:  # damaged, or not for this machine, of which its reader raises anything: it is made again
        with suppress(OSError):
            path.unlink()
        return None
    name = path.name.partition("-")[0].rpartition(".")[2]
    jax.monitoring.record_event_duration_secs(LOAD, time.perf_counter() - begun, fun_name=name)
    return program


def _claimed(path: Path, dynamic: tuple, device: jax.Device, jitted: Any, arguments: tuple) -> Callable[..., Any]:
    """Made by one process; another that needs it meanwhile waits and loads it."""
    lock = path.with_suffix(".lock")
    with ExitStack() as held:
        try:
            if not private.trusted(path.parent):
                raise NotADirectoryError(path.parent)  # others could hold the lock for ever
            held.enter_context(files.locked(lock, wait=True))
        except (OSError, files.HeldError):  # nor is there room, or a lock: made for this process alone
            return _make(path, jitted, arguments)
        try:
            return _load(path, dynamic, device) or _make(path, jitted, arguments)
        finally:
            lock.unlink(missing_ok=True)


def _make(path: Path, jitted: Any, arguments: tuple) -> Callable[..., Any]:
    with _uncached():  # XLA:CPU cannot write again what it has read
        program = jitted.lower(*arguments).compile()
    key = _key(path.parent)
    if key is None:
        return program
    try:
        # Not the arguments' tree, which has networks in it and so any function: who loads it has arguments like these.
        payload, _, out_tree = serialize_executable.serialize(program)
        packed = pickle.dumps((payload, out_tree))
    except Exception:  # not everything can be serialised, and nobody is told which: it only costs time, the next time
        return program
    with suppress(OSError):  # nor does a folder that is full
        files.write(path, _mac(key, path, packed) + packed)
        _remove(path.parent)
    return program


def _remove(folder: Path) -> None:
    """All but the MOST programs that were used last, and what a killed process left half-written an hour ago."""
    for old in sorted(folder.glob("*.program"), key=lambda path: -path.stat().st_mtime)[MOST:]:
        old.unlink(missing_ok=True)
    for leftover in folder.glob(".*.part"):
        if leftover.stat().st_mtime < time.time() - 3600:
            leftover.unlink(missing_ok=True)


def _key(folder: Path) -> bytes | None:
    """The folder's key, made if there is none; None if the folder is not the user's alone: nothing is kept there."""
    if not private.trusted(folder):
        return None
    place = folder.with_name(folder.name + KEY)
    key = private.read(place)
    if key is None or len(key) != 32:
        key = secrets.token_bytes(32)
        try:
            files.write(place, key)
        except OSError:
            return None
    return key


def _mac(key: bytes, path: Path, packed: bytes) -> bytes:
    # The name too: a program must not stand for another one.
    return hmac.digest(key, path.name.encode() + b"\0" + packed, "sha256")


@contextmanager
def _uncached() -> Iterator[None]:
    """JAX's own cache is off, for the whole process, while any thread is inside."""
    global _uncached_by, _cached_before
    with _uncaching:
        if not _uncached_by:
            _cached_before = jax.config.values["jax_enable_compilation_cache"]
            _cache(False)
        _uncached_by += 1
    try:
        yield
    finally:
        with _uncaching:
            _uncached_by -= 1
            if not _uncached_by:
                _cache(_cached_before)


def _cache(on: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", on)
    compilation_cache.reset_cache()


@cache
def _surroundings() -> str:
    """All that a program is made from besides its function and arguments."""
    source = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        digest.update(f"{path.relative_to(source)}\n".encode() + path.read_bytes())
    packages = [f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax")]
    settings = [item for item in sorted(jax.config.values.items()) if not item[0].startswith(_IRRELEVANT)]
    flags = os.environ.get("XLA_FLAGS", "")
    return "\n".join(map(str, (digest.hexdigest(), packages, settings, flags, _processor(), os.cpu_count())))


def _processor() -> list[str]:
    """Features that its programs may use: they fail, or end the process, on one that lacks them."""
    features = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return features
