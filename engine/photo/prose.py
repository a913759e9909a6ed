"""Free text, told apart from data that only looks like text.

A face fits into a kilobyte, and base64, hexadecimal and their kin make text of it. Text that people and programs write
for people hardly ever changes between small letters, capitals and digits inside a word. Encoded data does so at every
second character. All functions take time linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

MAX_DENSE = 240
"""Bytes of encoded-looking text that one value may have: hashes, identifiers, file names. Too few for a face."""
MAX_TEXT = 1 << 20
_BLOCK = 64
_SHORT, _WORD = 256, 12
_FIGURES = 8  # a text of numbers may be pixels, too, but it takes so many more bytes, and honest ones are common

_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"WEBPVP8", b"ftypheic", b"ftypavif", b"ftypmif1", b"ftypmp4", b"ftypisom",
    b"jP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"GIF87a", b"GIF89a",
)  # fmt: skip
# JPEG and PNG in base64 (at each of its three phases only the first is written by anybody) and in hexadecimal.
_ARMOURED = re.compile(
    rb"/9j/[4-9A-Za-z]|iVBORw0KGgo|UklGR|R0lGOD|AAAA....ftyp|ffd8ff(?:[0-9a-f\s]{64})|89504e470d0a1a0a", re.IGNORECASE
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_CHANGES = re.compile(rb"(?=[a-z][A-Z0-9]|[0-9][A-Za-z]|[A-Z][0-9])")

_CLASSES = np.zeros(256, np.uint8)  # 1 small letter, 2 capital, 3 digit
_CLASSES[ord("a") : ord("z") + 1] = 1
_CLASSES[ord("A") : ord("Z") + 1] = 2
_CLASSES[ord("0") : ord("9") + 1] = 3


def holds_picture(data: bytes) -> bool:
    """True if an encoded picture or film starts anywhere inside `data`, plain, in base64 or in hexadecimal."""
    return any(mark in data for mark in _SIGNATURES) or _ARMOURED.search(data) is not None


def dense(data: bytes) -> int:
    """How many bytes of `data` lie in stretches that look like encoded data: base64, base85, hexadecimal, figures.

    Bytes that are no UTF-8 count, too, if they are not ASCII.
    """
    try:
        data.decode()
        foreign = 0
    except UnicodeDecodeError:
        foreign = sum(byte >= 128 for byte in data)
    if len(data) <= _SHORT:  # most texts are, and arrays cost more than they do
        code = len(data) >= 24 and not foreign and _one_word(data, letters=0.4)
        if code or len(_CHANGES.findall(data)) > len(data) / 6:
            return foreign + len(data)
        return foreign + (len(data) // _FIGURES if sum(48 <= byte <= 57 for byte in data) > len(data) / 2 else 0)
    whole = np.frombuffer(data, np.uint8)
    kinds = _CLASSES[np.pad(whole, (0, -len(whole) % _BLOCK), constant_values=32)]
    first, second = kinds[:-1], kinds[1:]
    pairs = (first > 0) & (second > 0)
    changes = pairs & (first != second) & ~((first == 2) & (second == 1))  # a capital begins a word
    pairs, changes = (np.append(row, False).reshape(-1, _BLOCK).sum(1) for row in (pairs, changes))
    mixed = int(((pairs >= 16) & (changes > 0.28 * pairs)).sum()) * _BLOCK
    blocks = kinds.reshape(-1, _BLOCK)
    figures = int((((blocks == 3).sum(1) >= 24) & (((blocks == 1) | (blocks == 2)).sum(1) <= 8)).sum()) * _BLOCK
    return foreign + mixed + figures // _FIGURES


def plain(data: bytes, *, limit: int = MAX_TEXT, allowed: int = MAX_DENSE) -> bool:
    """True if `data` is text that can be kept: readable, at most `limit` bytes, at most `allowed` of them `dense`."""
    data = data.rstrip(b"\0")
    if len(data) > limit or holds_picture(data):
        return False
    try:
        if _CONTROL.search(data.decode()):
            return False
    except UnicodeDecodeError:  # an older encoding, in which a long text is still mostly ASCII
        foreign = sum(byte >= 128 for byte in data)
        if _CONTROL_BYTES.search(data) or (len(data) > MAX_DENSE and foreign > 0.4 * len(data)):
            return False
    return dense(data) <= allowed


def _one_word(data: bytes, letters: float) -> bool:
    """Whether a text has no blanks, and fewer small letters than that share of it."""
    # Letters of other scripts have no capitals that would tell, and some scripts no blanks.
    small = sum(97 <= byte <= 122 or byte >= 128 for byte in data)
    return not set(b" \n") & set(data) and small < letters * len(data)


@dataclass
class Allowance:
    """Allowance of one file for bytes that could be anything, whichever blocks they lie in.

    Many small values, each too small for a face, hold one together: a file's comments, captions, keywords and unknown
    tags share one allowance. remaining: how many bytes it still has.
    """

    remaining: int = MAX_DENSE

    def take(self, cost: int) -> bool:
        """Whether so many bytes may stay; then there are fewer left. What is too much costs nothing."""
        good = cost <= self.remaining
        self.remaining -= cost if good else 0
        return good

    def text(self, *values: bytes) -> bool:
        """`take` of all that is `dense` in texts that stay or go together; short words that say nothing count, too."""
        return self.take(sum(map(self._cost, values)))

    @staticmethod
    def _cost(text: bytes) -> int:
        odd = _WORD <= len(text) <= _SHORT and _one_word(text, letters=0.6)
        return max(dense(text), len(text) if odd else 0)


def plain_wide(data: bytes, encoding: str) -> bytes | None:
    """A text in UTF-16 as UTF-8 if it is `plain`, else None.

    It may have 8 kB, or 1 kB in a script that any bytes would be valid text of.
    """
    try:
        text = data.decode(encoding).rstrip("\0")
    except UnicodeDecodeError:
        return None
    foreign = sum(character > "\u02ff" for character in text)
    return text.encode() if plain(text.encode(), limit=1024 if foreign > len(text) / 2 else 8192) else None
