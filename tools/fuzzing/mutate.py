"""Mutations: by structure, in every container that the engine reads, and of bytes wherever they are."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

from fuzzing import pieces
from fuzzing.pieces import Piece

_INTERESTING = (
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
_TAGS = (0x112, 0x11A, 0x14A, 0x201, 0x202, 0x2BC, 0x8649, 0x8769, 0x8773, 0x8825, 0x927C, 0x9286, 0xA005, 0xEA1C)
_MARKERS = tuple(bytes([0xFF, n]) for n in (*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE))
_CHUNKS = (
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"iCCP",
    b"eXIf",
    b"tIME",
    b"pHYs",
    b"gAMA",
    b"sBIT",
    b"tRNS",
    b"PLTE",
    b"acTL",
    b"fcTL",
    b"IDAT",
    b"IHDR",
    b"IEND",
    b"prVt",
    b"sPLT",
    b"hIST",
    b"bKGD",
    b"cHRM",
    b"sRGB",
    b"cICP",
)
_RIFFS = (b"EXIF", b"XMP ", b"ICCP", b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"JUNK")
_BOXES = (
    b"free",
    b"skip",
    b"uuid",
    b"iloc",
    b"iinf",
    b"ipma",
    b"iref",
    b"irot",
    b"grid",
    b"ispe",
    b"colr",
    b"Exif",
    b"mdat",
)


def mutate(data: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """One to four mutations of a file. donors: what chunks may be taken from. The same for the same state of `rng`."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = pieces.container(data)
        choices: list[Callable[[bytes, Random, Sequence[bytes]], bytes]] = [_bytes]
        if kind in ("jpeg", "png", "webp"):
            choices += [_pieces] * 4
        if kind == "boxes":
            choices += [_boxes] * 4
        if b"II*\0" in data or b"MM\0*" in data:
            choices += [_directory] * 3
        if kind in ("jpeg", "png", "webp"):
            choices += [_block] * 2
        data = rng.choice(choices)(data, rng, donors)
    return data


def _number(rng: Random, bits: int) -> int:
    return rng.choice((rng.choice(_INTERESTING), rng.getrandbits(bits))) & ((1 << bits) - 1)


