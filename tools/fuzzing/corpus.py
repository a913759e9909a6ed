"""Files to start from: made of the bundled photos in every format, and those of ../shared if it is there."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from PIL import Image, ImageCms

from fuzzing import blocks

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SHARED = REPOSITORY.parent / "shared"
_SIZE = (80, 64)


@cache
def photos(largest: int, shared: bool = True) -> tuple[tuple[str, bytes], ...]:
    """(name, bytes) of every file of at most `largest` bytes, in an order that depends on nothing else."""
    files = dict(_made())
    for folder in (SHARED / "wild", SHARED / "cases") if shared else ():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".csv" and path.stat().st_size <= largest:
                files[path.relative_to(SHARED).as_posix()] = path.read_bytes()
    return tuple(files.items())


@cache
def picture() -> Image.Image:
    """A small upright RGB picture of a person."""
    with Image.open(REPOSITORY / "tests" / "photos" / "obama.jpg") as image:
        return image.convert("RGB").resize(_SIZE)


@cache
def seeds() -> dict[str, bytes]:
    """One plain file of each format, by name."""
    return {name.partition(" ")[0]: data for name, data in reversed(_made().items())}


@cache
def _made() -> dict[str, bytes]:
    image, files = picture(), {}
    grey, clear = image.convert("L"), image.convert("RGBA")
    clear.putalpha(128)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = Image.Exif()
    tags[0x10F], tags[0x112], tags[0x131] = "Maker", 6, "Software 1.0"
    tags.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    tags.get_ifd(0x8769)[0x927C] = b"Maker note" * 20
    tags.get_ifd(0x8825)[1] = "N"
    exif = tags.tobytes()
    packet = next(block for place, block in blocks.xmp(b"a title") if place == "xmp element")
    everything = {"exif": exif, "icc_profile": profile, "xmp": packet}

    def add(name: str, source: Image.Image, format: str, **options) -> None:
        buffer = io.BytesIO()
        source.save(buffer, format, **options)
        files[name] = buffer.getvalue()

    add("jpeg", image, "JPEG", quality=88)
    add("jpeg progressive", image, "JPEG", quality=80, progressive=True, subsampling=0, **everything, comment=b"words")
    add("jpeg grey", grey, "JPEG", restart_marker_blocks=4)
    add("png", image, "PNG")
    add("png with all", clear, "PNG", exif=exif, icc_profile=profile, dpi=(300, 300))
    add("png palette", image.quantize(32), "PNG")
    add("webp", image, "WEBP", quality=85)
    add("webp lossless", clear, "WEBP", lossless=True, **everything)
    add("tiff", image, "TIFF")
    add("tiff with all", image, "TIFF", exif=exif, icc_profile=profile)
    add("tiff packed", image, "TIFF", compression="tiff_adobe_deflate")
    add("tiff lzw", grey, "TIFF", compression="tiff_lzw")
    add("avif", image, "AVIF", quality=70, speed=9)
    add("avif with all", clear, "AVIF", quality=70, speed=9, **everything)
    add("jp2", image, "JPEG2000")
    add("j2k", grey, "JPEG2000", no_jp2=True)
    add("bmp", image, "BMP")
    add("ppm", image, "PPM")
    add("gif", image.quantize(32), "GIF")
    try:
        import pillow_heif
    except ImportError:
        return files
    pillow_heif.register_heif_opener()
    add("heif", image, "HEIF", quality=60)
    add("heif with all", clear, "HEIF", quality=60, **everything)
    return files
