"""Maker notes: the camera's own directory inside EXIF, kept in its place with only small values in it.

Nearly all makers write a TIFF directory behind a short name of their own, and many put a preview or the sensor's tables
into it. Offsets in it count from wherever the maker chose, so nothing in a note may move: what is not kept becomes
zeros. A note without such a directory is kept only if it is too short for a picture.
"""

from __future__ import annotations

import struct
from itertools import pairwise

from engine.photo.metadata import Entry
from engine.photo.prose import holds_picture, plain

SHORT = 240
"""Bytes of a note that may be anything."""
_EACH, _ALL = 128, 960  # a face fits into a kilobyte, however it is cut up
_STARTS = (0, 6, 8, 10, 12, 14, 16, 18, 26)
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


def clean(entry: Entry) -> Entry | None:
    """The note with all but small values zeroed, or None if it is neither short nor a directory."""
    note = entry.value
    if len(note) <= SHORT:
        return None if holds_picture(note) else entry
    masked = _masked(note, entry.offset)
    if masked is None or holds_picture(masked):
        return None
    return entry._replace(value=masked)


def _masked(note: bytes, offset: int) -> bytes | None:
    for start in _STARTS:
        for order in "<>":
            if (rows := _directory(note, start, order)) is not None:
                return _with_values(note, start, order, rows, offset)
    return None


def _directory(note: bytes, start: int, order: str) -> list[tuple[int, int, int]] | None:
    """(kind, bytes, where its field is) of every entry, or None if no directory begins at `start`."""
    if start + 2 > len(note):
        return None
    (count,) = struct.unpack_from(f"{order}H", note, start)
    if not 2 <= count <= 256 or start + 2 + 12 * count > len(note):
        return None
    rows, tags = [], []
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", note, position)
        if kind not in _WIDTHS:
            return None
        tags.append(tag)
        rows.append((kind, _WIDTHS[kind] * length, position + 8))
    rising = sum(low < high for low, high in pairwise(tags))
    return rows if rising >= 0.6 * (count - 1) else None


def _with_values(note: bytes, start: int, order: str, rows: list[tuple[int, int, int]], offset: int) -> bytes:
    table = start + 2 + 12 * len(rows)
    far = [(kind, size, struct.unpack_from(f"{order}I", note, at)[0]) for kind, size, at in rows if size > 4]

    def inside(base: int) -> int:
        return sum(table <= where - base and where - base + size <= len(note) for _, size, where in far)

    # Offsets count from the start of the EXIF block, of the note, or of a TIFF header inside the note.
    base = max((offset, 0, -start, 8 - start), key=inside)
    cleaned = bytearray(len(note))
    cleaned[:table] = note[:table]
    spent = 0
    for kind, size, where in far:
        value = note[where - base : where - base + size] if table <= where - base else b""
        if len(value) != size or spent + size > _ALL:
            continue
        if size <= _EACH and (kind != 2 or plain(value)):
            spent += size
            cleaned[where - base : where - base + size] = value
    return bytes(cleaned)
