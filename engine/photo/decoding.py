"""From the bytes of each kind of file to a `Photo`: one reader a format, `READERS`.

A reader checks the header before anything is decoded, hands Pillow the bare picture, and refuses what the pixels
of a Photo cannot hold. It may raise anything for a damaged file: `engine.photo.read` makes a PhotoError of that.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from engine.photo import containers as parts
from engine.photo import metadata as meta
from engine.types import Photo, PhotoError

try:  # the extra `heif`
    import pillow_heif
except ImportError:
    pillow_heif = None

# The largest phone sensors have 200 million pixels and WebP ends at 268. Decoding takes 7 bytes a pixel: 1.9 GB here.
MAX_PIXELS = 1 << 28

ADVICE = "Save it as an 8-bit RGB PNG or JPEG first."
_REFUSED_MODES = {
    "1": "it has only black and white pixels, which cannot hold a cloak",
    "CMYK": "its colours are CMYK, made for print, and would change when converted",
    "LAB": "its colours are CIELAB and would change when converted",
    "YCbCr": "its colours are stored as raw YCbCr and would change when converted",
    "HSV": "its colours are HSV and would change when converted",
    **dict.fromkeys(("I", "F", "I;16", "I;16B", "I;16L", "I;16N"), "it has more than 8 bits per channel"),
}


def check_size(width: int, height: int, limit: int = MAX_PIXELS) -> None:
    """Raise PhotoError for no pixels or too many; to be asked before anything is decoded."""
    if width < 1 or height < 1:
        raise PhotoError("The header says that the picture has no pixels: the file is damaged.")
    if width * height > limit:
        raise PhotoError(
            f"The photo says it has {width:,} x {height:,} pixels, more than the limit of {limit:,}: make it smaller."
        )


def refusal(reason: str, advice: str = ADVICE) -> PhotoError:
    """The error for a sound file that cannot be written back as it was."""
    return PhotoError(f"The photo was left as it is because {reason}. {advice}")


ANIMATED = (
    "it holds several pictures (an animation, a burst or pages)",
    "Save the one you want as a PNG or JPEG first.",
)
_DEEP = "it has more than 8 bits per channel, and writing it with 8 would coarsen it"


def make_photo(
    image: Image.Image, format: str, *, turned: int, exif: meta.Exif | None, xmp: bytes | None, **own: Any
) -> Photo:
    """Decode, turn upright, split off alpha and clean the metadata."""
    check_size(*image.size)
    if image.mode in _REFUSED_MODES:
        raise refusal(_REFUSED_MODES[image.mode])
    image.load()
    if image.mode in ("La", "RGBa") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("LA" if image.mode.startswith("L") else "RGBA")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise refusal(f"its pixels are of the kind {image.mode}, which cannot be written back unchanged")
    grey = image.mode.startswith("L")
    pixels, alpha = _channels(image)
    image.close()  # four bytes a pixel that the calling reader would hold on to
    pixels, alpha = _turn(pixels, turned), None if alpha is None else _turn(alpha, turned)
    dpi = own.pop("dpi", None)
    encoding = {
        "exif": meta.clean_exif(exif, pixels.shape[:2], turned),
        "xmp": meta.clean_xmp(xmp, turned),
        "dpi": (dpi[::-1] if turned >= 5 else dpi) if dpi else None,
        **own,
    }
    return Photo(pixels, format, grey, alpha, {k: v for k, v in encoding.items() if v is not None})


def _channels(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB (grey three times over) and alpha. In strips, because Pillow's own conversion holds two more copies."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = np.empty((height, width), np.uint8) if image.mode.endswith("A") else None
    for top in range(0, height, 256):
        strip = np.asarray(image.crop((0, top, width, min(top + 256, height))))
        strip = strip.reshape(*strip.shape[:2], -1)
        pixels[top : top + 256] = strip[..., :3] if image.mode.startswith("RGB") else strip[..., :1]
        if alpha is not None:
            alpha[top : top + 256] = strip[..., -1]
    return pixels, alpha


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """The array as EXIF orientation 1-8 says that it is to be shown."""
    if orientation in (3, 4, 6, 7):
        array = array[::-1]
    if orientation in (2, 3, 7, 8):
        array = array[:, ::-1]
    return np.ascontiguousarray(array.swapaxes(0, 1) if orientation >= 5 else array)


def _read_jpeg(data: bytes) -> Photo:
    # Frames behind the first one (MPO, depth and gain maps, motion photos) lie after its end and are never looked at.
    jpeg = parts.jpeg_parts(data)
    precision, height, width, layers = struct.unpack_from(">BHHB", jpeg.frame)
    check_size(width, height)
    if precision != 8:
        raise refusal(_DEEP)
    if layers == 4:
        raise refusal(_REFUSED_MODES["CMYK"])
    if layers not in (1, 3) or jpeg.frame_marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise refusal("it is a rare kind of JPEG (lossless or with odd channels) that cannot be written back")
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.bare(data)))
    adobe = jpeg.payloads(0xEE, b"Adobe")
    plain = not jpeg.payloads(0xE0, b"JFIF\0") and not adobe and [c[0] for c in image.layer] == [*b"RGB"]
    rgb = layers == 3 and (plain or (bool(adobe) and adobe[0][6:7] == b"\0"))
    exif = meta.parse_exif(b"".join(jpeg.payloads(0xE1, b"Exif\0\0")))
    xmp = next(iter(jpeg.payloads(0xE1, b"http://ns.adobe.com/xap/1.0/\0")), None)
    profile = sorted(jpeg.payloads(0xE2, b"ICC_PROFILE\0"))
    whole = bool(profile) and [p[:1] for p in profile] == [bytes([n + 1]) for n in range(len(profile))]
    turned = meta.orientation(exif, xmp)
    sampling = JpegImagePlugin.get_sampling(image) if layers == 3 else 0
    own: dict[str, Any] = {
        "tables": [image.quantization[layer[3]] for layer in image.layer],
        # Rows become columns: horizontal frequencies are vertical now, and 4:2:2 would be 4:4:0, which has no writer.
        "transposed": turned >= 5,
        "sampling": 0 if turned >= 5 and sampling == 1 else sampling,
        "progressive": jpeg.frame_marker in (0xC2, 0xCA),
        "keep_rgb": rgb,
    }
    if jfif := jpeg.payloads(0xE0, b"JFIF\0"):
        unit, x, y = struct.unpack_from(">BHH", jfif[0].ljust(7, b"\0"), 2)
        own["density"] = (unit, y, x) if turned >= 5 else (unit, x, y)
        own["dpi"] = (x * 2.54, y * 2.54) if unit == 2 else (x, y) if unit == 1 else None
    comment = next((body for marker, body in jpeg.segments if marker == 0xFE), b"")
    return make_photo(
        image, "JPEG", turned=turned, exif=exif, xmp=xmp, **own,
        icc=b"".join(p[2:] for p in profile) if whole else None,
        photoshop=meta.clean_photoshop(b"".join(jpeg.payloads(0xED, b"Photoshop 3.0\0"))),
        comment=comment if comment and meta.clean_text(comment) else None,
    )  # fmt: skip


_PNG_KEPT = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tIME", b"sBIT")


def _read_png(data: bytes) -> Photo:
    shape, exif, xmp, icc, dpi = b"", None, None, None, None
    bare: list[bytes | memoryview] = [parts.PNG_MAGIC]
    kept: list[tuple[bytes, bytes]] = []
    raw_exif = None
    for kind, view in parts.png_chunks(data):
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            bare.append(parts.png_chunk(kind, view))
            if kind == b"IHDR":
                shape = bytes(view)
                width, height, depth, colours = struct.unpack_from(">IIBB", shape)
                check_size(width, height)
                if depth == 16:
                    raise refusal(_DEEP)
                if (depth, colours) == (1, 0):
                    raise refusal(_REFUSED_MODES["1"])
        elif kind == b"acTL" and len(view) >= 4 and int.from_bytes(view[:4], "big") > 1:
            raise refusal(*ANIMATED)
        elif kind == b"eXIf":
            exif = meta.parse_exif(bytes(view))
        elif kind == b"iCCP":
            _, _, packed = bytes(view).partition(b"\0")
            icc = parts.inflate(packed[1:], 1 << 24)
        elif kind == b"pHYs" and len(view) == 9:
            dpi = struct.unpack(">IIB", view)
        elif kind in _PNG_KEPT:
            kept.append((kind, bytes(view)))
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and (text := parts.png_text(kind, bytes(view))):
            keyword, value = text
            if keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
                try:  # where ImageMagick puts EXIF
                    raw_exif = meta.parse_exif(meta.unarmour(value))
                except ValueError:
                    raw_exif = None
            elif keyword == b"XML:com.adobe.xmp":
                xmp = value
            elif not keyword.startswith(b"Raw profile type") and meta.clean_text(value):
                kept.append((kind, bytes(view)))
    image = PngImagePlugin.PngImageFile(io.BytesIO(b"".join(bare)))
    exif = exif or raw_exif
    if image.mode == "P" or "transparency" in image.info:  # it will have other channels
        kept = [item for item in kept if item[0] != b"sBIT"]
    turned = meta.orientation(exif, xmp)
    if dpi is not None and turned >= 5:
        dpi = (dpi[1], dpi[0], dpi[2])
    photo = make_photo(image, "PNG", turned=turned, exif=exif, xmp=xmp, icc=icc, chunks=kept, density=dpi)
    if dpi is None or dpi[2] != 1:
        return photo
    return replace(photo, encoding={**photo.encoding, "dpi": (dpi[0] * 0.0254, dpi[1] * 0.0254)})


def _read_webp(data: bytes) -> Photo:
    if data[12:16] == b"VP8X":  # the decoder allocates the whole canvas when it is made
        check_size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    image = WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    if image.is_animated:
        raise refusal(*ANIMATED)
    chunks, position = set(), 12
    while position + 8 <= len(data):
        chunks.add(data[position : position + 4])
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        # A frame of an animation wraps the picture: 16 bytes of place and duration, then ordinary chunks.
        position += 24 if data[position : position + 4] == b"ANMF" else 8 + size + (size & 1)
    exif, xmp = meta.parse_exif(image.info.get("exif")), image.info.get("xmp")
    return make_photo(
        image, "WEBP", turned=meta.orientation(exif, xmp), exif=exif, xmp=xmp, icc=image.info.get("icc_profile"),
        lossless=b"VP8L" in chunks and b"VP8 " not in chunks,
    )  # fmt: skip


_RAW_TAGS = {0xC612: "DNG", 0x828E: "raw", 0xC640: "CR2"}
_SINGLE = (0x100, 0x101, 0x103, 0x106, 0x10A, 0x115, 0x11C, 0x13D, 0x142, 0x143)


def _read_tiff(data: bytes) -> Photo:
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
        raise refusal(_DEEP)
    if tiff.values(0x106) in ((5,), (8,), (9,)):
        raise refusal(_REFUSED_MODES["CMYK" if tiff.values(0x106) == (5,) else "LAB"])
    if 0 in tiff.values(0x152):
        raise refusal("it has an extra channel of unstated meaning")
    # Pillow warns above its own limit and looks at the process-wide setting; a library must not change that.
    limit = min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
    width, height = (max(tiff.values(tag), default=0) for tag in (0x100, 0x101))
    check_size(width, height, limit)
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(parts.tiff_bare(data, tiff)))
    exif = meta.Exif(tiff.order, tiff.tags)

    def block(tag: int) -> bytes | None:
        entry = tiff.tags.get(tag)
        return entry.value if isinstance(entry, meta.Entry) else None

    unit, x, y = tiff.values(0x128) or (2,), _rational(tiff, 0x11A), _rational(tiff, 0x11B)
    scale = {2: 1.0, 3: 2.54}.get(unit[0])
    return make_photo(
        image, "TIFF", turned=meta.orientation(exif), exif=exif, xmp=block(0x02BC), icc=block(0x8773),
        dpi=(x * scale, y * scale) if scale and x and y else None,
        photoshop=meta.clean_photoshop(block(0x8649)), compression=image.info.get("compression"),
    )  # fmt: skip


def _rational(tiff: parts.TiffParts, tag: int) -> float:
    entry = tiff.tags.get(tag)
    if not isinstance(entry, meta.Entry) or entry.kind != 5:
        return 0.0
    top, bottom = struct.unpack_from(f"{tiff.order}II", entry.value)
    return top / bottom if bottom else 0.0


def _read_avif(data: bytes) -> Photo:
    heif = parts.heif_parts(data)
    depths = heif.boxes.get(b"av1C", [])
    if any(len(box) > 2 and box[2] & 0x40 for box in depths):
        raise refusal(_DEEP)
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
        icc=image.info.get("icc_profile"), sampling=sampling,
    )  # fmt: skip


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


def _read_heif(data: bytes) -> Photo:
    if pillow_heif is None:
        raise PhotoError("Reading HEIC photos needs one more package: pip install 'fawkes-engine[heif]'.")
    if parts.heif_parts(data).sequence:
        raise refusal(*ANIMATED)
    file = pillow_heif.HeifFile(io.BytesIO(data), convert_hdr_to_8bit=False)
    if len(file) != 1:
        raise refusal(*(ANIMATED if len(file) else ("it holds no picture", "Get it again from where it came.")))
    picture = file[0]
    info: dict[str, Any] = picture.info
    check_size(*picture.size)
    if info["bit_depth"] != 8 or ";16" in picture.mode:
        raise refusal(_DEEP)
    nclx = info.get("nclx_profile")
    assert picture.data is not None
    image = Image.frombytes(picture.mode, picture.size, picture.data, "raw", picture.mode, picture.stride)
    chroma = info.get("chroma") if info.get("chroma") in (420, 422, 444) else 444
    # The decoder has turned the picture as its boxes say; EXIF and XMP orientation do not count in HEIF.
    return make_photo(
        image, "HEIF", turned=1, exif=meta.parse_exif(info.get("exif")), xmp=info.get("xmp"),
        icc=info.get("icc_profile"), nclx=nclx, sampling=chroma,
    )  # fmt: skip


def _read_jpeg2000(data: bytes) -> Photo:
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        raise ValueError("no codestream")
    width, height, left, top = struct.unpack_from(">IIII", data, at + 8)
    check_size(width - left, height - top)
    (count,) = struct.unpack_from(">H", data, at + 40)
    if any(data[at + 42 + 3 * n] & 0x7F > 7 for n in range(count)):
        raise refusal(_DEEP)
    reversible, position = False, at + 2
    while data[position + 1] != 0x90:
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


def _read_bmp(data: bytes) -> Photo:
    if len(data) >= 138 and data[14] >= 124 and data[70:74] in (b"DEBM", b"KNIL"):
        raise refusal("its colour profile cannot be written into a BMP file again")
    image = BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    return make_photo(image, "BMP", turned=1, exif=None, xmp=None, dpi=image.info.get("dpi"))


def _read_gif(data: bytes) -> Photo:
    width, height = struct.unpack_from("<HH", data, 6)
    check_size(width, height, min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    image = GifImagePlugin.GifImageFile(io.BytesIO(data))
    if image.is_animated:
        raise refusal(*ANIMATED)
    return make_photo(image, "GIF", turned=1, exif=None, xmp=None)


def _read_ppm(data: bytes) -> Photo:
    image = PpmImagePlugin.PpmImageFile(io.BytesIO(data))
    check_size(*image.size)
    arguments = image.tile[0].args  # the largest value, where it is not 255
    if image.mode == "RGB" and isinstance(arguments, tuple) and any(isinstance(a, int) and a > 255 for a in arguments):
        raise refusal(_DEEP)
    return make_photo(image, "PPM", turned=1, exif=None, xmp=None)


READERS: dict[str, Callable[[bytes], Photo]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WEBP": _read_webp,
    "TIFF": _read_tiff,
    "AVIF": _read_avif,
    "HEIF": _read_heif,
    "JPEG2000": _read_jpeg2000,
    "BMP": _read_bmp,
    "GIF": _read_gif,
    "PPM": _read_ppm,
}
