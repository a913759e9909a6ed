"""From the bytes of each kind of file to a `Photo`: one reader a format, for `formats.KINDS`.

A reader checks the header before anything is decoded, hands Pillow the bare picture, and refuses what the pixels
of a Photo cannot hold. It may raise anything for a damaged file: `engine.photo.read` makes a PhotoError of that.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from engine.photo import containers as parts
from engine.photo import metadata as meta
from engine.photo import png
from engine.photo.iptc import clean_photoshop
from engine.photo.making import ANIMATED, DEEP, MAX_PIXELS, REFUSED_MODES, check_size, make_photo, refusal
from engine.photo.prose import Allowance, plain
from engine.photo.scans import MAX_SCANS, MAX_WORK, Scans, find_scans
from engine.photo.xmp import clean_xmp
from engine.types import Photo, PhotoError

_NOTED = 64  # bytes behind a picture that are worth a word
_MAX_COMMENTS = 16
_MAX_CHUNKS = 10_000


def read_jpeg(data: bytes, *, whole: bool = False) -> Photo:
    """A JPEG. whole: it is known that nothing of its picture is missing."""
    # Frames behind the first one (MPO, depth and gain maps, motion photos) lie after its end and are never looked at.
    jpeg = parts.jpeg_parts(data)
    precision, height, width, layers = struct.unpack_from(">BHHB", jpeg.frame)
    check_size(width, height)
    if precision != 8:
        raise refusal(DEEP)
    if layers == 4:
        raise refusal(REFUSED_MODES["CMYK"])
    if layers not in (1, 3) or jpeg.frame_marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise refusal("it is a rare kind of JPEG (lossless or with odd channels) that cannot be written back")
    scans = find_scans(data, jpeg.scan, layers)
    if scans.count > MAX_SCANS or (scans.count > 20 and scans.count * width * height > MAX_WORK):
        raise PhotoError(
            "The JPEG is made of more passes over its picture than any camera or program writes, which would take "
            "minutes to decode: open it in an editor and save it anew."
        )
    image = _jpeg_picture(data, jpeg, scans, whole)
    adobe = jpeg.payloads(0xEE, b"Adobe")
    plain_ = not jpeg.payloads(0xE0, b"JFIF\0") and not adobe and [c[0] for c in image.layer] == [*b"RGB"]
    rgb = layers == 3 and (plain_ or (bool(adobe) and adobe[0][6:7] == b"\0"))
    exif = meta.parse_exif(b"".join(jpeg.payloads(0xE1, b"Exif\0\0")))
    packets = jpeg.payloads(0xE1, _XMP)
    xmp = next((packet for packet in packets if clean_xmp(packet, 1).packet), packets[0] if packets else None)
    icc, omitted = _jpeg_profile(jpeg)
    allowance = Allowance()
    photoshop = clean_photoshop(b"".join(jpeg.payloads(0xED, b"Photoshop 3.0\0")), allowance)
    comments = [body for marker, body in jpeg.segments if marker == 0xFE and body.strip(b"\0 ")]
    readable = [comment for comment in comments[:_MAX_COMMENTS] if plain(comment) and allowance.text(comment)]
    omitted += [f"{len(comments) - len(readable)} of {len(comments)} comments"] if len(readable) < len(comments) else []
    omitted += ["another XMP packet"] if len(packets) > 1 else []
    omitted += photoshop.omitted + _jpeg_leftovers(jpeg, scans)
    turned = meta.orientation(exif, xmp)
    sampling = JpegImagePlugin.get_sampling(image) if layers == 3 else 0
    details: dict[str, Any] = {
        "tables": [image.quantization[layer[3]] for layer in image.layer],
        # Rows become columns: horizontal frequencies are vertical now, and 4:2:2 would be 4:4:0, which has no writer.
        "transposed": turned >= 5,
        "sampling": 0 if turned >= 5 and sampling == 1 else sampling,
        "progressive": jpeg.frame_marker in (0xC2, 0xCA),
        "keep_rgb": rgb,
    }
    if jfif := jpeg.payloads(0xE0, b"JFIF\0"):
        unit, x, y = struct.unpack_from(">BHH", jfif[0].ljust(7, b"\0"), 2)
        details["density"] = (unit, y, x) if turned >= 5 else (unit, x, y)
        details["dpi"] = (x * 2.54, y * 2.54) if unit == 2 else (x, y) if unit == 1 else None
    return make_photo(
        image, "JPEG", turned=turned, exif=exif, xmp=xmp, icc=icc, omitted=omitted, allowance=allowance, **details,
        photoshop=photoshop.data, comments=readable or None,
    )  # fmt: skip


_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_LEFTOVERS = (
    (0xE0, b"JFXX\0", "the thumbnail"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/\0", "the XMP packet's second part"),
    (0xE2, b"MPF\0", "further pictures"),
    (0xE2, b"FPXR\0", "FlashPix data"),
    (0xE2, b"urn:iso:std:iso:ts:21496:-1\0", "the gain map"),
    (0xEC, b"Ducky", "Photoshop's settings"),
    (0xEB, b"JP", "content credentials, which are void once the photo is changed"),
)
_KNOWN_SEGMENTS = (
    (0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0"), (0xE1, _XMP), (0xE2, b"ICC_PROFILE\0"), (0xED, b"Photoshop 3.0\0"),
    (0xEE, b"Adobe"),
)  # fmt: skip


def _jpeg_leftovers(jpeg: parts.JpegParts, scans: Scans) -> list[str]:
    omitted = []
    for marker, body in jpeg.segments:
        if not 0xE0 <= marker <= 0xEF or any(
            (marker, body[: len(name)]) == (kind, name) for kind, name in _KNOWN_SEGMENTS
        ):
            continue
        known = (words for kind, name, words in _LEFTOVERS if marker == kind and body.startswith(name))
        omitted.append(next(known, f"a segment APP{marker - 0xE0} of unknown kind"))
    if scans.behind > _NOTED:
        omitted.append(f"what follows the picture (a film or second picture? {scans.behind:,} bytes)")
    return omitted


def _jpeg_profile(jpeg: parts.JpegParts) -> tuple[bytes | None, list[str]]:
    pieces = sorted(jpeg.payloads(0xE2, b"ICC_PROFILE\0"))
    if not pieces:
        return None, []
    if [piece[:1] for piece in pieces] == [bytes([n + 1]) for n in range(len(pieces))]:
        return b"".join(piece[2:] for piece in pieces), []
    return None, ["a broken colour profile"]


_FILL = b"\xff\0" * 8  # bits that no code begins with: the decoder looks ahead, and may not look at other data
_OTHER = bytes(89 * n % 254 + 1 for n in range(4096))


def _jpeg_picture(data: bytes, jpeg: parts.JpegParts, scans: Scans, whole: bool) -> JpegImagePlugin.JpegImageFile:
    """The decoded picture. Raises OSError if the data ends before it: libjpeg alone would make up the rest."""

    def decoded(tail: bytes) -> JpegImagePlugin.JpegImageFile:
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.bare(data, scans.end) + tail))
        image.load()
        return image

    if scans.count == 1 and jpeg.frame_marker in (0xC0, 0xC1):
        return decoded(_FILL)  # without an end marker the decoder stops if it needs more than there is
    if not scans.closed and not scans.complete:
        raise OSError("scans are missing")
    # Several scans are decoded up to an end marker only. What stands before it must not matter if nothing is missing.
    image = decoded(b"\xff\xd9")
    if not whole and not _alike(image, decoded(_OTHER + b"\xff\xd9")):
        raise OSError("its last scan is cut off")
    return image


def _alike(first: Image.Image, second: Image.Image) -> bool:
    boxes = ((0, top, first.width, min(top + 256, first.height)) for top in range(0, first.height, 256))
    return all(np.array_equal(np.asarray(first.crop(box)), np.asarray(second.crop(box))) for box in boxes)


def read_png(data: bytes) -> Photo:
    """A PNG file; its known chunks are kept."""
    shape, exif, xmp, icc, dpi = b"", None, None, None, None
    bare: list[bytes | memoryview] = [parts.PNG_MAGIC]
    ancillary: list[tuple[bytes, bytes]] = []
    texts: list[png.Text] = []
    omitted: list[str] = []
    raw_exif = None
    count, end = 0, len(parts.PNG_MAGIC)
    for kind, view in parts.png_chunks(data):
        end += 12 + len(view)
        if kind in png.PICTURE:
            if kind == b"IHDR":
                shape = bytes(view)
                width, height, depth, colours = struct.unpack_from(">IIBB", shape)
                check_size(width, height)
                if depth == 16:
                    raise refusal(DEEP)
                if (depth, colours) == (1, 0):
                    raise refusal(REFUSED_MODES["1"])
            if kind != b"IEND":
                bare.append(parts.png_chunk(kind, view))
            continue
        count += 1
        if count > _MAX_CHUNKS:
            raise ValueError("it has more parts than any photo")
        if kind == b"acTL" and len(view) >= 4 and int.from_bytes(view[:4], "big") > 1:
            raise refusal(*ANIMATED)
        body = bytes(view)
        text = png.parse_text(kind, body) if kind in png.TEXTS else None
        if kind == b"eXIf":
            exif = meta.parse_exif(body)
        elif kind == b"iCCP":
            _, _, packed = body.partition(b"\0")
            icc = parts.inflate(packed[1:], 1 << 24)
            omitted += [] if icc else [f"a broken colour profile ({len(body):,} bytes)"]
        elif kind == b"pHYs" and len(body) == 9 and body[8] < 2:
            dpi = struct.unpack(">IIB", body)
        elif text is None:
            if shape and png.clean_chunk(kind, body, shape[9]):
                ancillary.append((kind, body))
            else:
                omitted.append(f"PNG chunk {kind.decode('latin-1')} ({len(body):,} bytes)")
        elif text.keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
            try:  # where ImageMagick puts EXIF
                raw_exif = meta.parse_exif(png.unarmour(text.value))
            except ValueError:
                omitted.append(f"broken EXIF ({text.keyword.decode()})")
        elif text.keyword == b"XML:com.adobe.xmp":
            xmp = text.value
        elif text.keyword.startswith(b"Raw profile type"):
            omitted.append(f"PNG text {text.keyword.decode('latin-1')} ({len(text.value):,} bytes)")
        else:
            texts.append(text)
    if len(data) > end + _NOTED:
        omitted.append(f"what follows the picture ({len(data) - end:,} bytes)")
    allowance = Allowance()
    chunks, lost = png.clean_texts(texts, allowance)
    # Viewers show a picture whose end marker is missing; one whose rows are missing the decoder refuses.
    image = PngImagePlugin.PngImageFile(io.BytesIO(b"".join([*bare, parts.png_chunk(b"IEND", b"")])))
    if exif is None or not exif.tags:
        exif = raw_exif or exif
    if image.mode == "P" or "transparency" in image.info:  # it will have other channels
        ancillary = [item for item in ancillary if item[0] != b"sBIT"]
    turned = meta.orientation(exif, xmp)
    if dpi is not None and turned >= 5:
        dpi = (dpi[1], dpi[0], dpi[2])
    metres = (dpi[0] * 0.0254, dpi[1] * 0.0254) if dpi is not None and dpi[2] == 1 else None
    if metres and turned >= 5:
        metres = metres[::-1]  # it is turned below
    return make_photo(
        image, "PNG", turned=turned, exif=exif, xmp=xmp, icc=icc, chunks=ancillary + chunks, density=dpi, dpi=metres,
        omitted=omitted + lost, allowance=allowance,
    )  # fmt: skip


def read_webp(data: bytes) -> Photo:
    """A WebP file, lossy or lossless."""
    if data[12:16] == b"VP8X":  # the decoder allocates the whole canvas when it is made
        check_size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    image = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    if image.is_animated:
        raise refusal(*ANIMATED)
    chunks, position = set(), 12
    omitted = []
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        chunks.add(kind)
        if kind not in _WEBP_CHUNKS:
            omitted.append(f"WebP chunk {kind.decode('latin-1')} ({size:,} bytes)")
        # A frame of an animation wraps the picture: 16 bytes of place and duration, then ordinary chunks.
        position += 24 if kind == b"ANMF" else 8 + size + (size & 1)
    exif, xmp = meta.parse_exif(image.info.get("exif")), image.info.get("xmp")
    return make_photo(
        image, "WEBP", turned=meta.orientation(exif, xmp), exif=exif, xmp=xmp, icc=image.info.get("icc_profile"),
        lossless=b"VP8L" in chunks and b"VP8 " not in chunks, omitted=omitted,
    )  # fmt: skip


_WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"XMP ", b"ICCP"}


_RAW_TAGS = {0xC612: "DNG", 0x828E: "raw", 0xC640: "CR2"}
_SINGLE = (0x100, 0x101, 0x103, 0x106, 0x10A, 0x115, 0x11C, 0x13D, 0x142, 0x143)


def read_tiff(data: bytes) -> Photo:
    """A TIFF file of one picture; a camera's raw is refused."""
    tiff = parts.tiff_parts(data)
    if any(tag in tiff.tags for tag in _RAW_TAGS) or tiff.values(0x106) in ((32803,), (34892,)):
        raise refusal("it is the raw file of a camera", "Develop it and save it as JPEG or PNG first.")
    if (tiff.values(0xFE) or (0,))[0] & 1:
        raise refusal("its first picture is only a preview of another (a camera's raw file?)")
    # Pages that call themselves reduced copies are thumbnails and left out; all others are pages of their own.
    if any(not (meta.integers(page, 0xFE, tiff.order) or (0,))[0] & 1 for page in tiff.pages):
        raise refusal(*ANIMATED)
    if any(len(tiff.values(tag)) > 1 for tag in _SINGLE) or max(tiff.values(0x115), default=1) > 4:
        raise refusal("its header contradicts itself or has more than four channels")
    if max(tiff.values(0x102), default=8) > 8:
        raise refusal(DEEP)
    if tiff.values(0x106) in ((5,), (8,), (9,)):
        raise refusal(REFUSED_MODES["CMYK" if tiff.values(0x106) == (5,) else "LAB"])
    if 0 in tiff.values(0x152):
        raise refusal("it has an extra channel of unstated meaning")
    # Pillow warns above its own limit and looks at the process-wide setting; a library must not change that.
    limit = min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
    width, height = (max(tiff.values(tag), default=0) for tag in (0x100, 0x101))
    check_size(width, height, limit)
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(parts.tiff_bare(data, tiff)))
    # Blocks that travel on their own, and padding.
    tags = {tag: entry for tag, entry in tiff.tags.items() if tag not in (0x02BC, 0x8773, 0x8649)}
    exif = meta.Exif(tiff.order, tags, tiff.damage, thumbnail=bool(tiff.pages))

    def block(tag: int) -> bytes | None:
        entry = tiff.tags.get(tag)
        return entry.value if isinstance(entry, meta.Entry) else None

    allowance = Allowance()
    photoshop = clean_photoshop(block(0x8649), allowance)
    unit, x, y = tiff.values(0x128) or (2,), _rational(tiff, 0x11A), _rational(tiff, 0x11B)
    scale = {2: 1.0, 3: 2.54}.get(unit[0])
    return make_photo(
        image, "TIFF", turned=meta.orientation(exif), exif=exif, xmp=block(0x02BC), icc=block(0x8773),
        dpi=(x * scale, y * scale) if scale and x and y else None,
        photoshop=photoshop.data, compression=image.info.get("compression"), omitted=photoshop.omitted,
        allowance=allowance,
    )  # fmt: skip


