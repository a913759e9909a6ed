"""Every place of a container that can hold bytes: generators of (place, file with a payload there)."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image

from fuzzing import blocks, pieces
from fuzzing.mutate import held
from fuzzing.pieces import Piece
from fuzzing.planting import save

_PREFIXES = (
    b"",
    b"JFIF\0\1\1\0\0\1\0\1\x2c\x2c",
    b"JFXX\0\x10",
    b"JFXX\0\x13\x2c\x2c",
    b"Exif\0\0",
    b"http://ns.adobe.com/xap/1.0/\0",
    b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + bytes(8),
    b"ICC_PROFILE\0\1\1",
    b"MPF\0",
    b"FPXR\0\0",
    b"Photoshop 3.0\0",
    b"Adobe\0\x64\0\0\0\0\1",
    b"Ducky\0\1\0\4",
    b"SPIFF\0",
    b"urn:iso:std:iso:ts:21496:-1\0",
    b"AVI1",
    b"META\0\0",
    b"CIFF",
    b"[picture info]",
    b"SAMSUNG\0",
    b"JPS_",
    b"JUMBF",
)


def in_jpeg(seed: bytes, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, file) for every place of a JPEG."""
    parts = pieces.split(seed)

    def inserted(piece: Piece, at: int = 0) -> bytes:
        return pieces.join("jpeg", [*parts[:at], piece, *parts[at:]])

    for n in range(16):
        yield f"APP{n}", inserted(Piece(bytes([0xFF, 0xE0 + n]), payload))
    for prefix in _PREFIXES[1:]:
        for n in {0, 1, 2, 13, 14} if prefix[:4] in (b"JFIF", b"Exif", b"Adob") else {1, 2}:
            yield f"APP{n} {prefix[:9]!r}", inserted(Piece(bytes([0xFF, 0xE0 + n]), prefix + payload))
    for n in (0xF0, 0xF7, 0xFD, 0xFE, 0xDC, 0xDE, 0xDF, 0xC8, 0xCC, 0x02, 0xBF):
        yield f"marker {n:02x}", inserted(Piece(bytes([0xFF, n]), payload))
    yield "between segments", inserted(Piece(b"", payload.replace(b"\xff", b"\xfe"), True), 1)
    yield "before the first", inserted(Piece(b"", payload.replace(b"\xff", b"\xfe"), True))
    for at, piece in enumerate(parts):
        if not piece.raw and piece.kind[1] not in range(0xE0, 0xF0):
            yield (
                f"tail of {piece.kind[1]:02x}",
                pieces.join("jpeg", [*parts[:at], piece._replace(body=piece.body + payload), *parts[at + 1 :]]),
            )
    end = seed.rindex(b"\xff\xd9")
    yield "before the end", seed[:end] + payload.replace(b"\xff", b"\xff\0") + seed[end:]
    yield "behind", seed + payload
    yield "comment before the end", seed[:end] + pieces.join("jpeg", [Piece(b"\xff\xfe", payload)])[2:] + seed[end:]
    yield (
        "twenty comments",
        pieces.join("jpeg", [*(Piece(b"\xff\xfe", payload[n * 300 : n * 300 + 300]) for n in range(20)), *parts]),
    )


