"""Photos through the three stages at once: prepare in threads, solve in a lane's slots here, finish in threads.

Results come in the order of the sources. Every queue is bounded: in flight are at most the photos whose faces fill the
slots twice and a few more, and no more bytes than `budget.allowed`. So memory grows neither with the collection nor
with the size of its photos. The Clock tells who waited for whom.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from engine.bulk import budget
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Lane
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
    cost: Callable[[S], int] = lambda source: 0
    """About how many bytes a source takes until it is finished."""


@dataclass
class Clock:
    """Seconds spent, by phase: group is who is who, before anything is cloaked; prepare and finish are summed over
    threads; solve is the device at work, between its pauses from chunk to chunk; wait is the solver waiting for photos
    to be prepared, blocked for photos to be finished.

    slot_steps, worked: as in `batching.Usage`; those of them while there was more to come are steady.
    """

    group: float = 0.0
    prepare: float = 0.0
    solve: float = 0.0
    between: float = 0.0
    finish: float = 0.0
    wait: float = 0.0
    blocked: float = 0.0
    slot_steps: int = 0
    worked: int = 0
    steady_slot_steps: int = 0
    steady_worked: int = 0

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Adds the seconds that its block takes to a phase."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - begun)

    def add(self, phase: str, seconds: float) -> None:
        """Adds seconds to a phase, from any thread."""
        with self._lock:
            setattr(self, phase, getattr(self, phase) + seconds)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()


@dataclass
class _Photo(Generic[S, R]):
    source: S
    cost: int = 0
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
    """Every source with its result, in order. progress gets (faces done, faces in slots) after every chunk of steps.

    An exception of a stage that is not about one photo ends the stream; work that was begun in threads is finished.
    """
    with ThreadPoolExecutor(workers) as pool:
        line = _Line(sources, stages, batcher.lane(), pool, workers, clock or Clock())
        try:
            yield from line.results(progress)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Line(Generic[S, R]):
    """One stream at work. pending: photos being prepared; photos: those since, in order, until they are yielded."""

    def __init__(
        self,
        sources: Iterable[S],
        stages: Stages[S, R],
        lane: Lane[tuple[_Photo[S, R], int]],
        pool: ThreadPoolExecutor,
        workers: int,
        clock: Clock,
    ) -> None:
        self.stages, self.lane, self.pool, self.workers, self.clock = stages, lane, pool, workers, clock
        self.remaining = iter(sources)
        self.next: tuple[S, int] | None = None
        """The first of them that there was no room for yet, with its bytes."""
        self.room = budget.allowed()
        self.pending: deque[tuple[S, int, Future[Prepared | R]]] = deque()
        self.photos: deque[_Photo[S, R]] = deque()
        self.chunk = float("inf")
        """Seconds that the last chunk of steps took; the first may have to be compiled."""

    def results(self, progress: Callable[[int, int], None] | None) -> Iterator[tuple[S, R]]:
        self._fetch()
        while self.pending or self.lane.busy or self.next is not None:
            self._admit()
            self._solve()
            if progress is not None:
                progress(self.lane.usage.faces, self.lane.active)
            # With nothing else to do, wait for what is being finished: its bytes make room for the next.
            idle = not (self.pending or self.lane.busy)
            yield from self._ready(at_most=0 if idle else 2 * self.workers)
            self._fetch()
        yield from self._ready(at_most=0)

    def _fetch(self) -> None:
        """Begin with sources while there are threads and bytes for them; with one at a time in any case."""
        while len(self.pending) < 2 * self.workers + 1:
            if self.next is None:
                try:
                    source = next(self.remaining)
                except StopIteration:
                    return
                self.next = source, self.stages.cost(source)
            source, cost = self.next
            if (taken := self._taken()) and taken + cost > self.room:
                return
            self.next = None
            self.pending.append((source, cost, self.pool.submit(self._timed, "prepare", self.stages.prepare, source)))

    def _taken(self) -> int:
        unfinished = (photo.cost for photo in self.photos if photo.done is None or not photo.done.done())
        return sum(cost for _, cost, _ in self.pending) + sum(unfinished)

    def _timed(self, phase: str, work: Callable[..., R | Prepared], *arguments: object) -> R | Prepared:
        with self.clock.time(phase):
            return work(*arguments)

    def _admit(self) -> None:
        """Take in prepared photos until as many faces wait as there are slots.

        Empty slots cost their share of every chunk, and so does the device while it waits for photos that would fill
        them: it waits until the second has cost as much as the first will.
        """
        waited = 0.0
        while self.pending and self.lane.backlog < self.lane.batcher.size:
            future = self.pending[0][2]
            if not future.done():
                if not self.lane.vacant:
                    return
                patience = self.chunk * self.lane.vacant / self.lane.batcher.size - waited
                if patience <= 0 and self.lane.busy:
                    return
                begun = time.perf_counter()
                wait([future], timeout=patience if self.lane.busy and patience < float("inf") else None)
                waited += time.perf_counter() - begun
                self.clock.add("wait", time.perf_counter() - begun)
                continue
            self._take()
            self._fetch()

    def _take(self) -> None:
        source, cost, future = self.pending.popleft()
        photo = _Photo[S, R](source, cost)
        self.photos.append(photo)
        prepared = future.result()
        if isinstance(prepared, Prepared):
            admitted = self.stages.admit(source, prepared)
            if isinstance(admitted, tuple):
                photo.prepared, jobs = admitted
                photo.missing = len(jobs)
                for index, job in enumerate(jobs):
                    self.lane.add((photo, index), job)
                return
            prepared = admitted
        photo.done = Future()
        photo.done.set_result(prepared)

    def _solve(self) -> None:
        usage = self.lane.usage
        seconds, between, slot_steps, worked = usage.seconds, usage.between, usage.slot_steps, usage.worked
        steady = bool(self.pending) or self.next is not None
        for (photo, index), cloak in self.lane.advance():
            photo.cloaks[index] = cloak
            photo.missing -= 1
            if photo.missing == 0:
                photo.done = self.pool.submit(self._timed, "finish", self._finish, photo)  # type: ignore[assignment]
        if usage.slot_steps == slot_steps:
            return
        self.chunk = usage.seconds - seconds
        self.clock.add("solve", self.chunk)
        self.clock.add("between", usage.between - between)
        self.clock.slot_steps += usage.slot_steps - slot_steps
        self.clock.worked += usage.worked - worked
        if steady:
            self.clock.steady_slot_steps += usage.slot_steps - slot_steps
            self.clock.steady_worked += usage.worked - worked

    def _finish(self, photo: _Photo[S, R]) -> R:
        assert photo.prepared is not None
        prepared, photo.prepared = photo.prepared, None
        return self.stages.finish(photo.source, prepared, [photo.cloaks[index] for index in range(len(photo.cloaks))])

    def _ready(self, *, at_most: int) -> Iterator[tuple[S, R]]:
        """Results at the head that are there; waits for them while more than `at_most` are unfinished."""
        while self.photos and self.photos[0].done is not None:
            unfinished = sum(photo.done is not None and not photo.done.done() for photo in self.photos)
            if not self.photos[0].done.done() and unfinished <= at_most:
                return
            photo = self.photos.popleft()
            assert photo.done is not None
            with self.clock.time("blocked"):
                result = photo.done.result()
            yield photo.source, result