def _bytes(data: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """Bits, integers, holes, repetitions and ends, anywhere."""
    out = bytearray(data)
    at, length = rng.randrange(len(out) + 1), int(2 ** rng.uniform(0, 12))
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.choice((1, 4, 64))):
            if out:
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        bits = rng.choice((8, 16, 32, 64))
        out[at : at + bits // 8] = _number(rng, bits).to_bytes(bits // 8, rng.choice(("big", "little")))
    elif kind == 2:
        del out[at : at + length]
    elif kind == 3:
        out[at:at] = rng.randbytes(length)
    elif kind == 4:
        out[at:at] = out[at : at + length] * rng.choice((1, 2, 16))
    elif kind == 5:
        out[at : at + length] = bytes([rng.choice((0, 255, 32, 65))]) * length
    elif kind == 6:
        del out[at:]
    else:
        donor = rng.choice(donors)
        start = rng.randrange(len(donor) + 1)
        out[at : at + length] = donor[start : start + length]
    return bytes(out)


def _body(body: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """A piece's payload: its own bytes mutated, its compressed stream mutated, or its length changed."""
    kind = rng.randrange(4)
    if kind == 0 and b"\x78" in body:
        at = body.index(b"\x78")
        try:
            plain = zlib.decompressobj().decompress(body[at:], 1 << 20)
        except zlib.error:
            return _bytes(body, rng, donors)
        if rng.randrange(2):
            return body[:at] + zlib.compress(plain * rng.choice((1, 8, 64))) + rng.randbytes(rng.choice((0, 99)))
        return body[:at] + zlib.compress(_bytes(plain, rng, donors))
    if kind == 1:
        return body[: rng.randrange(len(body) + 1)]
    if kind == 2:
        return body + rng.choice((rng.randbytes(rng.randrange(4096)), bytes(rng.randrange(60_000)), body))
    return _bytes(body, rng, donors)


def _pieces(data: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """Chunks and segments: dropped, repeated, moved, renamed, taken from others, damaged within."""
    kind, parts = pieces.container(data), pieces.split(data)
    if not parts:
        return _bytes(data, rng, donors)
    at, action = rng.randrange(len(parts)), rng.randrange(8)
    piece = parts[at]
    if action == 0:
        del parts[at]
    elif action == 1:
        parts[at:at] = [piece] * rng.choice((1, 1, 3, 200 if len(piece.body) < 2000 else 2))
    elif action == 2:
        place = rng.randrange(len(parts))
        parts[at], parts[place] = parts[place], piece
    elif action == 3:
        names = {"jpeg": _MARKERS, "png": _CHUNKS, "webp": _RIFFS}[kind]
        parts[at] = piece._replace(kind=rng.choice(names), raw=False)
    elif action == 4:
        same = [donor for donor in donors if pieces.container(donor) == kind] or [data]
        parts.insert(at, rng.choice(pieces.split(rng.choice(same)) or [piece]))
    elif action == 5 and not piece.raw:  # a header that says another length than there is
        whole = pieces.join(kind, [piece])[{"jpeg": 2, "png": 8, "webp": 12}[kind] :]
        parts[at] = Piece(b"", _bytes(whole[:12], rng, donors) + whole[12:], True)
    else:
        parts[at] = piece._replace(body=_body(piece.body, rng, donors))
    return pieces.join(kind, parts)


def _boxes(data: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """ISO boxes, in place: sizes, types, payloads; or one more."""
    boxes = pieces.boxes(data)
    if not boxes:
        return _bytes(data, rng, donors)
    _, start, inside, stop = rng.choice(boxes)
    out, action = bytearray(data), rng.randrange(5)
    if action == 0:
        out[start : start + 4] = _number(rng, 32).to_bytes(4, "big")
    elif action == 1:
        out[start + 4 : start + 8] = rng.choice(_BOXES)
    elif action == 2:
        size = int(2 ** rng.uniform(3, 14))
        out[start:start] = struct.pack(">I4s", size, rng.choice(_BOXES)) + rng.randbytes(size - 8)
    elif action == 3 and stop - inside > 4:
        at = rng.randrange(inside, stop - 3)
        bits = rng.choice((8, 16, 32))
        out[at : at + bits // 8] = _number(rng, bits).to_bytes(bits // 8, "big")
    else:
        out[inside:stop] = _bytes(bytes(out[inside : min(stop, inside + 4096)]), rng, donors)
    return bytes(out)


def _directory(data: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """A TIFF directory's entry: tag, kind, count, value; or a pointer to a directory, its own among them."""
    directories = [directory for directory in pieces.directories(data) if directory.entries]
    if not directories:
        return _bytes(data, rng, donors)
    order, base, entries = rng.choice(directories)
    at, out = rng.choice(entries), bytearray(data)
    action = rng.randrange(6)
    if action == 0:
        struct.pack_into(f"{order}H", out, at, rng.choice((rng.choice(_TAGS), rng.getrandbits(16))))
    elif action == 1:
        struct.pack_into(f"{order}H", out, at + 2, rng.choice((rng.randrange(20), rng.getrandbits(16))))
    elif action == 2:
        struct.pack_into(f"{order}I", out, at + 4, _number(rng, 32))
    elif action == 3:
        struct.pack_into(f"{order}I", out, at + 8, _number(rng, 32))
    elif action == 4:  # points at this directory, or into another
        target = rng.choice(rng.choice(directories).entries) - 2 - rng.choice((0, base))
        kind = rng.choice((4, 13))
        struct.pack_into(f"{order}HHII", out, at, rng.choice(_TAGS), kind, rng.choice((1, 64)), max(0, target - base))
    else:
        count = at - 2 if at == entries[0] else at
        struct.pack_into(f"{order}H", out, count, _number(rng, 16))
    return bytes(out)


def _block(data: bytes, rng: Random, donors: Sequence[bytes]) -> bytes:
    """One more block of metadata, of the kinds that have cost time or memory before."""
    make, put = rng.choice(_NASTY), pieces.container(data)
    kind, block = make(rng)
    parts = pieces.split(data)
    parts.insert(0 if put == "jpeg" else rng.randrange(1, 3), held(put, kind, block))
    return pieces.join(put, parts)


def held(container: str, kind: str, block: bytes) -> Piece:
    """The piece of a JPEG, PNG or WebP file that holds a block of the kind exif, xmp, icc, photoshop or comment."""
    if container == "jpeg":
        marker, prefix = {
            "exif": (b"\xff\xe1", b"Exif\0\0"),
            "xmp": (b"\xff\xe1", b"http://ns.adobe.com/xap/1.0/\0"),
            "icc": (b"\xff\xe2", b"ICC_PROFILE\0\1\1"),
            "photoshop": (b"\xff\xed", b"Photoshop 3.0\0"),
            "comment": (b"\xff\xfe", b""),
        }[kind]
        return Piece(marker, prefix + block)
    if container == "png":
        return {
            "exif": lambda: Piece(b"eXIf", block),
            "xmp": lambda: Piece(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + block),
            "icc": lambda: Piece(b"iCCP", b"ICC\0\0" + zlib.compress(block)),
            "photoshop": lambda: Piece(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(_armour(b"iptc", block))),
            "comment": lambda: Piece(b"tEXt", b"Comment\0" + block),
        }[kind]()
    names = {"exif": b"EXIF", "xmp": b"XMP ", "icc": b"ICCP", "photoshop": b"8BIM", "comment": b"COMM"}
    return Piece(names[kind], block)


def _armour(name: bytes, block: bytes) -> bytes:
    digits = block.hex().encode()
    lines = b"\n".join(digits[n : n + 72] for n in range(0, len(digits), 72))
    return b"\n%s\n%8d\n%s\n" % (name, len(block), lines)


def _branches(rng: Random) -> tuple[str, bytes]:
    """EXIF directories of which each points twice at the next, or at itself."""
    order, depth = rng.choice("<>"), rng.randrange(1, 60)
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    for level in range(depth):
        below = 8 + 30 * rng.choice((level, level + 1, level + 1, rng.randrange(depth)))
        tags = rng.choice(((0x8769, 0x8825), (0x8769, 0xA005), (0x8769, 0x8769), (0x14A, 0x8769)))
        out += struct.pack(f"{order}H", 2)
        out += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, below) for tag in tags)
        out += struct.pack(f"{order}I", rng.choice((0, 8, below)))
    return "exif", out


def _many_entries(rng: Random) -> tuple[str, bytes]:
    """An EXIF directory of thousands of entries that all name the same bytes."""
    count = rng.choice((100, 2000, 5000))
    size = rng.choice((1, 16, 60_000))
    rows = b"".join(struct.pack("<HHII", 0x9000 + n % 4096, rng.choice((1, 2, 7)), size, 8) for n in range(count))
    return "exif", b"II*\0" + struct.pack("<IH", 8, count) + rows + bytes(4)


def _packet(rng: Random) -> tuple[str, bytes]:
    """An XMP packet with long runs of what a pattern may try again and again."""
    run = rng.choice(
        (b" ", b"<", b'="', b"\t\n", b"&#32;", b'tiff:Orientation="', b"/9j/", b"A", b"xmpNote:", b"<rdf:li>")
    )
    body = run * rng.randrange(1, 60_000 // len(run))
    return "xmp", b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description ' + body + b"/></rdf:RDF></x:xmpmeta>"


def _profile(rng: Random) -> tuple[str, bytes]:
    """An ICC profile whose tag table lies."""
    rows = rng.choice((1, 10, 1 << 16, (1 << 32) - 1))
    tags = b"".join(struct.pack(">4sII", b"desc", _number(rng, 32), _number(rng, 32)) for _ in range(min(rows, 2000)))
    body = bytearray(bytes(128) + struct.pack(">I", rows) + tags + rng.randbytes(rng.randrange(500)))
    body[12:24], body[36:40] = b"mntrRGB XYZ ", b"acsp"
    struct.pack_into(">I", body, 0, rng.choice((len(body), _number(rng, 32))))
    return "icc", bytes(body)


def _resources(rng: Random) -> tuple[str, bytes]:
    """Photoshop resources and IPTC records whose lengths lie, or very many of them."""
    records = b"".join(struct.pack(">BBBH", 0x1C, 2, 25, _number(rng, 16)) for _ in range(rng.choice((1, 2000))))
    resource = b"8BIM" + struct.pack(
        ">HHI", rng.choice((0x404, 0x40C, 0x422)), 0, rng.choice((len(records), _number(rng, 32)))
    )
    return "photoshop", (resource + records) * rng.choice((1, 1, 4))


def _text(rng: Random) -> tuple[str, bytes]:
    return "comment", rng.choice((b"A", b"\0", b"/9j/", b"ffd8ff", b"\xff", b" \n")) * rng.randrange(1, 16_000)


_NASTY = (_branches, _many_entries, _packet, _profile, _resources, _text)
