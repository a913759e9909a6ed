"""Observer of a run, told of its phases and of each photo."""

from __future__ import annotations

from collections.abc import Callable

from engine.bulk.manifest import Row


class Watch:
    """The observer of a run. This one does nothing; subclasses do. Only the thread that called the run calls it."""

    def started(self, photos: int, *, again: int = 0) -> None:
        """So many photos are to be done. again: how many of them have cloaked files, made with other settings."""

    def grouping(self, done: int, photos: int) -> None:
        """People are known in `done` of all `photos`."""

    def probing(self, done: int, faces: int) -> None:
        """So many are done of the `faces` that tell which way people's faces go."""

    def solving(self, done: int, faces: int) -> None:
        """So many faces are done, and so many are being cloaked: 0 and 0 before the solver has begun."""

    def row(self, row: Row) -> None:
        """A photo is done."""

    def left(self, row: Row) -> None:
        """A photo that an earlier call could not protect, and that this one need not try again."""

    def publishing(self, done: int, photos: int) -> None:
        """`done` of all `photos` are in the report."""


class Counting(Watch):
    """Counts the photos that are done."""

    def __init__(self, say: Callable[[int], None]) -> None:
        """say: told how many after each."""
        self.done = 0
        self._say = say

    def row(self, row: Row) -> None:
        """One more."""
        self.done += 1
        self._say(self.done)
