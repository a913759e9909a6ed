"""From pixels to the bytes of each kind of file: one writer a format, for `formats.KINDS`.

A writer takes an image whose mode the format can hold, the photo's `encoding` and a quality or None. It is
deterministic, and writes no metadata but what `engine.photo.metadata` has cleaned. If Pillow would alter a block, it is
asked for the pixels alone, and the block is put in here. `held` says what of the metadata a format has no place for.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from engine.photo import containers as parts
from engine.photo import metadata as meta
from engine.photo.xmp import shortened
from engine.types import PhotoError

try:  # the extra `heif`
    import pillow_heif
except ImportError:
    pillow_heif = None

# What every format is offered of another's encoding; the rest is a format's own.
SHARED = ("exif", "xmp", "icc", "dpi", "photoshop", "comments")
FINEST = 3
"""How many steps of finer quality than a photo's own there are; 4:4:4 is the first of them."""
_SEGMENT = 65000  # one JPEG segment holds all of a block


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def held(encoding: dict[str, Any], source: str, target: str) -> tuple[dict[str, Any], list[str]]:
    """Parts of a photo's encoding that a file of format `target` gets, and what it cannot hold, a few words each."""
    offered = dict(encoding) if target == source else {key: encoding.get(key) for key in SHARED}
    omitted: list[str] = []
    if target not in ("JPEG", "TIFF") and offered.pop("photoshop", None):
        omitted.append(f"captions, keywords and credits in IPTC, which {target} files do not hold")
    if target != "JPEG" and offered.pop("comments", None):
        omitted.append(f"the comment, which {target} files do not hold")
    if target != source and (chunks := encoding.get("chunks")):
        names = sorted({kind.decode("latin-1") for kind, _ in chunks})
        omitted.append(f"the PNG chunks {', '.join(names)}, which {target} files do not hold")
    if target == "WEBP" != source and offered.get("dpi"):
        omitted.append("the resolution, which WEBP files do not hold")
    if target == "JPEG":
        if offered.get("exif") and len(meta.write_exif(offered["exif"])) > _SEGMENT:
            omitted.append("the largest EXIF values, for which JPEG files have no room")
        if (packet := offered.get("xmp")) and len(packet) > _SEGMENT:
            offered["xmp"], lost = shortened(packet, _SEGMENT)
            omitted += lost
    return offered, omitted


def _exif_bytes(encoding: dict[str, Any], limit: int | None = None) -> bytes:
    return meta.write_exif(encoding["exif"], limit=limit) if encoding.get("exif") else b""


