"""Tags of an EXIF tree that leave with a cloaked photo: those that are known, of their proper form and length.

A cloak is worth nothing if the file still carries the clean face somewhere else. Cameras and editors put small copies
of the picture into nearly every block of metadata. So nothing is kept because it looks harmless. Text has to be text,
numbers have to be few, and what no table here knows has to be too small to hold a face.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple

from engine.photo import iptc, makernote
from engine.photo.metadata import MAKER_NOTE, ORIENTATION, STRUCTURE, Entry, Exif, Tags, integers
from engine.photo.prose import Allowance, holds_picture, plain, plain_wide

IPTC = 0x83BB

_TEXTS = frozenset(
    {0x0B, 0x10D, 0x10E, 0x10F, 0x110, 0x11D, 0x131, 0x132, 0x13B, 0x13C, 0x151, 0x8298, 0x8824, 0x9003, 0x9004, 0x9010}
    | {
        0x9011,
        0x9012,
        0x9290,
        0x9291,
        0x9292,
        0xA004,
        0xA420,
        0xA430,
        0xA431,
        *range(0xA433, 0xA43D),
        0x87B1,
        0xA480,
        0xA481,
        0xC614,
    }
    | {0xC62F, 0xC68B, 0xC6F6, 0x1000}
)
_WIDE_TEXTS = frozenset(range(0x9C9B, 0x9CA0))  # XPTitle and its kin: UTF-16
_CODED_TEXTS = frozenset({0x9286, 0x1B, 0x1C})  # UserComment, GPS method and area: eight bytes name the encoding
_MAX_TEXT = 8192

_FEW = 24  # bytes: three rationals
_UNKNOWN = 64
_TABLE = 240  # bytes of numbers that could be anything
_NUMBERS = frozenset(
    {0x11A, 0x11B, 0x11E, 0x11F, 0x128, 0x129, 0x13E, 0x213, 0x4746, 0x4749, 0x829A, 0x829D, 0x8822, 0x8827, 0x882A}
    | {0x882B, *range(0x8830, 0x8836), 0x9000, 0x9101, 0x9102, *range(0x9201, 0x920C), 0x920E, 0x920F, 0x9210, 0x9211}
    | {0x9214, 0x9215, 0x9216, *range(0x9400, 0x9406), *range(0xA000, 0xA004), 0xA20B, 0xA20E, 0xA20F, 0xA210, 0xA214}
    | {0xA215, 0xA217, 0xA300, 0xA301, *range(0xA401, 0xA40B), 0xA40C, 0xA432, 0xA460, 0xA461, 0xA500}
    | set(range(32))  # GPS and interoperability
)
# Most bytes of the values that are tables: primaries, lens, colour filter, DNG's and GeoTIFF's.
_LONGER = {
    0x13F: 48,
    0xA432: 32,
    0xA302: 40,
    0xA462: 64,
    0x830E: 24,
    0x85D8: 128,
    0x8482: 192,
    0x87AF: _TABLE,
    0x87B0: _TABLE,
}
_PRINT_IM = 0xC4A5

_SENSOR_COORDINATES = {0x9214, 0xA214}  # SubjectArea, SubjectLocation: wrong once the picture is turned
_PIXEL_SIZE = (0xA002, 0xA003)
_NAMES = {
    0x014A: "pictures inside the EXIF",
    0x935C: "Photoshop's layers",
    0xC634: "the camera's private data",
    0xEA1C: "",  # padding
    0x02BC: "an XMP packet inside the EXIF",
    0x8649: "Photoshop's resources inside the EXIF",
    0x8773: "a colour profile inside the EXIF",
    0x9286: "the user comment",
    0x010E: "the description",
}


class Cleaned(NamedTuple):
    """exif: the tree to be written, None if nothing is left. omitted: what was left out, a few words each."""

    exif: Exif | None
    omitted: list[str]


def clean_exif(exif: Exif | None, size: tuple[int, int], turned: int, allowance: Allowance) -> Cleaned:
    """The tree without anything that may hold a picture, saying that the photo is upright.

    size: (height, width) of the upright photo. turned: the orientation (1-8) that was undone. allowance:
    of the whole file.
    """
    if exif is None:
        return Cleaned(None, [])
    omitted = [f"broken EXIF ({', '.join(exif.damage)})"] if exif.damage else []
    omitted += ["the thumbnail"] if exif.thumbnail else []
    sizes = dict(zip(_PIXEL_SIZE, size[::-1], strict=True))

    def clean(tags: Tags) -> Tags:
        cleaned: Tags = {}
        for tag, entry in tags.items():
            if isinstance(entry, dict):
                if inner := clean(entry):
                    cleaned[tag] = inner
            elif tag == ORIENTATION:
                cleaned[tag] = Entry(3, 1, struct.pack(f"{exif.order}H", 1))
            elif tag in STRUCTURE and tag != 0x0213:
                continue
            elif turned != 1 and tag in _SENSOR_COORDINATES:
                omitted.append("the subject's place, which is another once the photo is turned")
            elif tag in sizes and turned >= 5:
                cleaned[tag] = Entry(4, 1, struct.pack(f"{exif.order}I", sizes[tag]))
            elif (writable := _writable(tag, entry, exif, allowance)) is not None:
                cleaned[tag] = writable
                if writable.value != entry.value:
                    omitted.append(f"parts of {_name(tag, entry)}")
            elif name := _name(tag, entry):
                omitted.append(name)
        if turned >= 5 and 0x11A in cleaned and 0x11B in cleaned:
            cleaned[0x11A], cleaned[0x11B] = cleaned[0x11B], cleaned[0x11A]
        return cleaned

    tags = clean(exif.tags)
    return Cleaned(Exif(exif.order, tags) if tags else None, omitted)


def _name(tag: int, entry: Entry) -> str:
    if tag == MAKER_NOTE:
        return f"the camera's maker note ({len(entry.value):,} bytes)"
    return _NAMES.get(tag, f"EXIF tag 0x{tag:04x} ({len(entry.value):,} bytes)")


def _writable(tag: int, entry: Entry, exif: Exif, allowance: Allowance) -> Entry | None:
    """The entry as it may be written, or None."""
    value = entry.value
    if tag in _NAMES and tag not in (0x9286, 0x010E):
        return None
    if tag == MAKER_NOTE:
        return makernote.clean(entry)
    if tag == IPTC:
        clean = iptc.clean_iptc(value, allowance).data
        return Entry(7, len(clean), clean) if clean else None
    if tag in _WIDE_TEXTS:
        text = plain_wide(value, "utf-16-le")
        good = text is not None and allowance.text(text)
    elif tag in _CODED_TEXTS and entry.kind != 2 and len(value) > _FEW:
        good = _coded_text(value, exif, allowance)
    elif entry.kind == 2 or tag in _TEXTS:
        limit = _MAX_TEXT if tag in _TEXTS or tag in _CODED_TEXTS else 1024
        if not plain(value, limit=limit):  # a field of fixed length, with whatever lay there behind the text
            value = value.partition(b"\0")[0] + b"\0"
            entry = entry._replace(kind=2, count=len(value), value=value)  # of a kind whose values are bytes
        good = len(value) > 1 and plain(value, limit=limit) and allowance.text(value)
    elif tag == _PRINT_IM:
        good = value.startswith(b"PrintIM\0") and len(value) <= _TABLE
    elif tag == 0x12D:  # TransferFunction: curves that rise
        numbers = integers({tag: entry}, tag, exif.order)
        good = len(numbers) in (256, 768) and all(
            low <= high for n, (low, high) in enumerate(pairwise(numbers), 1) if n % 256
        )
    elif tag in _NUMBERS or tag in _LONGER or tag in _CODED_TEXTS:
        good = len(value) <= _LONGER.get(tag, _FEW) and (len(value) <= _UNKNOWN or allowance.take(len(value)))
    else:
        good = len(value) <= _UNKNOWN and allowance.take(len(value))
    return entry if good and not holds_picture(value) else None


def _coded_text(value: bytes, exif: Exif, allowance: Allowance) -> bool:
    code, text = value[:8], value[8:]
    if not text.strip(b"\0 "):
        return True
    if code.startswith(b"UNICODE"):
        text = text.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
        read = (plain_wide(text, f"utf-16-{'be' if big else 'le'}") for big in (exif.order == ">", exif.order == "<"))
        decoded = next((reading for reading in read if reading is not None), None)
        return decoded is not None and allowance.text(decoded)
    # Cameras write the text at once, or leave the code empty.
    return plain(text, limit=_MAX_TEXT) and (not code.strip(b"\0") or plain(code)) and allowance.text(text)
