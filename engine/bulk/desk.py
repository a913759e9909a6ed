"""Resources shared by all callers of one Cloaker: the slots of the solver, the threads, the bytes that photos may take.

Every `pipeline.stream` is a caller, in a thread of its own, and all put their faces into one lane. No thread belongs to
the device. One of the callers that wait for faces leads, and runs the next chunk of steps for all of them. A caller
that fails or is interrupted while it leads takes nothing but its own faces with it. The others' faces begin anew in a
new lane. They come out the same up to rounding, whenever a face came.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from engine.bulk import budget
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Usage

T = TypeVar("T")

FIRST = 1.0
"""Seconds that a chunk of steps is taken for before one was run."""


class ClosedError(RuntimeError):
    """A call of a Cloaker that was closed, or that another process made."""


class Desk:
    """Slots, threads and bytes for any number of callers."""

    def __init__(self, batcher: Batcher, *, workers: int) -> None:
        """workers: threads that prepare and finish photos, for all callers together."""
        self.batcher, self.workers = batcher, workers
        self._threads = threading.local()
        self.pool = ThreadPoolExecutor(
            workers, thread_name_prefix="cloak", initializer=lambda: setattr(self._threads, "own", True)
        )
        self.chunk = float("inf")
        """Seconds that the last chunk of steps took; the first may have to be compiled."""
        self.closed = False
        self._process = os.getpid()
        self.lock = threading.RLock()
        self._arrival = threading.Condition(self.lock)
        """On which who leads waits for faces."""
        self._lane = batcher.lane()
        self._callers: set[Caller] = set()
        self._leader: Caller | None = None
        self._chunks = 0
        self._numbers = itertools.count()
        self._expected = 0
        self._room = budget.allowed()

    @property
    def usage(self) -> Usage:
        """Use of the slots since the desk was made."""
        return self._lane.usage

    @property
    def vacant(self) -> int:
        """Slots that would be empty if the next chunk began now."""
        return max(0, self.batcher.size - sum(caller.faces for caller in tuple(self._callers)))

    @property
    def active(self) -> int:
        """Faces in slots."""
        return self._lane.active

    @contextmanager
    def caller(self) -> Iterator[Caller]:
        """A new caller, which leaves at the end of the block. Raises ClosedError if the desk is closed."""
        self.refuse_if_closed()  # before the lock, which another process may hold for ever
        with self.lock:
            self.refuse_if_closed()
            if not self._callers:
                self._room = budget.allowed()
            caller = Caller(self)
            self._callers.add(caller)
        try:
            yield caller
        finally:
            with self.lock:
                self._callers.discard(caller)
                if self._leader is None:  # else who leads takes its faces out
                    self._lane.keep(self._is_here)
                    self._call_up()
                self._end()

    def refuse_if_closed(self) -> None:
        """Raises ClosedError once the desk is closed, and in a process that was forked from the desk's."""
        if self.closed:
            raise ClosedError("this Cloaker is closed: make another one")
        if os.getpid() != self._process:
            raise ClosedError("this Cloaker was made in another process, whose threads are not here: make one here")

    def fits(self, caller: Caller, cost: int) -> bool:
        """Whether there is room for so many bytes more. One photo of each caller is let in whatever it takes."""
        return not caller.bytes or sum(holder.bytes for holder in tuple(self._callers)) + cost <= self._room

    def close(self) -> None:
        """Let nobody begin anything any more. What callers have begun is finished, and then the threads end."""
        with self.lock:
            self.closed = True
            self._end()

    def is_own_thread(self) -> bool:
        """Whether the current thread is one that prepares and finishes photos here."""
        return getattr(self._threads, "own", False)

    def _end(self) -> None:
        if self.closed and not self._callers:
            self.pool.shutdown(wait=False)

    def _is_here(self, ticket: tuple[Caller, int]) -> bool:
        return ticket[0] in self._callers

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Wait of a caller for a photo to be prepared, until its faces are added: who leads may wait for it."""
        with self.lock:
            self._expected += 1
        try:
            yield
        finally:
            with self.lock:
                self._expected -= 1
                self._arrival.notify()

    def add(self, caller: Caller[T], ticket: T, job: FaceJob) -> None:
        """One more face of a caller, for the next chunk."""
        with self.lock:
            number = next(self._numbers)
            caller.missing[number] = ticket, job
            self._lane.add((caller, number), job)
            self._arrival.notify()

    def advance(self, caller: Caller[T]) -> list[tuple[T, FaceCloak]]:
        """Let steps pass until some of this caller's faces are done, and return those.

        It runs a chunk of them itself unless another caller leads. An eager one comes back after a chunk in any case.
        Whatever the device raises comes out of the leading caller's call.
        """
        try:
            with self.lock:
                chunk = self._chunks
                if caller.missing:
                    caller.wait(lambda: self._leader is None or (caller.eager and self._chunks != chunk))
                if caller.faces_done or self._leader is not None or not caller.missing:
                    return caller.done()
                self._leader = caller
                # An empty slot wastes its share of a chunk, and waiting wastes the time: as long as they are equal.
                known = self.chunk if self.chunk < float("inf") else FIRST
                patience = known * self.vacant / self.batcher.size
                self._arrival.wait_for(lambda: not (self._expected and self.vacant), patience)
                lane, before = self._lane, self._lane.usage.seconds
            cloaks = lane.advance()
            with self.lock:
                self.chunk = lane.usage.seconds - before
                for (owner, number), cloak in cloaks:
                    owner.take(number, cloak)
                lane.keep(self._is_here)
                self._chunks += 1
                self._leader = None
                self._call_up()
                return caller.done()
        except BaseException:
            with self.lock:
                if self._leader is caller:
                    self._leader = None
                    self._renew(without=caller)
                    self._call_up()
            raise

    def _call_up(self) -> None:
        """Wake those who have something to do, and one that can lead. Waking all would make them queue for the lock."""
        called = False
        for caller in self._callers:
            if not caller.waiting:
                continue
            if caller.faces_done or caller.eager:
                caller.turn.notify()
            elif not called:
                called = True
                caller.turn.notify()

    def _renew(self, *, without: Caller) -> None:
        """A new lane with all faces but one caller's: the old one may be in any state."""
        usage, self._lane = self._lane.usage, self.batcher.lane()
        self._lane.usage = usage
        self._callers.discard(without)
        for caller in self._callers:
            for number, (_, job) in caller.missing.items():
                self._lane.add((caller, number), job)


