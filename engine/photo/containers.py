"""How the picture formats are put together: JPEG segments, PNG chunks, TIFF directories, ISO boxes.

`engine.photo` takes a file apart here so that Pillow's decoders are handed nothing but the picture. What surrounds
it (EXIF, a second frame, a thumbnail) is what damaged and hostile files use to crash, to warn or to allocate. Malformed
structure raises ValueError or struct.error.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from mmap import mmap
from typing import NamedTuple, TypeAlias

from engine.photo.metadata import STRUCTURE, Bounds, Entry, Order, Tags, integers, parse_directory, write_directory

MAX_INFLATED = 1 << 20
_MAX_EXIF = 1 << 24
_MAX_ITEMS = 4096
_MAX_BOXES = _MAX_SEGMENTS = 10_000
_MAX_CHUNKS = 250_000
_MAX_PAGES = 64
_KIND_OF_PAGE = frozenset({0xFE, 0x100})

Data: TypeAlias = "bytes | mmap"
"""A file in memory, or on disk as if it were."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JP2_EXIF, JP2_XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")

_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")


class JpegParts(NamedTuple):
    """segments: (marker, payload) up to the first scan, at byte `scan`. frame: payload and marker of start-of-frame."""

    segments: list[tuple[int, bytes]]
    scan: int
    frame: bytes
    frame_marker: int

    def payloads(self, marker: int, prefix: bytes) -> list[bytes]:
        """Bytes that follow `prefix` in every segment of this kind."""
        return [body[len(prefix) :] for kind, body in self.segments if kind == marker and body.startswith(prefix)]

    def bare(self, data: bytes, end: int) -> bytes:
        """The file up to byte `end` without metadata: what the pixels depend on.

        JFIF and Adobe markers say which colours they are.
        """
        pieces = [b"\xff\xd8"]
        for marker, body in self.segments:
            if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
                pieces.append(jpeg_segment(marker, body[:12] + b"\0\0"))
            elif (marker == 0xEE and body.startswith(b"Adobe")) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                pieces.append(jpeg_segment(marker, body))
        return b"".join([*pieces, memoryview(data)[self.scan : end]])


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A marker with its length and payload."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_parts(data: Data) -> JpegParts:
    """Take the header of a JPEG apart. Junk between segments is skipped, as libjpeg does."""
    segments: list[tuple[int, bytes]] = []
    frame, frame_marker = b"", 0
    position = 2
    while True:
        match = _MARKER.search(data, position)
        if match is None or match.start() + 4 > len(data):
            raise ValueError("the file ends before the picture begins")
        position, marker = match.start(), match[1][0]
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError("the file ends inside its header")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, frame_marker = body, marker
        segments.append((marker, body))
        if len(segments) > _MAX_SEGMENTS:
            raise ValueError("it has more parts than any photo")
        position += 2 + length
    if len(frame) < 6:
        raise ValueError("the header does not say how large the picture is")
    return JpegParts(segments, position, frame, frame_marker)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Every (type, payload) up to IEND, or to where the file ends: the last payload may be cut off."""
    view = memoryview(data)
    position = len(PNG_MAGIC)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, view[position + 8 : position + 8 + length]
        if kind == b"IEND":
            return
        position += 12 + length
    raise ValueError("it has more parts than any photo")


def png_chunk(kind: bytes, body: bytes | memoryview) -> bytes:
    """A chunk with its length and checksum."""
    return b"".join((struct.pack(">I4s", len(body), kind), body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))))


def inflate(data: bytes, limit: int = MAX_INFLATED) -> bytes | None:
    """The decompressed bytes, or None if they are damaged or more than `limit`. What lies behind them is left out."""
    engine = zlib.decompressobj()
    try:
        plain = engine.decompress(data, limit)
    except zlib.error:
        return None
    return plain if engine.eof else None


class TiffParts(NamedTuple):
    """order, big: byte order and BigTIFF. tags: the first directory. pages: what kind of page the directories behind it
    are of. damage: what could not be read, a few words each.
    """

    order: Order
    big: bool
    tags: Tags
    pages: list[Tags]
    damage: tuple[str, ...]

    def values(self, tag: int) -> tuple[int, ...]:
        """The whole numbers of a tag of the first directory, () if absent. Raises ValueError for more than a few."""
        entry = self.tags.get(tag)
        if isinstance(entry, Entry) and entry.count > 64:
            raise ValueError("its header is damaged")
        return integers(self.tags, tag, self.order)


def tiff_parts(data: Data) -> TiffParts:
    """Take a TIFF or BigTIFF apart."""
    order: Order = "<" if data[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version not in (42, 43):
        raise ValueError("its header is not that of a TIFF")
    big = version == 43
    (offset,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}I", data, 4)
    bounds = Bounds(len(data))
    tags, following = parse_directory(data, offset, order, big=big, bounds=bounds)
    if not tags:
        raise ValueError("it has no directory of its contents")
    pages: list[Tags] = []
    while following and following not in bounds.seen and len(bounds.seen) < _MAX_PAGES:
        # Nothing of a later page is needed but what it is; its values may be as large as the file.
        page, following = parse_directory(data, following, order, big=big, only=_KIND_OF_PAGE, bounds=bounds)
        pages.append(page)
    return TiffParts(order, big, tags, pages, tuple(sorted(bounds.damage)))


def tiff_with(data: bytes, tags: Tags) -> bytes:
    """The same pixels described by `tags` alone: a new directory at the end, and the header points to it."""
    order: Order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    pad = len(data) % 2
    body, offset = write_directory(tags, order, len(data) + pad, big=big)
    start = struct.pack(f"{order}Q", offset) if big else struct.pack(f"{order}I", offset)
    at = 8 if big else 4
    return b"".join((data[:at], start, memoryview(data)[at + len(start) :], bytes(pad), body))


def tiff_bare(data: bytes, parts: TiffParts) -> bytes:
    """The file with nothing but the layout of the pixels of its first page."""
    layout = {tag: entry for tag, entry in parts.tags.items() if tag in STRUCTURE and tag != 0xFE}
    return tiff_with(data, layout)


def boxes(data: Data, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte, end) of the payload of every ISO box between two bytes of the file."""
    end = len(data) if end is None else min(end, len(data))
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield kind, start + head, min(start + size, end)
        start += size
    raise ValueError("it has more parts than any photo")