def _rational(tiff: parts.TiffParts, tag: int) -> float:
    entry = tiff.tags.get(tag)
    if not isinstance(entry, meta.Entry) or entry.kind != 5:
        return 0.0
    top, bottom = struct.unpack_from(f"{tiff.order}II", entry.value)
    return top / bottom if bottom else 0.0


def read_bmp(data: bytes) -> Photo:
    """A BMP file."""
    if len(data) >= 138 and data[14] >= 124 and data[70:74] in (b"DEBM", b"KNIL"):
        raise refusal("its colour profile cannot be written into a BMP file again")
    image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    return make_photo(image, "BMP", turned=1, dpi=image.info.get("dpi"))


def read_gif(data: bytes) -> Photo:
    """A GIF file of one picture."""
    width, height = struct.unpack_from("<HH", data, 6)
    check_size(width, height, min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    image = GifImagePlugin.GifImageFile(io.BytesIO(data))
    if image.is_animated:
        raise refusal(*ANIMATED)
    comment = image.info.get("comment", b"")
    readable = isinstance(comment, bytes) and bool(comment.strip(b"\0 ")) and plain(comment)
    omitted = ["the comment"] if comment and not readable else []
    return make_photo(image, "GIF", turned=1, comments=[comment] if readable else None, omitted=omitted)


def read_ppm(data: bytes) -> Photo:
    """A PPM, PGM or PBM file of 8 bits."""
    image = PpmImagePlugin.PpmImageFile(io.BytesIO(data))
    check_size(*image.size)
    arguments = image.tile[0].args  # the largest value, where it is not 255
    if image.mode == "RGB" and isinstance(arguments, tuple) and any(isinstance(a, int) and a > 255 for a in arguments):
        raise refusal(DEEP)
    return make_photo(image, "PPM", turned=1)
