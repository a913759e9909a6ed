"""How the picture formats are put together: JPEG segments, PNG chunks, TIFF directories, ISO boxes.

`engine.photo` takes a file apart here so that Pillow's decoders are handed nothing but the picture. What surrounds
it (EXIF, a second frame, a thumbnail) is what damaged and hostile files use to crash, to warn or to allocate. Malformed
structure raises ValueError or struct.error.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from engine.photo.metadata import MAX_VALUE, STRUCTURE, Order, Tags, integers, parse_directory, write_directory

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JP2_EXIF, JP2_XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


class JpegParts(NamedTuple):
    """segments: (marker, payload) up to the first scan, at byte `scan`. frame: payload and marker of start-of-frame."""

    segments: list[tuple[int, bytes]]
    scan: int
    frame: bytes
    frame_marker: int

    def payloads(self, marker: int, prefix: bytes) -> list[bytes]:
        """What follows `prefix` in every segment of this kind."""
        return [body[len(prefix) :] for kind, body in self.segments if kind == marker and body.startswith(prefix)]

    def bare(self, data: bytes) -> bytes:
        """The file without metadata: what the pixels depend on (JFIF and Adobe markers say which colours they are)."""
        kept = [b"\xff\xd8"]
        for marker, body in self.segments:
            if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
                kept.append(jpeg_segment(marker, body[:12] + b"\0\0"))
            elif (marker == 0xEE and body.startswith(b"Adobe")) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                kept.append(jpeg_segment(marker, body))
        return b"".join([*kept, memoryview(data)[self.scan :]])


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A marker with its length and payload."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_parts(data: bytes) -> JpegParts:
    """Take the header of a JPEG apart. Junk between segments is skipped, as libjpeg does."""
    segments: list[tuple[int, bytes]] = []
    frame, frame_marker = b"", 0
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            raise ValueError("the file ends before the picture begins")
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError("the file ends inside its header")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, frame_marker = body, marker
        segments.append((marker, body))
        position += 2 + length
    if len(frame) < 6:
        raise ValueError("the header does not say how large the picture is")
    return JpegParts(segments, position, frame, frame_marker)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Every (type, payload) up to IEND."""
    view = memoryview(data)
    position = len(PNG_MAGIC)
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ValueError("the file ends inside the picture")
        yield kind, view[position + 8 : end - 4]
        if kind == b"IEND":
            return
        position = end


def png_chunk(kind: bytes, body: bytes | memoryview) -> bytes:
    """A chunk with its length and checksum."""
    return b"".join((struct.pack(">I4s", len(body), kind), body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))))


def inflate(data: bytes, limit: int = MAX_VALUE) -> bytes | None:
    """The decompressed bytes, or None if they are damaged or more than `limit`."""
    engine = zlib.decompressobj()
    try:
        plain = engine.decompress(data, limit)
    except zlib.error:
        return None
    return plain if engine.eof else None


def png_text(kind: bytes, body: bytes) -> tuple[bytes, bytes] | None:
    """(keyword, text) of a tEXt, zTXt or iTXt chunk; None if it is damaged or expands too far."""
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword, rest
    compressed = kind == b"zTXt" or rest[:1] == b"\1"
    text = rest[1:] if kind == b"zTXt" else b"".join(rest[2:].split(b"\0", 2)[2:])
    plain = inflate(text, 1 << 20) if compressed else text
    return None if plain is None else (keyword, plain)


class TiffParts(NamedTuple):
    """order, big: byte order and BigTIFF. tags: the first directory. pages: the directories behind it."""

    order: Order
    big: bool
    tags: Tags
    pages: list[Tags]

    def values(self, tag: int) -> tuple[int, ...]:
        """The whole numbers of a tag of the first directory, () where absent."""
        return integers(self.tags, tag, self.order)


def tiff_parts(data: bytes) -> TiffParts:
    """Take a TIFF or BigTIFF apart."""
    order: Order = "<" if data[:2] == b"II" else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    if version not in (42, 43):
        raise ValueError("its header is not that of a TIFF")
    big = version == 43
    (offset,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}I", data, 4)
    directories: list[Tags] = []
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < 64:
        seen.add(offset)
        tags, offset = parse_directory(data, offset, order, big=big)
        directories.append(tags)
    if not directories or not directories[0]:
        raise ValueError("it has no directory of its contents")
    return TiffParts(order, big, directories[0], [page for page in directories[1:] if page])