def box(kind: bytes, body: bytes) -> bytes:
    """An ISO box."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


class HeifParts(NamedTuple):
    """Contents of HEIF and AVIF files outside their coded pictures.

    exif: the block, unscrubbed. exif_names: where the type "Exif" is written in the item table. boxes: payloads of the
    boxes that state properties of items, by type. sequence: there is a track, as in a film. damage: why there is no
    exif though the file says so.
    """

    exif: bytes | None
    exif_names: list[int]
    boxes: dict[bytes, list[bytes]]
    sequence: bool
    damage: tuple[str, ...] = ()


def heif_parts(data: Data) -> HeifParts:
    """Read the item table of a HEIF or AVIF file; what is missing or damaged in it is left out."""
    top = {kind: (start, end) for kind, start, end in boxes(data)}
    names: list[int] = []
    properties: dict[bytes, list[bytes]] = {}
    exif: bytes | None = None
    start, end = top.get(b"meta", (0, 0))
    inside = {kind: (first, last) for kind, first, last in boxes(data, start + 4, end)} if end else {}
    items: list[int] = []
    first, last = inside.get(b"iinf", (0, 0))
    entries = boxes(data, first + (6 if data[first : first + 1] == b"\0" else 8), last) if last else ()
    for kind, at, _ in islice(entries, _MAX_ITEMS):
        wide = data[at] > 2
        name = at + (10 if wide else 8)
        if kind == b"infe" and data[name : name + 4] == b"Exif":
            names.append(name)
            items.append(int.from_bytes(data[at + 4 : at + (8 if wide else 6)], "big"))
    first, last = inside.get(b"iprp", (0, 0))
    for kind, at, stop in islice(boxes(data, first, last), _MAX_ITEMS) if last else ():
        if kind == b"ipco":
            for name_, low, high in islice(boxes(data, at, stop), _MAX_ITEMS):
                properties.setdefault(name_, []).append(data[low:high])
    first, last = inside.get(b"iloc", (0, 0))
    damage: tuple[str, ...] = ()
    if items and last:
        base = inside.get(b"idat", (0, 0))[0]
        try:
            places = _extents(data[first:last], items[0])
        except (ValueError, IndexError) as error:
            places, damage = [], (f"where it lies cannot be read, because {error}",)
        raw = bytearray()
        for method, offset, size in places:
            start = offset + base * (method == 1)
            raw += data[start : start + min(size, _MAX_EXIF - len(raw))]
        skip = int.from_bytes(raw[:4], "big")  # the block begins with the offset of its TIFF header
        exif = bytes(raw[4 + skip :]) or None
    return HeifParts(exif, names, properties, b"moov" in top, damage)


def _extents(iloc: bytes, wanted: int) -> list[tuple[int, int, int]]:
    """(method, offset, size) of the parts of one item. Takes time linear in the table, whatever counts it states."""
    version, sizes, more = iloc[0], iloc[4], iloc[5]
    widths = sizes >> 4, sizes & 15, more >> 4, more & 15 if version else 0
    position = 6

    def take(width: int) -> int:
        nonlocal position
        if position + width > len(iloc):
            raise ValueError("its table of contents is cut off")
        position += width
        return int.from_bytes(iloc[position - width : position], "big")

    for _ in range(take(4 if version == 2 else 2)):
        item = take(4 if version == 2 else 2)
        method = take(2) & 15 if version else 0
        take(2)
        base = take(widths[2])
        count = take(2)
        each = widths[3] + widths[0] + widths[1]
        if count > _MAX_ITEMS or position + count * each > len(iloc):
            raise ValueError("its table of contents states more parts than it has")
        if item != wanted:
            position += count * each
            continue
        extents = []
        for _ in range(count if each else min(count, 1)):
            take(widths[3])
            offset, size = take(widths[0]), take(widths[1])
            extents.append((method, base + offset, size))
        return extents
    return []
