"""Photos through the three stages at once: prepare in threads, solve in the slots of a desk, finish in threads.

Results come in the order of the sources, as soon as they can. Every queue is bounded. In flight are at most the photos
whose faces fill the slots twice, and a few more. If few have faces, they are at most BEHIND for each slot. They take no
more bytes than `budget.allowed`. So memory grows neither with the collection nor with the size of its photos. Several
streams at one desk share its slots, threads and bytes. The Clock tells who waited for whom.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from engine.bulk.batching import FaceCloak, FaceJob
from engine.bulk.desk import Caller, ClosedError, Desk
from engine.bulk.prepare import Prepared

S = TypeVar("S")
R = TypeVar("R")

BEHIND = 8
"""Photos in line for each slot: with a face in one of four photos, they fill the slots twice."""


@dataclass
class Stages(Generic[S, R]):
    """Stages of one source of type S on its way to a result R. None of them raises for a bad photo.

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
    """Seconds spent, by phase.

    group: telling who is who, before anything is cloaked. prepare, finish: sums over threads. solve: the device at
    work. between: its pauses from chunk to chunk. wait: the solver waits for photos to be prepared. blocked: the solver
    waits for photos to be finished.

    slot_steps, worked: as in `batching.Usage`. steady_slot_steps, steady_worked: the part of them while there was more
    to come.
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
    desk: Desk,
    *,
    clock: Clock | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[tuple[S, R], None, None]:
    """Every source with its result, in order. progress gets (faces done, faces in slots) after every chunk of steps.

    An exception of a stage that is not about one photo ends the stream; work that was begun in threads is finished. One
    that `sources` raises comes after the results of what it gave before.
    Raises ClosedError once the desk is closed, after the results of what was begun.
    """
    with desk.caller() as caller:
        line = _Line(sources, stages, caller, clock or Clock())
        try:
            yield from line.results(progress)
        finally:
            line.end()


class _Line(Generic[S, R]):
    """One stream at work. pending: photos being prepared. photos: prepared ones, in order, until they are yielded."""

    def __init__(
        self,
        sources: Iterable[S],
        stages: Stages[S, R],
        caller: Caller[tuple[_Photo[S, R], int]],
        clock: Clock,
    ) -> None:
        self.stages, self.caller, self.clock = stages, caller, clock
        self.desk, self.workers = caller.desk, caller.desk.workers
        self.remaining = iter(sources)
        self.next: tuple[S, int] | None = None
        """The first of them that there was no room for yet, with its bytes."""
        self.refused = False
        """Whether there is one that was not begun since the desk was closed."""
        self.broken: Exception | None = None
        """Error of the iterator of the sources."""
        self.pending: deque[tuple[S, int, Future[Prepared | R]]] = deque()
        self.photos: deque[_Photo[S, R]] = deque()
        self.cloaked = 0
        """Faces."""

    def results(self, progress: Callable[[int, int], None] | None) -> Iterator[tuple[S, R]]:
        self._fetch()
        while self.pending or self.caller.faces or self.next is not None:
            self._admit()
            self._solve()
            if progress is not None:
                progress(self.cloaked, self.desk.active)
            # With nothing else to do, wait for what is being finished: its bytes make room for the next.
            idle = not (self.pending or self.caller.faces)
            yield from self._ready(at_most=0 if idle else 2 * self.workers)
            self._fetch()
        yield from self._ready(at_most=0)
        if self.broken is not None:
            raise self.broken
        if self.refused:
            raise ClosedError("the Cloaker was closed before all photos were begun: make another one for the rest")

    def end(self) -> None:
        """Begin nothing more, and wait for what threads are at.

        A stream that was left may be collected in any thread. One of the desk's own may be what would be waited for.
        """
        futures: list[Future] = [future for _, _, future in self.pending]
        futures += [photo.done for photo in self.photos if photo.done is not None]
        running = [future for future in futures if not future.cancel()]
        if not self.desk.is_own_thread():
            wait(running)

    def _fetch(self) -> None:
        """Begin with sources while there are threads and bytes for them; with one at a time in any case."""
        while len(self.pending) < 2 * self.workers + 1 and not self.refused and self.broken is None:
            if self.next is None:
                try:
                    source = next(self.remaining)
                except StopIteration:
                    return
                except Exception as error:  # of the caller's own iterator: what it gave before is finished first
                    self.broken = error
                    return
                self.next = source, self.stages.cost(source)
            source, cost = self.next
            self.refused = self.desk.closed
            if self.refused:
                self.next = None
                return
            self.caller.bytes = self._taken()
            if not self.desk.fits(self.caller, cost):
                return
            self.next = None
            self.caller.bytes += cost
            self.pending.append((source, cost, self._submit("prepare", self.stages.prepare, source)))

    def _taken(self) -> int:
        unfinished = (photo.cost for photo in self.photos if photo.done is None or not photo.done.done())
        return sum(cost for _, cost, _ in self.pending) + sum(unfinished)

    def _submit(self, phase: str, work: Callable[..., R | Prepared], *arguments: object) -> Future:
        return self.desk.pool.submit(self._timed, phase, work, *arguments)

    def _timed(self, phase: str, work: Callable[..., R | Prepared], *arguments: object) -> R | Prepared:
        with self.clock.time(phase):
            return work(*arguments)

    def _admit(self) -> None:
        """Take in prepared photos until as many faces wait as there are slots.

        Empty slots waste their share of every chunk. Waiting for photos that would fill them idles the device. So the
        device waits until waiting has cost as much as the empty slots will.
        """
        waited, size = 0.0, self.desk.batcher.size
        while self.pending and self.caller.faces < 2 * size and not self._due():
            future = self.pending[0][2]
            if future.done():
                self._take()
            else:
                vacant = self.desk.vacant
                if not vacant:
                    return
                patience = self.desk.chunk * vacant / size - waited
                if patience <= 0 and self.caller.faces:
                    return
                begun = time.perf_counter()
                with self.desk.expecting():
                    wait([future], timeout=patience if self.caller.faces and patience < float("inf") else None)
                    if future.done():
                        self._take()
                waited += time.perf_counter() - begun
                self.clock.add("wait", time.perf_counter() - begun)
            self._fetch()

    def _due(self) -> bool:
        """Whether results are to be handed on now, or as many wait behind a photo that is at work as may."""
        if not self.photos:
            return False
        first = self.photos[0].done
        if first is not None and first.done() and not self.caller.faces:
            return True
        return len(self.photos) >= BEHIND * self.desk.batcher.size

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
                    self.caller.add((photo, index), job)
                return
            prepared = admitted
        photo.done = Future()
        photo.done.set_result(prepared)

    def _solve(self) -> None:
        usage = self.desk.usage
        seconds, between, slot_steps, worked = usage.seconds, usage.between, usage.slot_steps, usage.worked
        steady = bool(self.pending) or self.next is not None
        for (photo, index), cloak in self.caller.advance(eager=bool(self.pending)):
            photo.cloaks[index] = cloak
            photo.missing -= 1
            self.cloaked += 1
            if photo.missing == 0:
                photo.done = self._submit("finish", self._finish, photo)
        if usage.slot_steps == slot_steps:
            return
        self.clock.add("solve", usage.seconds - seconds)
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
