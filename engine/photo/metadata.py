"""EXIF, XMP and Photoshop blocks: what of them may leave with a cloaked photo.

A cloak is worth nothing if the file still carries the clean face somewhere else, and cameras and editors put small
copies of the picture into nearly every block of metadata. Pillow's own EXIF class is not used: it writes
back what it cannot parse, and reports damage as global warnings. Here EXIF is read into a tree, what is known to be
harmless is kept byte for byte, and the block is written anew: a preview that nothing points to is left behind too.
"""

from __future__ import annotations

import base64
import re
import struct
from typing import Literal, NamedTuple, TypeAlias

Order: TypeAlias = Literal["<", ">"]
Tags: TypeAlias = "dict[int, Entry | Tags]"

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD, MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C

# A raw preview of a face needs more than this, and almost no honest value does (maker notes are the largest).
MAX_VALUE = 32 * 1024
MAX_XMP = 65000  # one JPEG segment; what does not fit in one is split because of the pictures in it

_DIRECTORIES = {EXIF_IFD, GPS_IFD, INTEROP_IFD}
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

# The layout of the pixels: the writer of the new file states it, and EXIF that speaks of it speaks of a thumbnail.
STRUCTURE = frozenset(
    {0xFE, 0xFF, *range(0x100, 0x104), 0x106, 0x107, 0x108, 0x109, 0x10A, 0x111, 0x115, 0x116, 0x117, 0x118, 0x119}
    | {0x11C, 0x120, 0x121, 0x122, 0x123, 0x124, 0x125, 0x13D, *range(0x140, 0x146), 0x152, 0x153, 0x154, 0x155, 0x156}
    | {0x15B, *range(0x200, 0x20A), *range(0x211, 0x215)}
)
# Sub-images, previews, layers and private blobs; XMP, ICC and Photoshop blocks travel on their own.
_DROPPED = (STRUCTURE - {0x0213}) | {0x014A, 0x02BC, 0x8649, 0x8773, 0x935C, 0xC634, 0xC71B, 0xEA1C}
_SENSOR_COORDINATES = {0x9214, 0xA214}  # SubjectArea, SubjectLocation: wrong once the picture is turned
_PIXEL_SIZE = (0xA002, 0xA003)

_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"WEBPVP8", b"ftypheic", b"ftypavif", b"ftypmif1", b"ftypmp4", b"ftypisom",
    b"jP  \r\n\x87\n", b"\xff\x4f\xff\x51",
)  # fmt: skip
# JPEG and PNG in base64 (at each of its three phases only the first is written by anybody) and in hexadecimal.
_ARMOURED = re.compile(
    rb"/9j/[4-9A-Za-z]|iVBORw0KGgo|UklGR|AAAA....ftyp|ffd8ff(?:[0-9a-f\s]{64})|89504e470d0a1a0a", re.IGNORECASE
)


class Entry(NamedTuple):
    """One TIFF value: its kind (the TIFF type number), how many, its bytes as stored, and where they were."""

    kind: int
    count: int
    value: bytes
    offset: int = 0


class Exif(NamedTuple):
    """An EXIF block as a tree. order is struct's byte order of every value in it."""

    order: Order
    tags: Tags


def holds_picture(data: bytes) -> bool:
    """True if an encoded picture or film starts anywhere inside `data`, plain, in base64 or in hexadecimal."""
    return any(mark in data for mark in _SIGNATURES) or _ARMOURED.search(data) is not None


def _integers(entry: Entry, order: Order) -> tuple[int, ...]:
    letter = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.kind)
    return struct.unpack(f"{order}{entry.count}{letter}", entry.value) if letter else ()


def integers(tags: Tags, tag: int, order: Order) -> tuple[int, ...]:
    """The whole numbers of one tag, or () if it is absent or of another kind."""
    entry = tags.get(tag)
    return _integers(entry, order) if isinstance(entry, Entry) else ()


def parse_directory(
    data: bytes, offset: int, order: Order, *, big: bool = False, nested: bool = True
) -> tuple[Tags, int]:
    """One TIFF directory and the offset of the next one (0 if there is none or it cannot be read).

    Damage is left out rather than raised: entries of unknown kind, or that reach past the end, are not returned. The
    values together are never larger than the data, so that a crafted block cannot multiply itself in memory.
    """
    head, row, tail = (
        (f"{order}Q", f"{order}HHQ8s", f"{order}Q") if big else (f"{order}H", f"{order}HHI4s", f"{order}I")
    )
    inline = 8 if big else 4
    tags: Tags = {}
    budget = len(data)
    if not 0 < offset <= len(data) - struct.calcsize(head):
        return tags, 0
    (count,) = struct.unpack_from(head, data, offset)
    position = offset + struct.calcsize(head)
    for _ in range(count):
        if position + struct.calcsize(row) > len(data):
            return tags, 0
        tag, kind, length, field = struct.unpack_from(row, data, position)
        size = _WIDTHS.get(kind, 0) * length
        start = position + struct.calcsize(row) - inline
        if size > inline:
            (start,) = struct.unpack(f"{order}{'Q' if big else 'I'}", field)
        position += struct.calcsize(row)
        if not size or size > budget or start + size > len(data):
            continue
        budget -= size
        entry = Entry(kind, length, data[start : start + size], start)
        if nested and tag in _DIRECTORIES:
            target = _integers(entry, order)
            inner = parse_directory(data, target[0], order, big=big, nested=tag == EXIF_IFD)[0] if target else {}
            if inner:
                tags[tag] = inner
        elif tag not in _DIRECTORIES:
            tags[tag] = entry
    following = struct.unpack_from(tail, data, position)[0] if position + struct.calcsize(tail) <= len(data) else 0
    return tags, following


