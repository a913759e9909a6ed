"""Workers that live long, and are replaced if they die: each input has a bound on processor time and on memory."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 10.0
"""Processor time that one input may take."""
MEGABYTES = 1024
"""Memory that one input may take beyond its picture's own size."""
_HARD = 4 << 30  # of address space for data: beyond it, allocation fails
_WALL = 120.0


class Outcome(NamedTuple):
    """number: of the input. verdict: "done", "refused", or a finding. container: of the input. detail: for people."""

    number: int
    verdict: str
    container: str = ""
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    finding: bool = False


def run(target: str, numbers: Iterable[int], settings: dict[str, Any], *, workers: int) -> Iterator[Outcome]:
    """The outcome of every input, in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    waiting, pool = iter(numbers), [_Worker(context, target, settings) for _ in range(workers)]
    try:
        for worker in pool:
            worker.give(next(waiting, None))
        while busy := [worker for worker in pool if worker.number is not None]:
            ready = wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in busy:
                if worker.pipe in ready or worker.late():
                    yield worker.take()
                    worker.give(next(waiting, None))
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    def __init__(self, context: Any, target: str, settings: dict[str, Any]) -> None:
        self.start_again: Callable[[], None] = lambda: self._start(context, target, settings)
        self.number: int | None = None
        self.start_again()

    def _start(self, context: Any, target: str, settings: dict[str, Any]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, target, settings), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, number: int | None) -> None:
        self.number, self.since = number, time.monotonic()
        if number is not None:
            with contextlib.suppress(BrokenPipeError):
                self.pipe.send(number)

    def late(self) -> bool:
        return time.monotonic() - self.since > _WALL

    def take(self) -> Outcome:
        number = self.number
        assert number is not None
        try:
            if not self.late():
                return self.pipe.recv()
        except (EOFError, OSError):
            pass
        self.end()
        code = self.process.exitcode or 0
        self.start_again()
        if code == -signal.SIGPROF:
            return Outcome(number, "hangs", detail=f"over {SECONDS:.0f} s of processor time", finding=True)
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        return Outcome(number, "dies", detail=name, finding=True)

    def end(self) -> None:
        self.pipe.close()
        if self.process.is_alive():
            self.process.join(5.0)  # one that has ended says how
            self.process.kill()
        self.process.join()


def _serve(pipe: Connection, target: str, settings: dict[str, Any]) -> None:
    from fuzzing import targets

    with open(os.devnull, "w") as nothing:  # libraries complain of what they read
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_HARD, _HARD))
    inputs = targets.TARGETS[target](**settings)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            number = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, SECONDS + 2)
            pipe.send(examine(inputs, number))
            signal.setitimer(signal.ITIMER_PROF, 0)


def examine(target: Any, number: int) -> Outcome:
    """Makes and tries one input in this process."""
    case = target.make(number)
    _trim()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    start = time.process_time()
    verdict, detail, size, finding = target.check(case)
    seconds = time.process_time() - start
    megabytes = max(0.0, _memory("VmHWM") - before - size / 1e6)
    if not finding and seconds > SECONDS:
        verdict, detail, finding = "slow", f"{verdict} after {seconds:.1f} s of processor time: {detail}", True
    if not finding and megabytes > MEGABYTES:
        verdict, detail, finding = "large", f"{verdict} with {megabytes:.0f} MB: {detail}", True
    return Outcome(number, verdict, case.container, f"{case.name}: {detail}", seconds, megabytes, finding)


def _trim() -> None:
    """Gives free memory back to the system, as what an input took of it would not count."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _memory(field: str) -> float:
    """Megabytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1e3
    return 0.0