def in_png(seed: bytes, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, file) for every place of a PNG."""
    head, *rest = pieces.split(seed)
    squeezed, text = zlib.compress(payload), zlib.compress(b"a short text")

    def inserted(kind: bytes, body: bytes, *, late: bool = False) -> bytes:
        piece, last = Piece(kind, body), next(n for n, piece in enumerate(rest) if piece.kind == b"IEND")
        return pieces.join("png", [head, *rest[:last], piece, *rest[last:]] if late else [head, piece, *rest])

    sound = {
        b"tIME": 7,
        b"gAMA": 4,
        b"sRGB": 1,
        b"pHYs": 9,
        b"cHRM": 32,
        b"sBIT": 3,
        b"bKGD": 6,
        b"hIST": 2,
        b"tRNS": 6,
        b"cICP": 4,
        b"mDCV": 24,
        b"cLLI": 8,
        b"oFFs": 9,
        b"sCAL": 6,
        b"sTER": 1,
        b"gIFg": 4,
        b"acTL": 8,
    }
    for kind, length in sound.items():
        yield (
            f"{kind.decode()} too long",
            inserted(kind, bytes([0, 1, 1, 1, 1, 1, 1, 1, 1]).ljust(length, b"\1")[:length] + payload),
        )
        yield f"{kind.decode()} alone", inserted(kind, payload)
    for kind in (
        b"prVt",
        b"vpAg",
        b"iDOT",
        b"sPLT",
        b"pCAL",
        b"gIFx",
        b"dSIG",
        b"fdAT",
        b"JDAT",
        b"caBX",
        b"zzZz",
        b"eXIf",
        b"iCCP",
    ):
        yield f"{kind.decode()}", inserted(kind, payload)
        yield f"late {kind.decode()}", inserted(kind, payload, late=True)
    for name, kind, body in (
        ("text", b"tEXt", b"Comment\0" + payload),
        ("text unknown", b"tEXt", b"my key\0" + payload),
        ("keyword", b"tEXt", payload + b"\0text"),
        ("text without NUL", b"tEXt", payload),
        ("ztext", b"zTXt", b"Comment\0\0" + squeezed),
        ("ztext tail", b"zTXt", b"Comment\0\0" + text + payload),
        ("ztext keyword", b"zTXt", payload + b"\0\0" + text),
        ("itext", b"iTXt", b"Comment\0\0\0\0\0" + payload),
        ("itext packed", b"iTXt", b"Comment\0\1\0\0\0" + squeezed),
        ("itext tail", b"iTXt", b"Comment\0\1\0en\0\0" + text + payload),
        ("itext language", b"iTXt", b"Comment\0\0\0" + payload.replace(b"\0", b"\1") + b"\0\0text"),
        ("itext translated", b"iTXt", b"Comment\0\0\0en\0" + payload.replace(b"\0", b"\1") + b"\0text"),
        ("icc tail", b"iCCP", b"ICC\0\0" + zlib.compress(blocks.profile()) + payload),
        ("icc name", b"iCCP", payload + b"\0\0" + zlib.compress(blocks.profile())),
        (
            "raw profile exif",
            b"zTXt",
            b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(payload), payload.hex().encode())),
        ),
        (
            "raw profile unknown",
            b"tEXt",
            b"Raw profile type x\0\nx\n%8d\n%s\n" % (len(payload), payload.hex().encode()),
        ),
        ("xmp", b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + payload),
        ("xmp translated", b"iTXt", b"XML:com.adobe.xmp\0\0\0en\0" + payload.replace(b"\0", b"\1") + b"\0<x/>"),
    ):
        yield name, inserted(kind, body)
        yield f"late {name}", inserted(kind, body, late=True)
    yield "behind", seed + payload
    data = b"".join(piece.body for piece in rest if piece.kind == b"IDAT")
    without_data = [piece for piece in rest if piece.kind != b"IDAT"]
    at = next(n for n, piece in enumerate(without_data) if piece.kind == b"IEND")
    yield (
        "tail of IDAT",
        pieces.join("png", [head, *without_data[:at], Piece(b"IDAT", data + payload), *without_data[at:]]),
    )
    longer = zlib.compress(zlib.decompress(data) + payload)
    yield "more rows", pieces.join("png", [head, *without_data[:at], Piece(b"IDAT", longer), *without_data[at:]])
    many = [Piece(b"tEXt", b"Comment\0" + payload[n * 300 : n * 300 + 300]) for n in range(20)]
    yield "twenty texts", pieces.join("png", [head, *many, *rest])


def in_webp(seed: bytes, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, file) for every place of a WebP."""
    parts = pieces.split(seed)
    for kind in (b"JUNK", b"ICCP", b"EXIF", b"XMP ", b"ALPH", b"ANIM", b"ANMF", b"VP8 ", b"META", b"\0\0\0\0"):
        for at in (0, 1, len(parts)):
            yield f"{kind!r} at {at}", pieces.join("webp", [*parts[:at], Piece(kind, payload), *parts[at:]])
    for at, piece in enumerate(parts):
        yield (
            f"tail of {piece.kind!r}",
            pieces.join("webp", [*parts[:at], piece._replace(body=piece.body + payload), *parts[at + 1 :]]),
        )
    yield "behind", seed + payload