class Caller(Generic[T]):
    """One stream of faces among others. For one thread; a ticket is whatever the caller knows a face by."""

    def __init__(self, desk: Desk) -> None:
        """Made by `Desk.caller`."""
        self.desk = desk
        self.bytes = 0
        """Bytes that its photos take now."""
        self.missing: dict[int, tuple[T, FaceJob]] = {}
        self.turn = threading.Condition(desk.lock)
        self.eager = False
        """Whether it has other things to do after a chunk of steps, though no face of its own is done."""
        self.waiting = False
        self._done: deque[tuple[T, FaceCloak]] = deque()

    @property
    def faces(self) -> int:
        """Faces that wait for a slot or are in one."""
        return len(self.missing)

    def add(self, ticket: T, job: FaceJob) -> None:
        """A face that waits for a slot from now on."""
        self.desk.add(self, ticket, job)

    @property
    def faces_done(self) -> bool:
        """Whether any waits to be fetched."""
        return bool(self._done)

    def advance(self, *, eager: bool) -> list[tuple[T, FaceCloak]]:
        """See `Desk.advance`. eager: come back after a chunk of steps in any case."""
        self.eager = eager
        return self.desk.advance(self)

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait for that, or for faces that are done; with the desk's lock, until `turn` is notified."""
        self.waiting = True
        try:
            self.turn.wait_for(lambda: until() or self.faces_done)
        finally:
            self.waiting = False

    def take(self, number: int, cloak: FaceCloak) -> None:
        """A face is done."""
        if number in self.missing:  # else it left
            ticket, _ = self.missing.pop(number)
            self._done.append((ticket, cloak))

    def done(self) -> list[tuple[T, FaceCloak]]:
        """The faces that are done since it was asked."""
        done = list(self._done)
        self._done.clear()
        return done
