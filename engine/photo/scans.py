"""The scans of a JPEG: how many there are, where they end, and whether the picture in them is complete.

libjpeg fills what is missing with grey and says nothing, so a file that was cut off would pass for whole. And it looks
at every pixel once for each scan, so a small file with a thousand of them takes minutes.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

MAX_SCANS = 100
MAX_WORK = 1 << 29
"""Pixels times scans, from the twentieth scan on: half a minute of decoding."""
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


class Scans(NamedTuple):
    """count: scans found, at most MAX_SCANS + 1. end: where the picture's data ends, before the end marker if there is
    one. closed: there is one. complete: the scans state all coefficients of all components to the last bit. behind: the
    bytes that follow the end marker.
    """

    count: int
    end: int
    closed: bool
    complete: bool
    behind: int


def find_scans(data: bytes, position: int, layers: int) -> Scans:
    """Follow the scans of a JPEG from the first one, at `position`. layers: how many components the picture has."""
    count = 0
    missing = {number: [True] * 64 for number in range(layers)}
    order: list[int] = []
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            return Scans(count, len(data), False, _stated(missing), 0)
        position, marker = match.start(), match[1][0]
        if marker in (0xD9, 0xD8):  # a second picture that begins at once ends this one, too
            behind = len(data) - position - 2 if marker == 0xD9 else len(data) - position
            return Scans(count, position, marker == 0xD9, _stated(missing), behind)
        if position + 4 > len(data):
            return Scans(count, position, False, _stated(missing), 0)
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xDA:
            count += 1
            if count > MAX_SCANS:
                return Scans(count, position, False, False, 0)
            head = data[position + 4 : position + 2 + length]
            names = head[1 : 1 + 2 * head[0] : 2] if head else b""
            if len(head) >= 4 + 2 * len(names):
                first, last, bits = head[-3], head[-2], head[-1] & 15
                for name in names:
                    if name not in order:
                        order.append(name)
                    row = missing.get(order.index(name))
                    if row is not None and bits == 0:
                        row[first : min(last, 63) + 1] = [False] * (min(last, 63) + 1 - first)
        position += 2 + length


def _stated(missing: dict[int, list[bool]]) -> bool:
    return not any(any(row) for row in missing.values())
