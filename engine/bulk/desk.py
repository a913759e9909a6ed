"""What all callers of one Cloaker share: the slots of the solver, the threads, the bytes that photos may take.

Every `pipeline.stream` is a caller, in a thread of its own, and all put their faces into one lane. No thread belongs to
the device: of the callers that wait for faces one leads, which runs the next chunk of steps for all of them. A caller
that fails or is interrupted while it leads takes nothing but its own faces with it. Those of the others begin anew in a
new lane, and come out the same, since a cloak does not depend on when its face came.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from engine.bulk import budget
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Usage

T = TypeVar("T")

FIRST = 1.0
"""Seconds that a chunk of steps is taken for before one was run."""


class ClosedError(RuntimeError):
    """A call of a Cloaker that was closed."""


class Desk:
    """Slots, threads and bytes for any number of callers."""

    def __init__(self, batcher: Batcher, *, workers: int) -> None:
        """workers: threads that prepare and finish photos, for all callers together."""
        self.batcher, self.workers = batcher, workers
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="cloak")
        self.chunk = float("inf")
        """Seconds that the last chunk of steps took; the first may have to be compiled."""
        self.closed = False
        self._changed = threading.Condition()
        self._lane = batcher.lane()
        self._callers: set[Caller] = set()
        self._leader: Caller | None = None
        self._chunks = 0
        self._numbers = itertools.count()
        self._expected = 0
        self._room = budget.allowed()

    @property
    def usage(self) -> Usage:
        """What the slots were used for since the desk was made."""
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
        with self._changed:
            if self.closed:
                raise ClosedError("this Cloaker is closed: make another one")
            if not self._callers:
                self._room = budget.allowed()
            caller = Caller(self)
            self._callers.add(caller)
        try:
            yield caller
        finally:
            with self._changed:
                self._callers.discard(caller)
                if self._leader is None:  # else who leads takes them out
                    self._lane.keep(self._is_here)
                self._changed.notify_all()
                self._end()

    def fits(self, caller: Caller, cost: int) -> bool:
        """Whether there is room for so many bytes more. One photo of each caller is let in whatever it takes."""
        return not caller.bytes or sum(one.bytes for one in tuple(self._callers)) + cost <= self._room

    def close(self) -> None:
        """Let nobody begin anything any more. What callers have begun is finished, and then the threads end."""
        with self._changed:
            self.closed = True
            self._end()

    def _end(self) -> None:
        if self.closed and not self._callers:
            self.pool.shutdown(wait=False)

    def _is_here(self, ticket: tuple[Caller, int]) -> bool:
        return ticket[0] in self._callers

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """For a caller that waits for a photo to be prepared, until its faces are added: who leads may wait for it."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify_all()

    def add(self, caller: Caller[T], ticket: T, job: FaceJob) -> None:
        """One more face of a caller, for the next chunk."""
        with self._changed:
            number = next(self._numbers)
            caller.missing[number] = ticket, job
            self._lane.add((caller, number), job)
            self._changed.notify_all()

    def advance(self, caller: Caller[T]) -> list[tuple[T, FaceCloak]]:
        """Let a chunk of steps pass, run by this caller unless another is at it; returns its faces that are done.

        Whatever the device raises comes out of the call of who leads.
        """
        try:
            with self._changed:
                if self._leader is not None:
                    chunk = self._chunks
                    self._changed.wait_for(lambda: self._leader is None or self._chunks != chunk)
                    return caller.done()
                if not caller.missing:
                    return caller.done()
                self._leader = caller
                # An empty slot wastes its share of a chunk, and waiting wastes the time: as long as they are equal.
                known = self.chunk if self.chunk < float("inf") else FIRST
                patience = known * self.vacant / self.batcher.size
                self._changed.wait_for(lambda: not (self._expected and self.vacant), patience)
                lane, before = self._lane, self._lane.usage.seconds
            found = lane.advance()
            with self._changed:
                self.chunk = lane.usage.seconds - before
                for (owner, number), cloak in found:
                    owner.take(number, cloak)
                lane.keep(self._is_here)
                self._chunks += 1
                self._leader = None
                self._changed.notify_all()
                return caller.done()
        except BaseException:
            with self._changed:
                if self._leader is caller:
                    self._leader = None
                    self._renew(without=caller)
                    self._changed.notify_all()
            raise

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
        """That its photos take now."""
        self.missing: dict[int, tuple[T, FaceJob]] = {}
        self._done: deque[tuple[T, FaceCloak]] = deque()

    @property
    def faces(self) -> int:
        """Faces that wait for a slot or are in one."""
        return len(self.missing)

    def add(self, ticket: T, job: FaceJob) -> None:
        """A face that waits for a slot from now on."""
        self.desk.add(self, ticket, job)

    def advance(self) -> list[tuple[T, FaceCloak]]:
        """As `Desk.advance`."""
        return self.desk.advance(self)

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
