"""Readers of the formats that are made of boxes: AVIF, HEIF and JPEG 2000."""

from __future__ import annotations

import io
import struct
from typing import Any

from PIL import AvifImagePlugin, Image, Jpeg2KImagePlugin

from engine.photo import containers as parts
from engine.photo import metadata as meta
from engine.photo.making import ANIMATED, DEEP, check_size, make_photo, refusal
from engine.types import Photo, PhotoError

try:  # the extra `heif`
    import pillow_heif
except ImportError:
    pillow_heif = None

_MAX_MARKERS = 1000


def read_avif(data: bytes) -> Photo:
    """An AVIF file."""
    heif = parts.heif_parts(data)
    depths = heif.boxes.get(b"av1C", [])
    if any(len(box) > 2 and box[2] & 0x40 for box in depths):
        raise refusal(DEEP)
    _check_colour(heif)
    bare = bytearray(data)
    for at in heif.exif_names:  # Pillow would parse the block, and warn of what is wrong in it
        bare[at : at + 4] = b"skip"
    image = AvifImagePlugin.AvifImageFile(io.BytesIO(bytes(bare)))
    if image.is_animated:
        raise refusal(*ANIMATED)
    shape = next((box[2] for box in depths if len(box) > 2 and not box[2] & 0x10), 0x0C)
    sampling = {0x00: "4:4:4", 0x08: "4:2:2", 0x0C: "4:2:0"}.get(shape & 0x0C, "4:4:4")
    mono = all(len(box) > 2 and box[2] & 0x10 for box in depths) and bool(depths)
    # How an AVIF is turned is said by its own boxes; the EXIF and XMP inside it must not turn it a second time.
    turned = meta.orientation(meta.parse_exif(image.info.get("exif")))
    if mono and image.mode in ("RGB", "RGBA"):
        image.load()
        image = _grey(image)
    return make_photo(
        image, "AVIF", turned=turned, exif=meta.parse_exif(heif.exif), xmp=image.info.get("xmp"),
        icc=image.info.get("icc_profile"), sampling=sampling, omitted=_lost(heif),
    )  # fmt: skip


def _lost(heif: parts.HeifParts) -> list[str]:
    return [f"broken EXIF ({reason})" for reason in heif.damage]


def _grey(image: Image.Image) -> Image.Image:
    bands = image.split()
    grey = Image.merge("LA", (bands[0], bands[3])) if len(bands) == 4 else bands[0]
    grey.info = image.info
    return grey


def _check_colour(heif: parts.HeifParts) -> None:
    """Pillow's AVIF writer states sRGB: a wider gamut or HDR that is stated by code, not by profile, would be lost."""
    colours = heif.boxes.get(b"colr", [])
    if any(body[:4] in (b"prof", b"rICC") for body in colours):
        return
    for body in colours:
        if body[:4] == b"nclx" and len(body) >= 8:
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            if primaries not in (0, 1, 2) or transfer in (4, 5, 8, 9, 10, 16, 17, 18):
                raise refusal("its colours are HDR or of a wide gamut that cannot be stated again")


def read_heif(data: bytes) -> Photo:
    """A HEIF file; needs the extra `heif`."""
    if pillow_heif is None:
        raise PhotoError("Reading HEIC photos needs one more package: pip install 'fawkes-engine[heif]'.")
    heif = parts.heif_parts(data)
    if heif.sequence:
        raise refusal(*ANIMATED)
    file = pillow_heif.HeifFile(io.BytesIO(data), convert_hdr_to_8bit=False)
    if len(file) != 1:
        raise refusal(*(ANIMATED if len(file) else ("it holds no picture", "Get it again from where it came.")))
    picture = file[0]
    info: dict[str, Any] = picture.info
    check_size(*picture.size)
    if info["bit_depth"] != 8 or ";16" in picture.mode:
        raise refusal(DEEP)
    nclx = info.get("nclx_profile")
    assert picture.data is not None
    image = Image.frombytes(picture.mode, picture.size, picture.data, "raw", picture.mode, picture.stride)
    chroma = info.get("chroma") if info.get("chroma") in (420, 422, 444) else 444
    omitted = [*_lost(heif), *(["the thumbnail"] if info.get("thumbnails") else [])]
    omitted += ["the depth map"] if info.get("depth_images") else []
    # The decoder has turned the picture as its boxes say; EXIF and XMP orientation do not count in HEIF.
    return make_photo(
        image, "HEIF", turned=1, exif=meta.parse_exif(info.get("exif")), xmp=info.get("xmp"),
        icc=info.get("icc_profile"), nclx=nclx, sampling=chroma, omitted=omitted,
    )  # fmt: skip


def read_jpeg2000(data: bytes) -> Photo:
    """A JPEG 2000 file or bare codestream."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise ValueError("no codestream")
    width, height, left, top = struct.unpack_from(">IIII", data, at + 8)
    check_size(width - left, height - top)
    (count,) = struct.unpack_from(">H", data, at + 40)
    if any(data[at + 42 + 3 * n] & 0x7F > 7 for n in range(count)):
        raise refusal(DEEP)
    reversible, position = False, at + 2
    for _ in range(_MAX_MARKERS):
        if data[position + 1] == 0x90:
            break
        if data[position] != 0xFF:
            raise ValueError("its header is damaged")
        if data[position + 1] == 0x52:
            reversible = data[position + 13] == 1
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    blocks: dict[bytes, bytes] = {}
    wrapped = at > 0
    for kind, start, end in parts.boxes(data) if wrapped else ():
        if kind == b"uuid":
            blocks[data[start : start + 16]] = data[start + 16 : end]
        for inner, low, _ in parts.boxes(data, start, end) if kind == b"jp2h" else ():
            if inner == b"colr" and data[low] != 1:
                raise refusal("its colour profile cannot be written into a JPEG 2000 file again")
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data))
    exif, xmp = meta.parse_exif(blocks.get(parts.JP2_EXIF)), blocks.get(parts.JP2_XMP)
    return make_photo(
        image, "JPEG2000", turned=meta.orientation(exif, xmp), exif=exif, xmp=xmp,
        dpi=image.info.get("dpi"), reversible=reversible, wrapped=wrapped,
    )  # fmt: skip
