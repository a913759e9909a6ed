"""ICC colour profiles: taken apart, checked against their own table of contents, and written anew.

A profile is a header of 128 bytes, a table of tags, and the tags. Tags that say how colours look are of a known type,
whose length follows from its first bytes. Everything else in a profile is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from engine.photo.prose import holds_picture, plain, plain_wide

MAX_PROFILE = 2 << 20
_MAX_TAGS = 100
_MAX_TEXT = 8192
_MAX_WORDS = 512
_MAX_MATRICES = 96 << 10
_KNOWN = frozenset(
    b"desc cprt wtpt bkpt rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC chad dmnd dmdd vued view lumi meas tech chrm A2B0 A2B1 "
    b"A2B2 A2B3 B2A0 B2A1 B2A2 B2A3 D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3 gamt pre0 pre1 pre2 calt targ scrd ndin "
    b"vcgt mmod cicp ciis rig0 rig2 aarg aagg aabg dscm".split()
)
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac", b"abst")
_SPACES = (b"RGB ", b"GRAY")


def clean_icc(profile: bytes | None) -> bytes | None:
    """The profile without whatever is not known, or None if it is broken, of other colours or too large.

    A profile in which everything is known comes back byte for byte.
    """
    if not profile or not 132 <= len(profile) <= MAX_PROFILE:
        return None
    size, count = struct.unpack_from(">I", profile)[0], struct.unpack_from(">I", profile, 128)[0]
    if not 132 <= size <= len(profile) or profile[36:40] != b"acsp" or not 1 <= count <= _MAX_TAGS:
        return None
    if profile[12:16] not in _CLASSES or profile[16:20] not in _SPACES or 132 + 12 * count > size:
        return None
    tags: list[tuple[bytes, bytes]] = []
    covered = np.zeros(size, bool)
    covered[: 132 + 12 * count] = True
    whole = size == len(profile) and not any(profile[100:128])
    for position in range(132, 132 + 12 * count, 12):
        name, start, length = struct.unpack_from(">4sII", profile, position)
        data = profile[start : start + length]
        if start < 132 + 12 * count or len(data) != length or start + length > size:
            return None
        if name in _KNOWN and (span := _length(data)) is not None and not holds_picture(data):
            tags.append((name, data[:span]))
            whole = whole and not data[span:].strip(b"\0")
            covered[start : start + length] = True
        else:
            whole = False
    if whole and not np.frombuffer(profile, np.uint8, size)[~covered].any():
        return profile
    return _written(profile, tags) if tags else None


def _length(data: bytes) -> int | None:
    """How many bytes of a tag its type accounts for; None if the type is unknown or the data is not of its form."""
    kind, body = data[:4], data[8:]
    if len(data) < 8 or any(data[4:8]):
        return None
    try:
        span = _SPANS[kind](body)
    except (KeyError, IndexError, ValueError, struct.error):
        return None
    return None if span is None or span > len(body) else 8 + span


def _curve(body: bytes) -> int | None:
    (count,) = struct.unpack_from(">I", body)
    return 4 + 2 * count if count <= 4096 and _smooth(body[4 : 4 + 2 * count], 2) else None


def _smooth(data: bytes, width: int) -> bool:
    """True if these numbers are a curve: they rise or fall nearly all the way."""
    values = np.frombuffer(data[: len(data) // width * width], f">u{width}").astype(np.int64)
    return len(values) < 3 or int(np.abs(np.diff(values)).sum()) <= 1.5 * int(np.ptp(values))


def _parametric(body: bytes) -> int | None:
    (kind,) = struct.unpack_from(">H", body)
    return 4 + 4 * (1, 3, 4, 5, 7)[kind] if kind <= 4 else None


def _text(body: bytes) -> int | None:
    return len(body) if plain(body, limit=_MAX_TEXT) else None


def _description(body: bytes) -> int | None:
    (size,) = struct.unpack_from(">I", body)
    if not plain(body[4 : 4 + size], limit=_MAX_TEXT):
        return None
    end = 4 + size
    if len(body) < end + 8:  # some writers end here
        return end
    (wide,) = struct.unpack_from(">I", body, end + 4)
    text = body[end + 8 : end + 8 + 2 * wide]
    if len(text) != 2 * wide or not any(plain_wide(text, f"utf-16-{end}") is not None for end in ("be", "le")):
        return end
    end += 8 + 2 * wide
    script = body[end : end + 70]  # code, length, 67 bytes of text in a Macintosh script
    return end + (len(script) if script[2:3] <= b"\x43" and plain(script[3:]) else 0)


def _localised(body: bytes) -> int | None:
    count, row = struct.unpack_from(">II", body)
    if row != 12 or count > 64:
        return None
    end = 8 + 12 * count
    covered = np.zeros(len(body), bool)
    covered[:end] = True
    for n in range(count):
        language, length, start = struct.unpack_from(">4sII", body, 8 + 12 * n)
        text = body[start - 8 : start - 8 + length]
        # A text of one language is a few words; more could be anything in a script of many characters.
        if start < 16 or len(text) != length or length > _MAX_WORDS or plain_wide(text, "utf-16-be") is None:
            return None
        if not all(letter == 0 or chr(letter).isalpha() for letter in language):
            return None
        covered[start - 8 : start - 8 + length] = True
        end = max(end, start - 8 + length)
    return end if covered[:end].all() else None


def _lut(width: int) -> Callable[[bytes], int | None]:
    def span(body: bytes) -> int | None:
        inputs, outputs, grid = body[0], body[1], body[2]
        if not 1 <= inputs <= 4 or not 1 <= outputs <= 4:
            return None
        before, after = (256, 256) if width == 1 else struct.unpack_from(">HH", body, 40)
        if before > 4096 or after > 4096:
            return None
        first = (40 if width == 1 else 44) + width * before * inputs
        last = first + width * grid**inputs * outputs
        grids = np.frombuffer(body[first:last], f">u{width}").astype(np.float64).reshape(-1, outputs)
        # Neighbours in a grid of colours are alike; in compressed data they differ by a third of the range.
        if len(grids) > 64 and np.abs(np.diff(grids, axis=0)).mean() > 0.27 * 256**width:
            return None
        return last + width * after * outputs

    return span


def _matrices(body: bytes) -> int | None:
    # mAB and mBA: five parts at stated offsets, all inside; a part is curves, a matrix or a grid.
    inputs, outputs = body[0], body[1]
    offsets = struct.unpack_from(">5I", body, 4)
    if not 1 <= inputs <= 4 or not 1 <= outputs <= 4 or max(offsets) > len(body) + 8:
        return None
    return len(body) if len(body) <= _MAX_MATRICES else None


def _gamma_table(body: bytes) -> int | None:  # vcgt
    (kind,) = struct.unpack_from(">I", body)
    if kind == 1:
        return 40
    channels, entries, width = struct.unpack_from(">HHH", body, 4)
    if channels not in (1, 3) or entries > 1024 or width not in (1, 2):
        return None
    size = entries * width
    return 10 + channels * size if all(_smooth(body[10 + n * size :][:size], width) for n in range(channels)) else None


_SPANS: dict[bytes, Callable[[bytes], int | None]] = {
    b"XYZ ": lambda body: len(body) // 12 * 12 if len(body) < 64 else None,
    b"curv": _curve,
    b"para": _parametric,
    b"text": _text,
    b"desc": _description,
    b"mluc": _localised,
    b"sf32": lambda body: len(body) // 4 * 4 if len(body) <= 64 else None,
    b"sig ": lambda body: 4,
    b"meas": lambda body: 28,
    b"view": lambda body: 28,
    b"dtim": lambda body: 12,
    b"chrm": lambda body: 28,
    b"cicp": lambda body: 4,
    b"mmod": lambda body: 32,
    b"ndin": lambda body: len(body) if len(body) <= 64 else None,
    b"vcgt": _gamma_table,
    b"mft1": _lut(1),
    b"mft2": _lut(2),
    b"mAB ": _matrices,
    b"mBA ": _matrices,
}


def _written(profile: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """A profile of the same header with these tags; equal ones are stored once."""
    position = 132 + 12 * len(tags)
    table, body = bytearray(), bytearray()
    places: dict[bytes, int] = {}
    for name, data in tags:
        if data not in places:
            places[data] = position + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, places[data], len(data))
    size = position + len(body)
    header = struct.pack(">I", size) + profile[4:84] + bytes(44)  # without checksum and reserved bytes
    return header + struct.pack(">I", len(tags)) + bytes(table) + bytes(body)
