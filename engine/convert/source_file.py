"""The file that a reader is given: what it holds, what lies beside it, and how much may be made of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from engine.files import opened

MAX_BYTES = 4 << 30
"""Size of the largest file that is read, and of the most weights that are taken from one."""
FACTOR, FLOOR = 16, 64 << 20
"""A file may describe weights of FACTOR times its size and FLOOR bytes more: 4-bit codes become 8 times as large."""


class SourceError(ValueError):
    """A file whose weights cannot be used; the message is one sentence that names the file."""


@dataclass
class SourceFile:
    """A regular file that is open for reading, in the process of a reader.

    path: for errors, and to find what lies beside it. stream: its bytes, from the start. grow: told the size of every
    further file that is opened. total: bytes in all files so far. claimed: bytes that the reader has announced.
    """

    path: Path
    stream: BinaryIO
    grow: Callable[[int], None] = lambda size: None
    total: int = 0
    claimed: int = 0
    besides: dict[Path, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Counts the file itself."""
        self._count(self.path, self.stream)

    def data(self) -> bytes:
        """The whole file."""
        self.stream.seek(0)
        return self.stream.read()

    def beside(self, name: str, *, again: bool = False) -> bytes:
        """A file that this one names, which must lie in the same folder or below it, and be reached without links.

        again: it may have been named before. Raises SourceError for any other path, and otherwise for a second time.
        """
        folder = Path(os.path.realpath(self.path.parent))
        plain = isinstance(name, str) and name not in ("", ".") and "\0" not in name
        if not plain or Path(name).is_absolute() or ".." in Path(name).parts:
            raise SourceError(f"{self.path} names {name!r}, which is no file below its own folder: do not trust it")
        path = folder / name
        if Path(os.path.realpath(path)) != path:
            raise SourceError(f"{self.path} names {name!r}, which is a link: put the file itself there")
        if path in self.besides and not again:
            raise SourceError(f"{self.path} names {name!r} twice: get it again from where it came")
        if path not in self.besides:
            try:
                with opened(path) as stream:
                    self._count(path, stream)
                    self.besides[path] = stream.read()
            except OSError as error:
                raise SourceError(f"{self.path} names {name!r}, which cannot be read ({error.strerror})") from error
        return self.besides[path]

    def claim(self, shape: Iterable[int], itemsize: int, label: str) -> None:
        """Announces an array before it is made. Raises SourceError if the file has claimed more than it may."""
        lengths = [int(length) for length in shape]
        if any(length < 0 for length in lengths) or len(lengths) > 32:
            raise SourceError(f"{self.path} gives {label} the impossible shape {lengths[:32]}")
        self.claimed += math.prod(lengths) * itemsize
        self.check(self.claimed, label)

    def check(self, size: int, label: str) -> None:
        """Raises SourceError for more bytes than may be made of this file."""
        limit = min(MAX_BYTES, FLOOR + FACTOR * self.total)
        if size > limit:
            raise SourceError(
                f"{self.path} has {self.total:,} bytes and describes weights of {size:,} up to {label}: "
                f"at most {limit:,} are read from a file of its size"
            )

    def _count(self, path: Path, stream: BinaryIO) -> None:
        size = os.fstat(stream.fileno()).st_size
        self.total += size
        if self.total > MAX_BYTES:
            raise SourceError(f"{path} has {size:,} bytes: at most {MAX_BYTES:,} of weights are read")
        self.grow(size)
