"""Containers as lists of pieces, and back again with lengths and checksums mended: JPEG, PNG, RIFF, ISO boxes, TIFF."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
CONTAINERS = ("jpeg", "png", "webp", "tiff", "boxes", "other")
_NESTED = (b"moov", b"trak", b"iprp", b"ipco", b"meta", b"dinf", b"jp2h", b"iinf")


class Piece(NamedTuple):
    """kind: marker or type. body: payload. raw: bytes without a header, such as a scan."""

    kind: bytes
    body: bytes
    raw: bool = False


def container(data: bytes) -> str:
    """One of CONTAINERS, by the first bytes."""
    if data[:2] == b"\xff\xd8":
        return "jpeg"
    if data[:8] == PNG_MAGIC:
        return "png"
    if data[:4] == b"RIFF":
        return "webp"
    if data[:2] in (b"II", b"MM"):
        return "tiff"
    return "boxes" if data[4:8] in (b"ftyp", b"jP  ") else "other"


def split(data: bytes) -> list[Piece]:
    """The pieces of a JPEG, PNG or RIFF file; all of any other file as one."""
    kind = container(data)
    return {"jpeg": _jpeg, "png": _png, "webp": _riff}.get(kind, lambda data: [Piece(b"", data, True)])(data)


def join(kind: str, pieces: list[Piece]) -> bytes:
    """A file of the container `kind` with these pieces."""
    if kind == "jpeg":
        return b"\xff\xd8" + b"".join(map(_segment, pieces))
    if kind == "png":
        return PNG_MAGIC + b"".join(map(chunk, pieces))
    if kind == "webp":
        body = b"WEBP" + b"".join(
            piece.body
            if piece.raw
            else struct.pack("<4sI", piece.kind, len(piece.body)) + piece.body + bytes(len(piece.body) & 1)
            for piece in pieces
        )
        return struct.pack("<4sI", b"RIFF", len(body)) + body
    return b"".join(piece.body for piece in pieces)


def chunk(piece: Piece) -> bytes:
    """A PNG chunk."""
    if piece.raw:
        return piece.body
    crc = zlib.crc32(piece.kind + piece.body)
    return struct.pack(">I4s", len(piece.body), piece.kind) + piece.body + struct.pack(">I", crc)


def _segment(piece: Piece) -> bytes:
    if piece.raw:
        return piece.body
    body = piece.body[:65533]
    return piece.kind + struct.pack(">H", len(body) + 2) + body


def _jpeg(data: bytes) -> list[Piece]:
    pieces, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at : at + 2]
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xD0 <= marker[1] <= 0xD9 or marker[1] < 0xC0:
            break
        pieces.append(Piece(marker, data[at + 4 : at + 2 + size]))
        at += 2 + size
        if marker[1] == 0xDA:
            end = at
            while end < len(data) and not (data[end] == 0xFF and data[end + 1 : end + 2] not in (b"\0", *_RESTARTS)):
                end = data.find(b"\xff", end + 1)
                end = len(data) if end < 0 else end
            pieces.append(Piece(b"", data[at:end], True))
            at = end
    return [*pieces, Piece(b"", data[at:], True)]


_RESTARTS = tuple(bytes([0xD0 + n]) for n in range(8))


def _png(data: bytes) -> list[Piece]:
    pieces, at = [], 8
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size > len(data) - at - 12:
            break
        pieces.append(Piece(kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return [*pieces, Piece(b"", data[at:], True)]


def _riff(data: bytes) -> list[Piece]:
    pieces, at = [], 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if size > len(data) - at - 8:
            break
        pieces.append(Piece(kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + (size & 1)
    return [*pieces, Piece(b"", data[at:], True)]


def boxes(data: bytes, start: int = 0, end: int | None = None, depth: int = 0) -> list[tuple[bytes, int, int, int]]:
    """(type, first byte, first byte of the payload, end) of all ISO boxes, those inside others too."""
    spans = []
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        stop = min(start + size, end) if size >= 8 else end
        spans.append((kind, start, start + 8, stop))
        if kind in _NESTED and depth < 6:
            inside = start + 8 + {b"meta": 4, b"iinf": 6}.get(kind, 0)
            spans += boxes(data, inside, stop, depth + 1)
        start = stop
    return spans


class Directory(NamedTuple):
    """A TIFF directory: byte order, offset of its TIFF header in the file, and of each of its 12-byte entries."""

    order: str
    base: int
    entries: list[int]


def directories(data: bytes, limit: int = 8) -> list[Directory]:
    """The first directories of every TIFF structure in the file: the file's own, and those of EXIF blocks."""
    listed: list[Directory] = []
    for magic, order in ((b"II*\0", "<"), (b"MM\0*", ">")):
        base = data.find(magic)
        while base >= 0 and len(listed) < limit:
            (offset,) = struct.unpack(f"{order}I", data[base + 4 : base + 8].ljust(4, b"\0"))
            for _ in range(2):
                at = base + offset
                if not offset or at + 2 > len(data):
                    break
                (count,) = struct.unpack_from(f"{order}H", data, at)
                entries = [at + 2 + 12 * n for n in range(min(count, 200)) if at + 14 + 12 * n <= len(data)]
                listed.append(Directory(order, base, entries))
                follows = at + 2 + 12 * count
                offset = struct.unpack_from(f"{order}I", data, follows)[0] if follows + 4 <= len(data) else 0
            base = data.find(magic, base + 1)
    return listed