@cache
def _standard(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """libjpeg's quantisation steps of luminance and chrominance at a quality."""
    sample = _save(Image.new("RGB", (8, 8)), "JPEG", quality=quality)
    tables = JpegImagePlugin.JpegImageFile(io.BytesIO(sample)).quantization
    return np.array(tables[0]), np.array(tables[1])


def _luminance(table: np.ndarray) -> np.ndarray:
    """The source's quantisation steps, none coarser than those of quality 95.

    A cloak is grey and faint, and coarse steps erase what DSSIM has charged for. At equal DSSIM a file of quality 75
    holds 8 % less of the cloak, one of 90 holds 3 % less. Files become 1.2 (quality 95) to 2.0 times (75) as large
    (`python benchmarks/jpeg.py`).
    """
    return np.minimum(table, _standard(95)[0])


def _chrominance(table: np.ndarray) -> np.ndarray:
    """Steps that divide the source's, entry by entry, none coarser than those of quality 75; 1 to 255.

    Chrominance has been spread over pixels by the decoder and is gathered again here. Only steps that divide the
    source's give back its coefficients; any others change every pixel, which spends a tenth of the DSSIM budget.
    """
    steps = np.arange(1, 256)
    fits = (table[:, None] % steps == 0) & (steps <= np.minimum(table, _standard(75)[1])[:, None])
    return 256 - np.argmax(fits[:, ::-1], axis=1) - 1


def write_jpeg(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A JPEG file at its own quantisation steps or finer, or at a quality."""
    finer = encoding.get("finer", 0)
    options: dict[str, Any] = {
        "progressive": encoding.get("progressive", False),
        "keep_rgb": encoding.get("keep_rgb", False),
        # Pillow writes 4:4:4, 4:2:2 and 4:2:0; whatever else a source had becomes the finest.
        "subsampling": 0 if finer else max(encoding.get("sampling", 0), 0),
        "quality": quality or (95, 97, 99, 100)[finer],
    }
    if quality is None and (tables := encoding.get("tables")):
        kinds = [_luminance if n == 0 or options["keep_rgb"] else _chrominance for n in range(len(tables))]
        fine = [steps(np.asarray(table)).reshape(8, 8) for table, steps in zip(tables, kinds, strict=True)]
        if finer > 1:
            fine = [np.maximum(table // 2, 1) if finer == 2 else np.ones_like(table) for table in fine]
        fine = [(table.T if encoding.get("transposed") else table).ravel().tolist() for table in fine]
        options |= {"quality": -1, "qtables": fine[:2] if len(fine) == 3 and fine[1] == fine[2] else fine}
    data = _save(image, "JPEG", **options)
    start = 2
    if data[2:4] == b"\xff\xe0":
        start = 4 + int.from_bytes(data[4:6], "big")
        dpi = encoding.get("dpi")
        density = encoding.get("density") or ((1, *(min(65535, round(v)) for v in dpi)) if dpi else (0, 1, 1))
        data = data[:13] + struct.pack(">BHH", *density) + data[18:]
    segments: list[tuple[int, bytes]] = []
    if exif := _exif_bytes(encoding, _SEGMENT):
        segments.append((0xE1, b"Exif\0\0" + exif))
    if xmp := encoding.get("xmp"):
        segments.append((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp))
    icc = encoding.get("icc") or b""
    pieces = [icc[i : i + _SEGMENT] for i in range(0, len(icc), _SEGMENT)]
    segments += [(0xE2, b"ICC_PROFILE\0" + bytes([n + 1, len(pieces)]) + piece) for n, piece in enumerate(pieces)]
    if block := encoding.get("photoshop"):
        segments.append((0xED, b"Photoshop 3.0\0" + block))
    segments += [(0xFE, comment) for comment in encoding.get("comments") or ()]
    return b"".join((data[:start], *(parts.jpeg_segment(*segment) for segment in segments), data[start:]))


def write_png(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A PNG file with its chunks where they were."""
    data = _save(image, "PNG")
    chunks: list[tuple[bytes, bytes]] = []
    if icc := encoding.get("icc"):
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    chunks += [item for item in encoding.get("chunks", []) if not (icc and item[0] == b"sRGB")]
    density = encoding.get("density")
    if not density and (dpi := encoding.get("dpi")):
        density = (*(min(1 << 31, round(v / 0.0254)) for v in dpi), 1)
    if density:
        chunks.append((b"pHYs", struct.pack(">IIB", *density)))
    if exif := _exif_bytes(encoding):
        chunks.append((b"eXIf", exif))
    if xmp := encoding.get("xmp"):
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    header = len(parts.PNG_MAGIC) + 25
    return b"".join((data[:header], *(parts.png_chunk(*chunk) for chunk in chunks), data[header:]))


def _blocks(encoding: dict[str, Any]) -> dict[str, bytes]:
    blocks = {"exif": _exif_bytes(encoding), "icc_profile": encoding.get("icc"), "xmp": encoding.get("xmp")}
    return {name: block for name, block in blocks.items() if block}


def write_webp(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A WebP file, lossless if it was."""
    finer = encoding.get("finer", 0)
    lossless = (bool(encoding.get("lossless")) and quality is None) or finer > 1
    return _save(
        image, "WEBP", lossless=lossless, quality=quality or (75 if lossless else (95, 100)[finer]), exact=True,
        **_blocks(encoding),
    )  # fmt: skip


def write_avif(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """An AVIF file."""
    # Pillow would parse and rewrite a block that speaks of orientation; 1 is the default.
    if exif := encoding.get("exif"):
        tags = {tag: value for tag, value in exif.tags.items() if tag != meta.ORIENTATION}
        encoding["exif"] = exif._replace(tags=tags)
    finer = encoding.get("finer", 0)
    sampling = "4:0:0" if image.mode == "L" else "4:4:4" if finer else encoding.get("sampling", "4:4:4")
    # One thread: the caller has a worker for every core, and the result must not depend on their number.
    return _save(
        image,
        "AVIF",
        quality=quality or (90, 93, 97, 100)[finer],
        subsampling=sampling,
        max_threads=1,
        **_blocks(encoding),
    )


def write_heif(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A HEIF file; needs the extra `heif`."""
    if pillow_heif is None:
        raise PhotoError("Writing HEIC photos needs one more package: pip install 'fawkes-engine[heif]'.")
    buffer = io.BytesIO()
    options: dict[str, Any] = {**_blocks(encoding), "quality": quality or (85, 90, 95, 100)[encoding.get("finer", 0)]}
    options["chroma"] = 444 if encoding.get("finer") else encoding.get("sampling", 444)
    if encoding.get("nclx"):
        options["nclx_profile"] = encoding["nclx"]
    pillow_heif.encode(image.mode, image.size, image.tobytes(), buffer, **options)
    return buffer.getvalue()


_LOSSLESS_TIFF = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"}


def write_tiff(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A TIFF file without loss."""
    compression = encoding.get("compression") or "raw"
    # JPEG inside TIFF loses more with every writing, and is written by few: deflate holds the same pixels exactly.
    if compression not in _LOSSLESS_TIFF:
        compression = "tiff_adobe_deflate"
    predictor = {} if compression in ("raw", "packbits") else {"tiffinfo": {TiffImagePlugin.PREDICTOR: 2}}
    data = _save(image, "TIFF", compression=compression, **predictor)
    tags = dict(parts.tiff_parts(data).tags)
    if exif := encoding.get("exif"):
        tags |= {
            tag: entry for tag, entry in meta.to_order(exif.tags, exif.order, "<").items() if tag not in meta.STRUCTURE
        }
    for tag, kind, block in (
        (0x8773, 7, encoding.get("icc")),
        (0x02BC, 1, encoding.get("xmp")),
        (0x8649, 7, encoding.get("photoshop")),
    ):
        if block:
            tags[tag] = meta.Entry(kind, len(block), block)
    return parts.tiff_with(data, tags)


def write_jpeg2000(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A JPEG 2000 file, boxed or a bare code stream."""
    options: dict[str, Any] = {"no_jp2": not encoding.get("wrapped", True), "mct": int(image.mode.startswith("RGB"))}
    if not encoding.get("reversible") and encoding.get("finer", 0) < 2:
        options |= {"irreversible": True, "quality_mode": "dB", "quality_layers": [(50, 60)[encoding.get("finer", 0)]]}
    data = _save(image, "JPEG2000", **options)
    if not encoding.get("wrapped", True):
        return data
    exif, xmp = _exif_bytes(encoding), encoding.get("xmp")
    extra = [parts.box(b"uuid", parts.JP2_EXIF + exif)] if exif else []
    extra += [parts.box(b"uuid", parts.JP2_XMP + xmp)] if xmp else []
    return b"".join((data, *extra))


def write_bmp(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A BMP file."""
    return _save(image, "BMP", **({"dpi": encoding["dpi"]} if encoding.get("dpi") else {}))


def write_ppm(image: Image.Image, encoding: dict[str, Any], quality: int | None) -> bytes:
    """A PPM file, or PGM for grey."""
    return _save(image, "PPM")