def tiff_with(data: bytes, tags: Tags) -> bytes:
    """The same pixels described by `tags` alone: a new directory at the end, and the header points to it."""
    order: Order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    pad = len(data) % 2
    body, where = write_directory(tags, order, len(data) + pad, big=big)
    start = struct.pack(f"{order}Q", where) if big else struct.pack(f"{order}I", where)
    at = 8 if big else 4
    return b"".join((data[:at], start, memoryview(data)[at + len(start) :], bytes(pad), body))


def tiff_bare(data: bytes, parts: TiffParts) -> bytes:
    """The file with nothing but the layout of the pixels of its first page."""
    kept = {tag: entry for tag, entry in parts.tags.items() if tag in STRUCTURE and tag != 0xFE}
    return tiff_with(data, kept)


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte, end) of the payload of every ISO box between two bytes of the file."""
    end = len(data) if end is None else min(end, len(data))
    while start + 8 <= end:
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


def box(kind: bytes, body: bytes) -> bytes:
    """An ISO box."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


class HeifParts(NamedTuple):
    """What HEIF and AVIF files say outside their coded pictures.

    exif: the block, unscrubbed. exif_names: where the type "Exif" is written in the item table. boxes: payloads of the
    boxes that state properties of items, by type. sequence: there is a track, as in a film.
    """

    exif: bytes | None
    exif_names: list[int]
    boxes: dict[bytes, list[bytes]]
    sequence: bool


def heif_parts(data: bytes) -> HeifParts:
    """Read the item table of a HEIF or AVIF file; what is missing or damaged in it is left out."""
    top = {kind: (start, end) for kind, start, end in boxes(data)}
    names: list[int] = []
    properties: dict[bytes, list[bytes]] = {}
    exif: bytes | None = None
    start, end = top.get(b"meta", (0, 0))
    inside = {kind: (first, last) for kind, first, last in boxes(data, start + 4, end)} if end else {}
    items: list[int] = []
    first, last = inside.get(b"iinf", (0, 0))
    for kind, at, _ in boxes(data, first + (6 if data[first : first + 1] == b"\0" else 8), last) if last else ():
        wide = data[at] > 2
        name = at + (10 if wide else 8)
        if kind == b"infe" and data[name : name + 4] == b"Exif":
            names.append(name)
            items.append(int.from_bytes(data[at + 4 : at + (8 if wide else 6)], "big"))
    first, last = inside.get(b"iprp", (0, 0))
    for kind, at, stop in boxes(data, first, last) if last else ():
        if kind == b"ipco":
            for name_, low, high in boxes(data, at, stop):
                properties.setdefault(name_, []).append(data[low:high])
    first, last = inside.get(b"iloc", (0, 0))
    if items and last:
        place = _item_extents(data[first:last]).get(items[0], [])
        base = inside.get(b"idat", (0, 0))[0]
        raw = b"".join(data[o + base * (method == 1) :][:size] for method, o, size in place if size <= 1 << 24)
        skip = int.from_bytes(raw[:4], "big")  # the block begins with the offset of its TIFF header
        exif = raw[4 + skip :] or None
    return HeifParts(exif, names, properties, b"moov" in top)


def _item_extents(iloc: bytes) -> dict[int, list[tuple[int, int, int]]]:
    version, sizes, more = iloc[0], iloc[4], iloc[5]
    widths = sizes >> 4, sizes & 15, more >> 4, more & 15 if version else 0
    position = 6

    def take(width: int) -> int:
        nonlocal position
        if position + width > len(iloc):
            raise ValueError("its table of contents is cut off")
        position += width
        return int.from_bytes(iloc[position - width : position], "big")

    found: dict[int, list[tuple[int, int, int]]] = {}
    for _ in range(take(4 if version == 2 else 2)):
        item = take(4 if version == 2 else 2)
        method = take(2) & 15 if version else 0
        take(2)
        base = take(widths[2])
        extents = found.setdefault(item, [])
        for _ in range(take(2)):
            take(widths[3])
            offset, size = take(widths[0]), take(widths[1])
            extents.append((method, base + offset, size))
    return found
