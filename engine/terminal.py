"""Output to a terminal: text that cannot steer it, through streams that may end at any time."""

from __future__ import annotations

import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing: in a file's name they make it look like another one."""


def readable(text: str) -> str:
    r"""A file's name, or any other text, as one line that shows what cannot be seen as an escape.

    Escaped are control characters, line ends, characters that turn the direction of writing, and bytes that are no
    UTF-8 (which Python holds as lone surrogates). So the result can always be encoded.

    Example:
        >>> readable("two\nlines")
        'two\\nlines'
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if character in _TURNING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character


def lines(text: str) -> str:
    """Any text of several lines, each of them readable; line ends and tabs stay."""
    return "\n".join("\t".join(map(readable, line.split("\t"))) for line in text.split("\n"))


class Stream:
    """A text stream that never raises: what it cannot take is lost, and `lost` says why.

    A reader that goes away (`| head -1`) or a full disk must not end the work of which it would be told.
    """

    def __init__(self, stream: TextIO, *, escape: bool) -> None:
        """escape: show control characters instead of obeying them."""
        self._stream, self._escape = stream, escape
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Pass text on."""
        shown = lines(text) if self._escape else text
        if self.lost is None:
            try:
                try:
                    self._stream.write(shown)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what waits."""
        if self.lost is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        self.lost = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
        with suppress(OSError, ValueError):  # else the interpreter tries again at its end, and says so
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[tuple[Stream, Stream]]:
    """Standard output and error as `Stream` while the block lasts: (output for who writes escapes himself, error).

    `sys.stdout` escapes; `sys.stderr` cannot, since the progress bar is made of escapes: use `readable` there. One that
    is closed from the start (`>&-`) is None to Python; what is written to it is lost.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        output, error = (Stream(nowhere if stream is None else stream, escape=False) for stream in before)
        sys.stdout = Stream(output, escape=True)  # type: ignore[assignment, arg-type]
        sys.stderr = error  # type: ignore[assignment]
        try:
            yield output, error
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = before
