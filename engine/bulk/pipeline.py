"""Photos through the three stages at once: prepare in threads, solve in full batches here, finish in threads.

Results come in the order of the sources. In flight are at most the photos that fill a batch and a few more, so
memory does not grow with the collection.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from engine.bulk.batching import Batcher, FaceCloak, FaceJob
from engine.bulk.prepare import Prepared

S = TypeVar("S")
R = TypeVar("R")


@dataclass
class Stages(Generic[S, R]):
    """What happens to one source of type S on its way to a result R. None of them raises for a bad photo.

    prepare: in a worker thread; an R ends the matter. admit: in the calling thread, the photo with the faces to cloak,
    or an R. finish: in a worker thread, with the cloaks of the faces in order.
    """

    prepare: Callable[[S], Prepared | R]
    admit: Callable[[S, Prepared], tuple[Prepared, list[FaceJob]] | R]
    finish: Callable[[S, Prepared, list[FaceCloak]], R]


@dataclass
class Clock:
    """Seconds spent, by phase: group is who is who, before anything is cloaked; prepare and finish are summed over
    threads, wait is the solver without work.
    """

    group: float = 0.0
    prepare: float = 0.0
    solve: float = 0.0
    finish: float = 0.0
    wait: float = 0.0
    faces: int = 0
    slots: int = 0

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Adds the seconds that its block takes to a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + time.perf_counter() - begun)


@dataclass
class _Slot(Generic[S, R]):
    source: S
    prepared: Prepared | None = None
    missing: int = 0
    cloaks: dict[int, FaceCloak] = field(default_factory=dict)
    done: Future[R] | None = None


def stream(
    sources: Iterable[S],
    stages: Stages[S, R],
    batcher: Batcher,
    *,
    workers: int,
    clock: Clock | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[S, R]]:
    """Every source with its result, in order. progress gets (steps done, faces in the batch) while a batch is solved.

    An exception of a stage that is not about one photo ends the stream; work that was begun in threads is finished.
    """
    clock = clock or Clock()
    slots: deque[_Slot[S, R]] = deque()
    waiting: deque[tuple[_Slot[S, R], int, FaceJob]] = deque()
    pool = ThreadPoolExecutor(workers)
    prefetch: deque[tuple[S, Future[Prepared | R]]] = deque()
    remaining = iter(sources)

    def timed(phase: str, work: Callable[[], R | Prepared]) -> R | Prepared:
        with clock.time(phase):
            return work()

    def fetch() -> None:
        while len(prefetch) < 2 * workers + 1:
            try:
                source = next(remaining)
            except StopIteration:
                return
            prefetch.append((source, pool.submit(timed, "prepare", lambda source=source: stages.prepare(source))))  # type: ignore[arg-type]

    def settle(slot: _Slot[S, R], result: R) -> None:
        slot.done = Future()
        slot.done.set_result(result)

    def admit() -> None:
        source, future = prefetch.popleft()
        with clock.time("wait"):
            prepared = future.result()
        slot = _Slot(source)
        slots.append(slot)
        if not isinstance(prepared, Prepared):
            settle(slot, prepared)
            return
        admitted = stages.admit(source, prepared)
        if not isinstance(admitted, tuple):
            settle(slot, admitted)
            return
        slot.prepared, jobs = admitted
        slot.missing = len(jobs)
        waiting.extend((slot, index, job) for index, job in enumerate(jobs))

    def solve() -> None:
        some = [waiting.popleft() for _ in range(min(batcher.size, len(waiting)))]
        report = None if progress is None else lambda steps: progress(steps, len(some))
        with clock.time("solve"):
            cloaks = batcher.solve([job for _, _, job in some], progress=report)
        clock.faces += len(some)
        clock.slots += batcher.size
        for (slot, index, _), cloak in zip(some, cloaks, strict=True):
            slot.cloaks[index] = cloak
            slot.missing -= 1
            if slot.missing == 0:
                slot.done = pool.submit(timed, "finish", lambda slot=slot: _finish(stages, slot))  # type: ignore[assignment]

    def ready(*, at_most: int) -> Iterator[tuple[S, R]]:
        """Results at the head that are there; waits for them while more than `at_most` are unfinished."""
        while slots and slots[0].done is not None:
            unfinished = sum(slot.done is not None and not slot.done.done() for slot in slots)
            if not slots[0].done.done() and unfinished <= at_most:
                return
            slot = slots.popleft()
            assert slot.done is not None
            yield slot.source, slot.done.result()

    try:
        fetch()
        while prefetch:
            admit()
            fetch()
            while len(waiting) >= batcher.size:
                solve()
            yield from ready(at_most=2 * workers)
        while waiting:
            solve()
        yield from ready(at_most=0)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(stages: Stages[S, R], slot: _Slot[S, R]) -> R:
    assert slot.prepared is not None
    prepared, slot.prepared = slot.prepared, None
    return stages.finish(slot.source, prepared, [slot.cloaks[index] for index in range(len(slot.cloaks))])