def write_directory(
    tags: Tags, order: Order, start: int, *, big: bool = False, keep_note: bool = False
) -> tuple[bytes, int]:
    """The bytes of a directory that will lie at offset `start` of a file, and the offset of the directory itself.

    keep_note: the maker note stays at the offset it had. Half of the makers count the offsets inside it from the start
    of the EXIF block, so a note that moves cannot be read any more.
    """
    head, row, tail = (
        (f"{order}Q", f"{order}HHQ8s", f"{order}Q") if big else (f"{order}H", f"{order}HHI4s", f"{order}I")
    )
    pointer, inline = (f"{order}Q", 8) if big else (f"{order}I", 4)
    exif = tags.get(EXIF_IFD)
    note = exif.get(MAKER_NOTE) if isinstance(exif, dict) else None
    fixed = range(0)
    if keep_note and isinstance(note, Entry) and len(note.value) > inline and start <= note.offset < 0xF000:
        fixed = range(note.offset, note.offset + len(note.value))
    out = bytearray()
    cursor = start

    def put(block: bytes, at: int) -> int:
        out.extend(bytes(max(0, at - start + len(block) - len(out))))
        out[at - start : at - start + len(block)] = block
        return at

    def place(size: int) -> int:
        nonlocal cursor
        cursor += cursor & 1
        if fixed and cursor < fixed.stop and cursor + size > fixed.start:
            cursor = fixed.stop + (fixed.stop & 1)
        at, cursor = cursor, cursor + size
        return at

    def write(tags: Tags) -> int:
        at = place(struct.calcsize(head) + len(tags) * struct.calcsize(row) + struct.calcsize(tail))
        table = bytearray(struct.pack(head, len(tags)))
        for tag, entry in sorted(tags.items()):
            if isinstance(entry, dict):
                field = struct.pack(pointer, write(entry))
                table += struct.pack(row, tag, 16 if big else 4, 1, field)
                continue
            field = entry.value
            if len(field) > inline:
                held = tag == MAKER_NOTE and bool(fixed)
                field = struct.pack(pointer, put(field, fixed.start if held else place(len(field))))
            table += struct.pack(row, tag, entry.kind, entry.count, field)
        return put(bytes(table) + struct.pack(tail, 0), at)

    where = write(tags)
    return bytes(out), where


def parse_exif(block: bytes | None) -> Exif | None:
    """The tree of an EXIF block (with or without its "Exif" prefix), or None if it is no EXIF block."""
    block = re.sub(b"^(Exif\x00\x00){1,2}", b"", block or b"")
    orders: dict[bytes, Order] = {b"II*\x00": "<", b"MM\x00*": ">"}
    order = orders.get(block[:4])
    if order is None or len(block) < 8:
        return None
    tags, _ = parse_directory(block, struct.unpack_from(f"{order}I", block, 4)[0], order)
    return Exif(order, tags) if tags else None


def write_exif(exif: Exif, *, limit: int | None = None) -> bytes:
    """The block, without prefix. limit: leave out the largest values until it is no longer than this."""
    order, tags = exif
    while True:
        body, where = write_directory(tags, order, 8, keep_note=True)
        block = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}I", where) + body
        if limit is None or len(block) <= limit:
            return block
        tags = _without_largest(tags)


def _without_largest(tags: Tags) -> Tags:
    def weight(item: Entry | Tags) -> int:
        return max(map(weight, item.values()), default=0) if isinstance(item, dict) else len(item.value)

    worst = max(tags, key=lambda tag: weight(tags[tag]))
    item = tags[worst]
    rest = {tag: value for tag, value in tags.items() if tag != worst}
    return {**rest, worst: _without_largest(item)} if isinstance(item, dict) and len(item) > 1 else rest


def to_order(tags: Tags, order: Order, wanted: Order) -> Tags:
    """The same values in another byte order; kinds that only exist in BigTIFF are left out."""
    swapped: Tags = {}
    for tag, entry in tags.items():
        if isinstance(entry, dict):
            swapped[tag] = to_order(entry, order, wanted)
        elif entry.kind < 16:
            word = _WORDS.get(entry.kind, 1) if order != wanted else 1
            value = (
                b"".join(entry.value[i : i + word][::-1] for i in range(0, len(entry.value), word))
                if word > 1
                else entry.value
            )
            swapped[tag] = entry._replace(value=value)
    return swapped


