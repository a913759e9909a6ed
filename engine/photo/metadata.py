"""EXIF blocks and TIFF directories as trees: read, turned into another byte order, written anew.

Pillow's own EXIF class is not used: it writes back what it cannot parse, and reports damage as global warnings. Here a
block is read into a tree, `engine.photo.exif` decides what of it is kept, and the block is written anew. What nothing
points to is left behind. Reading takes time and memory linear in the block, whatever is in it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from mmap import mmap
from typing import Literal, NamedTuple, TypeAlias

Order: TypeAlias = Literal["<", ">"]
Tags: TypeAlias = "dict[int, Entry | Tags]"

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD, MAKER_NOTE = 0x8769, 0x8825, 0xA005, 0x927C

MAX_ENTRIES = 4096

_DIRECTORIES = {EXIF_IFD, GPS_IFD, INTEROP_IFD}
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

# The layout of the pixels: the writer of the new file states it, and EXIF that speaks of it speaks of a thumbnail.
STRUCTURE = frozenset(
    {0xFE, 0xFF, *range(0x100, 0x104), 0x106, 0x107, 0x108, 0x109, 0x10A, 0x111, 0x115, 0x116, 0x117, 0x118, 0x119}
    | {0x11C, 0x120, 0x121, 0x122, 0x123, 0x124, 0x125, 0x13D, *range(0x140, 0x146), 0x152, 0x153, 0x154, 0x155, 0x156}
    | {0x15B, *range(0x200, 0x20A), *range(0x211, 0x215)}
)


class Entry(NamedTuple):
    """One TIFF value: its kind (the TIFF type number), how many, its bytes as stored, and where they were."""

    kind: int
    count: int
    value: bytes
    offset: int = 0


class Exif(NamedTuple):
    """An EXIF block as a tree.

    order: struct's byte order of every value in it. damage: what of the block could not be read, a few words each.
    thumbnail: the block has a second directory, which describes a small copy of the picture.
    """

    order: Order
    tags: Tags
    damage: tuple[str, ...] = ()
    thumbnail: bool = False


def _integers(entry: Entry, order: Order) -> tuple[int, ...]:
    letter = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(entry.kind)
    return struct.unpack(f"{order}{entry.count}{letter}", entry.value) if letter else ()


def integers(tags: Tags, tag: int, order: Order) -> tuple[int, ...]:
    """The whole numbers of one tag, or () if it is absent or of another kind."""
    entry = tags.get(tag)
    return _integers(entry, order) if isinstance(entry, Entry) else ()


@dataclass
class Bounds:
    """Limits to what the directories of one block take together, so that a crafted block cannot multiply itself.

    bytes: the values read may have so many, all in all. seen: offsets of the directories that were read. damage: what
    was found wrong.
    """

    bytes: int
    seen: set[int] = field(default_factory=set)
    damage: set[str] = field(default_factory=set)


def parse_directory(
    data: bytes | mmap,
    offset: int,
    order: Order,
    *,
    big: bool = False,
    inner: frozenset[int] = frozenset(_DIRECTORIES),
    only: frozenset[int] | None = None,
    bounds: Bounds | None = None,
) -> tuple[Tags, int]:
    """One TIFF directory and the offset of the next one (0 if there is none or it cannot be read).

    Damage is left out rather than raised, and named in `bounds`. Damage is an entry of unknown kind, one that reaches
    past the end, or a directory that was read before. inner: tags that point to a directory which is read into the
    tree. Such a directory is read once, however often it is pointed to. only: leave out all other tags.
    """
    head, row, tail = (
        (f"{order}Q", f"{order}HHQ8s", f"{order}Q") if big else (f"{order}H", f"{order}HHI4s", f"{order}I")
    )
    inline = 8 if big else 4
    bounds = bounds or Bounds(len(data))
    tags: Tags = {}
    if offset in bounds.seen:
        bounds.damage.add("a directory that leads back to itself")
        return tags, 0
    bounds.seen.add(offset)
    if not 0 < offset <= len(data) - struct.calcsize(head):
        bounds.damage.add("a directory that lies outside the block")
        return tags, 0
    (count,) = struct.unpack_from(head, data, offset)
    position = offset + struct.calcsize(head)
    if count > MAX_ENTRIES:
        bounds.damage.add("a directory of more entries than there are tags")
        return tags, 0
    for _ in range(count):
        if position + struct.calcsize(row) > len(data):
            bounds.damage.add("a directory that is cut off")
            return tags, 0
        tag, kind, length, field = struct.unpack_from(row, data, position)
        size = _WIDTHS.get(kind, 0) * length
        start = position + struct.calcsize(row) - inline
        if size > inline:
            (start,) = struct.unpack(f"{order}{'Q' if big else 'I'}", field)
        position += struct.calcsize(row)
        if tag in tags or (only is not None and tag not in only):
            continue
        if not size or size > bounds.bytes or start + size > len(data):
            if size or kind not in _WIDTHS:
                bounds.damage.add("entries that cannot be read")
            continue
        bounds.bytes -= size
        entry = Entry(kind, length, data[start : start + size], start)
        if tag in inner and (target := _integers(entry, order)):
            # EXIF has a directory of its own inside it, the others have none.
            deeper = inner - {EXIF_IFD} if tag == EXIF_IFD else frozenset[int]()
            subtree = parse_directory(data, target[0], order, big=big, inner=deeper, bounds=bounds)[0]
            if subtree:
                tags[tag] = subtree
        elif tag not in _DIRECTORIES:
            tags[tag] = entry
        else:
            bounds.damage.add("a directory where none belongs")
    following = struct.unpack_from(tail, data, position)[0] if position + struct.calcsize(tail) <= len(data) else 0
    return tags, following


def write_directory(
    tags: Tags, order: Order, start: int, *, big: bool = False, keep_note: bool = False
) -> tuple[bytes, int]:
    """The bytes of a directory that will lie at offset `start` of a file, and the offset of the directory itself.

    keep_note: the maker note stays at the offset it had. Half of the makers count the offsets inside it from the start
    of the EXIF block. So a note that moves cannot be read any more.
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
    """The tree of an EXIF block (with or without its "Exif" prefix), or None if there is nothing in it at all."""
    if not block:
        return None
    block = re.sub(b"^(Exif\x00\x00){1,2}", b"", block)
    orders: dict[bytes, Order] = {b"II*\x00": "<", b"MM\x00*": ">"}
    order = orders.get(block[:4])
    if order is None or len(block) < 8:
        return Exif("<", {}, ("a block that is not EXIF",)) if block.strip(b"\0") else None
    bounds = Bounds(len(block))
    tags, following = parse_directory(block, struct.unpack_from(f"{order}I", block, 4)[0], order, bounds=bounds)
    return Exif(order, tags, tuple(sorted(bounds.damage)), thumbnail=0 < following < len(block))


def write_exif(exif: Exif, *, limit: int | None = None) -> bytes:
    """The block, without prefix. limit: leave out the largest values until it is no longer than this."""
    order, tags = exif.order, exif.tags
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
    """EXIF orientation 1-8; from the XMP packet if EXIF has none, as Pillow does; 1 if nothing valid is said."""
    values = integers(exif.tags, ORIENTATION, exif.order) if exif else ()
    if not values and xmp and (match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        values = (int(match[1]),)
    return values[0] if values and values[0] in range(1, 9) else 1