def in_boxes(seed: bytes, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, file) behind the boxes of HEIF, AVIF and JPEG 2000, where no offset changes."""
    kinds = (b"free", b"skip", b"uuid", b"mdat", b"udta", b"xml ", b"Exif", b"jp2c", b"moof", b"zzzz", b"thmb")
    ids = (
        b"JpgTiffExif->JP2",
        bytes.fromhex("be7acfcb97a942e89c71999491e3afac"),
        bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38"),
        bytes(16),
    )
    for kind in kinds:
        yield f"box {kind.decode()}", seed + struct.pack(">I4s", len(payload) + 8, kind) + payload
    for id_ in ids:
        yield f"uuid {id_[:4]!r}", seed + struct.pack(">I4s", len(payload) + 24, b"uuid") + id_ + payload
    yield "behind", seed + payload


def in_other(seed: bytes, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, file) for BMP, PPM and TIFF without their directories."""
    yield "behind", seed + payload
    if seed[:2] == b"BM":
        start, shifted = int.from_bytes(seed[10:14], "little"), len(payload)
        yield "gap", seed[:10] + struct.pack("<I", start + shifted) + seed[14:start] + payload + seed[start:]
    if seed[:1] == b"P":
        text = base64.b64encode(payload)
        lines = b"".join(b"#" + text[n : n + 70] + b"\n" for n in range(0, len(text), 70))
        yield "comments", seed[:3] + lines + seed[3:]


def in_block(
    container: str, seed: bytes, image: Image.Image, payload: bytes
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(place, how to make the file) for every block of metadata that the container holds."""
    tags = {"xmp": 0x2BC, "icc": 0x8773, "photoshop": 0x8649}
    for kind, make in blocks.KINDS.items():
        for place, block in make(payload):
            if container in ("jpeg", "png", "webp"):
                yield place, partial(_with_block, container, seed, held(container, kind, block))
            elif container == "tiff" and kind in tags:
                yield place, partial(tiff, image, {tags[kind]: (7, block)})
            elif container in ("AVIF", "HEIF") and kind != "photoshop":
                name = "icc_profile" if kind == "icc" else kind
                yield place, partial(_written_with, container, seed, image, **{name: block})
    if container == "tiff":
        for tag in blocks.TIFF_TAGS:
            for kind in (7, 2):
                yield f"tiff {tag:x} as {kind}", partial(tiff, image, {tag: (kind, payload)})


def _with_block(container: str, seed: bytes, block: Piece) -> bytes:
    parts, at = pieces.split(seed), int(container == "png")
    if (
        container == "webp"
    ):  # extended: a header that announces the block, a profile before the picture, the rest behind
        flag = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}.get(block.kind, 0)
        with Image.open(io.BytesIO(seed)) as image:
            width, height = (side - 1 for side in image.size)
        parts.insert(
            0, Piece(b"VP8X", struct.pack("<I", flag) + width.to_bytes(3, "little") + height.to_bytes(3, "little"))
        )
        at = 1 if block.kind == b"ICCP" else 2
    return pieces.join(container, [*parts[:at], block, *parts[at:]])


def _written_with(format: str, seed: bytes, image: Image.Image, **block: bytes) -> bytes:
    """A HEIF or AVIF file with a block; the seed if Pillow will not write it."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save(image, format, quality=40, **({"speed": 10} if format == "AVIF" else {}), **block)
    return seed


def tiff(image: Image.Image, extra: dict[int, tuple[int, bytes]]) -> bytes:
    """A picture as uncompressed TIFF with more tags. extra: kind and value by tag."""
    data = image.tobytes()
    tags = {
        0x100: (4, struct.pack("<I", image.width)),
        0x101: (4, struct.pack("<I", image.height)),
        0x102: (3, struct.pack("<3H", 8, 8, 8)),
        0x103: (3, b"\1\0"),
        0x106: (3, b"\2\0"),
        0x111: (4, struct.pack("<I", 8)),
        0x115: (3, b"\3\0"),
        0x116: (4, struct.pack("<I", image.height)),
        0x117: (4, struct.pack("<I", len(data))),
    } | extra
    where = 8 + len(data) + (len(data) & 1)
    out = b"II*\0" + struct.pack("<I", where) + data + bytes(len(data) & 1) + struct.pack("<H", len(tags))
    after, values = len(out) + 12 * len(tags) + 4, b""
    for tag, (kind, value) in sorted(tags.items()):
        count = len(value) // {3: 2, 4: 4}.get(kind, 1)
        if len(value) > 4:
            out += struct.pack("<HHII", tag, kind, count, after + len(values))
            values += value + bytes(len(value) & 1)
        else:
            out += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return out + bytes(4) + values