def orientation(exif: Exif | None, xmp: bytes | None = None) -> int:
    """EXIF orientation 1-8; from the XMP packet where EXIF has none, as Pillow does; 1 where nothing valid is said."""
    values = integers(exif.tags, ORIENTATION, exif.order) if exif else ()
    if not values and xmp and (match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        values = (int(match[1]),)
    return values[0] if values and values[0] in range(1, 9) else 1


def clean_exif(exif: Exif | None, size: tuple[int, int], turned: int) -> Exif | None:
    """The tree without anything that may hold a picture, saying that the photo is upright.

    size: (height, width) of the upright photo. turned: the orientation (1-8) that was undone.
    """
    if exif is None:
        return None
    sizes = dict(zip(_PIXEL_SIZE, size[::-1], strict=True))

    def clean(tags: Tags) -> Tags:
        kept: Tags = {}
        for tag, entry in tags.items():
            if isinstance(entry, dict):
                if inner := clean(entry):
                    kept[tag] = inner
            elif tag in _DROPPED or (turned != 1 and tag in _SENSOR_COORDINATES):
                continue
            elif tag == ORIENTATION:
                kept[tag] = Entry(3, 1, struct.pack(f"{exif.order}H", 1))
            elif tag in sizes and turned >= 5:
                kept[tag] = Entry(4, 1, struct.pack(f"{exif.order}I", sizes[tag]))
            elif len(entry.value) <= MAX_VALUE and not holds_picture(entry.value):
                kept[tag] = entry
        if turned >= 5 and 0x11A in kept and 0x11B in kept:
            kept[0x11A], kept[0x11B] = kept[0x11B], kept[0x11A]
        return kept

    tags = clean(exif.tags)
    return Exif(exif.order, tags) if tags else None


_XMP_PICTURES = re.compile(
    rb"xmp:Thumbnails|xmpGImg|xapGImg|ns\.google\.com/photos/|hdrgm|hdr-gain-map|HDRGainMap|apdi:|AuxiliaryImage"
    rb"|ImageData|photoshop:Thumbnail|depthmap|[Pp]review(?:Image)?>",
)
_XMP_REGIONS = re.compile(rb"mwg-rs:|MP:RegionInfo|MPRI:|aux:SubjectArea|crs:")


def clean_xmp(xmp: bytes | None, turned: int) -> bytes | None:
    """The packet saying that the photo is upright; None if it holds or announces another picture.

    Such packets (thumbnails, depth and gain maps, motion photos) are dropped whole: they mostly describe nothing else,
    and cutting XML by pattern is how pictures slip through. So are, once the photo was turned, those that point at
    places in it.
    """
    if not xmp:
        return None
    xmp = xmp.rstrip(b"\x00")
    armoured = re.sub(rb"&#x?[0-9A-Fa-f]+;|\s", b"", xmp)
    if len(xmp) > MAX_XMP or _XMP_PICTURES.search(xmp) or holds_picture(armoured):
        return None
    if turned != 1 and _XMP_REGIONS.search(xmp):
        return None
    xmp = re.sub(rb'\s*xmpNote:HasExtendedXMP="[^"]*"', b"", xmp)  # its other part is not kept
    return re.sub(rb'(tiff:Orientation(?:="|>))[0-9]+', rb"\g<1>1", xmp)


# IPTC text and its digest, resolution, copyright flag and URL. Not thumbnails (0x0409, 0x040C), layers, paths.
_RESOURCES = {0x0404, 0x03ED, 0x040A, 0x040B, 0x0425}


def clean_photoshop(block: bytes | None) -> bytes | None:
    """The Photoshop resource block with nothing left but captions, credits and resolution."""
    kept, position = b"", 0
    while block and block[position : position + 4] == b"8BIM" and position + 12 <= len(block):
        code = struct.unpack_from(">H", block, position + 4)[0]
        named = position + 6 + (block[position + 6] + 2) // 2 * 2
        if named + 4 > len(block):
            break
        size = struct.unpack_from(">I", block, named)[0]
        end = named + 4 + size
        data = block[named + 4 : end]
        if code in _RESOURCES and len(data) == size <= MAX_VALUE and not holds_picture(data):
            kept += block[position:end] + bytes(size & 1)
        position = end + (size & 1)
    return kept or None


def clean_text(data: bytes) -> bool:
    """True if a free text (a comment, a PNG text) can be kept: short, and no picture inside."""
    return len(data) <= MAX_VALUE and not holds_picture(data)


def unarmour(profile: bytes) -> bytes:
    """The bytes of an ImageMagick "Raw profile type" text: a name, a length, hexadecimal."""
    digits = re.sub(rb"\s", b"", profile.split(b"\n", 3)[-1])
    return base64.b16decode(digits, casefold=True)
