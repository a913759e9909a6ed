"""Photoshop's resource blocks and the IPTC records in them: captions, credits, keywords, resolution.

Everything is taken apart and written anew, without names and padding of its own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from engine.photo.prose import Allowance, plain

# Datasets of the IIM standard (version 4.2): those of the envelope, and those of the second record that are text or
# numbers. Not the rasterised caption (125) and the previews (200 to 202). Bytes: twice what the standard allows and
# more, because programs do not count.
_ENVELOPE = frozenset({0, 5, 20, 22, 30, 40, 50, 60, 70, 80, 90, 100, 120, 122})
_APPLICATION = frozenset(
    {
        0,
        3,
        4,
        5,
        7,
        8,
        10,
        12,
        15,
        20,
        22,
        25,
        26,
        27,
        30,
        35,
        37,
        38,
        40,
        42,
        45,
        47,
        50,
        55,
        60,
        62,
        63,
        65,
        70,
        75,
        80,
    }
    | {
        85,
        90,
        92,
        95,
        100,
        101,
        103,
        105,
        110,
        115,
        116,
        118,
        120,
        121,
        122,
        130,
        131,
        135,
        150,
        151,
        152,
        153,
        154,
        184,
    }
    | {185, 186, 187, 188, 221, 225, 228, 230, 231, 232}
)
_BINARY = {(1, 0): 2, (1, 20): 2, (1, 22): 2, (2, 0): 2, (1, 90): 32}
_MAX_VALUE = 8192

_IPTC, _RESOLUTION, _COPYRIGHT, _URL, _DIGEST = 0x0404, 0x03ED, 0x040A, 0x040B, 0x0425
_LENGTHS = {_RESOLUTION: 16, _COPYRIGHT: 1, _DIGEST: 16}
_THUMBNAILS = {0x0409, 0x040C}
_SHORT = 64


class Cleaned(NamedTuple):
    """data: the block to be written, None if nothing is left. omitted: what was left out, a few words each."""

    data: bytes | None
    omitted: list[str]


def clean_iptc(data: bytes, allowance: Allowance) -> Cleaned:
    """The records with nothing but known datasets of readable text. allowance: of the whole file."""
    datasets, omitted = [], []
    position = 0
    while position + 5 <= len(data) and data[position] == 0x1C:
        record, number, size = struct.unpack_from(">BBH", data, position + 1)
        position += 5
        if size & 0x8000:  # an extended length: of pictures and sounds only
            width = size & 0x7FFF
            size = int.from_bytes(data[position : position + width], "big") if width <= 4 else len(data)
            position += width
        value = data[position : position + size]
        position += size
        known = (record == 1 and number in _ENVELOPE) or (record == 2 and number in _APPLICATION)
        limit = _BINARY.get((record, number))
        good = known and len(value) == size
        if limit is not None:
            good = good and len(value) <= limit and allowance.take(len(value))
        else:
            good = good and plain(value, limit=_MAX_VALUE) and allowance.text(value)
        if good:
            datasets.append(struct.pack(">BBBH", 0x1C, record, number, size) + value)
        else:
            omitted.append(f"IPTC dataset {record}:{number:03d} ({len(value):,} bytes)")
    rest = data[position:].strip(b"\0")
    if rest and position == 0 and len(data) <= _SHORT and plain(data) and allowance.text(data):
        return Cleaned(data, omitted)  # no records, but a text
    if rest:
        omitted.append("broken IPTC records")
    return Cleaned(b"".join(datasets) or None, omitted)


def clean_photoshop(block: bytes | None, allowance: Allowance) -> Cleaned:
    """The resource blocks with nothing left but captions, credits, resolution, copyright flag and address.

    allowance: of the whole file.
    """
    resources, omitted, position = [], [], 0
    block = block or b""
    while block[position : position + 4] in (b"8BIM", b"MeSa", b"PHUT", b"AgHg", b"DCSR") and position + 12 <= len(
        block
    ):
        code = struct.unpack_from(">H", block, position + 4)[0]
        named = position + 6 + (block[position + 6] + 2) // 2 * 2
        if named + 4 > len(block):
            break
        size = struct.unpack_from(">I", block, named)[0]
        data = block[named + 4 : named + 4 + size]
        clean: bytes | None = None
        if len(data) == size and block[position : position + 4] == b"8BIM":
            if code == _IPTC:
                clean, lost = clean_iptc(data, allowance)
                omitted += lost
            elif code in _LENGTHS:
                clean = data if size == _LENGTHS[code] and allowance.take(size) else None
            elif code == _URL and plain(data, limit=2048) and allowance.text(data):
                clean = data
        if clean is not None:
            resources.append(struct.pack(">4sHHI", b"8BIM", code, 0, len(clean)) + clean + bytes(len(clean) & 1))
        elif code in _THUMBNAILS:
            omitted.append("the thumbnail")
        elif code != _IPTC:
            omitted.append("Photoshop's settings")
        position = named + 4 + size + (size & 1)
    if block[position:].strip(b"\0"):
        omitted.append("broken Photoshop resources")
    return Cleaned(b"".join(resources) or None, omitted)
