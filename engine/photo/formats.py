"""The formats that photos come in: one record each, `KINDS`."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from engine.photo import boxed, decoding, encoding, headers
from engine.types import Photo

Buffer = bytes | mmap.mmap
Writer = Callable[[Image.Image, dict[str, Any], int | None], bytes]


@dataclass(frozen=True)
class Kind:
    """One format of files.

    name: as in `Photo.format`, Pillow's. suffixes: in lower case; its files have one of them, new ones the first.
    start: pattern of the first bytes. brands: for an ISO base media file, one of these is among its own. read: bytes to
    Photo. write: image, `Photo.encoding` and quality to bytes; None if such files cannot hold the fine shades of a
    cloak. Then `STEAD` is written. size: width and height in pixels as the header has them; raises anything for a
    damaged one. option: its name in `config.Format`, if photos of other formats can be written as it. alpha: whether it
    holds transparency. longest: largest width and height in pixels, None for no limit. exact: whether what is read is
    always what was written, pixel for pixel. sure: whether `start` tells a photo whatever the file is called.
    """

    name: str
    suffixes: tuple[str, ...]
    start: bytes
    read: Callable[[bytes], Photo]
    write: Writer | None
    size: Callable[[Buffer], tuple[int, int]]
    option: str | None = None
    brands: tuple[bytes, ...] = ()
    alpha: bool = True
    longest: int | None = None
    exact: bool = False
    sure: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), rb"\xff\xd8\xff",
            decoding.read_jpeg, encoding.write_jpeg, headers.jpeg,
            option="jpeg", alpha=False, longest=65535, sure=True,
        ),
        Kind(
            "PNG", (".png",), rb"\x89PNG\r\n\x1a\n", decoding.read_png, encoding.write_png, headers.png,
            option="png", exact=True, sure=True,
        ),
        Kind(
            "WEBP", (".webp",), rb"RIFF....WEBP", decoding.read_webp, encoding.write_webp, headers.webp,
            option="webp", longest=16383, sure=True,
        ),
        Kind(
            "TIFF", (".tif", ".tiff"), rb"II[*+]\0|MM\0[*+]", decoding.read_tiff, encoding.write_tiff, headers.tiff,
            exact=True,
        ),
        Kind(
            "AVIF", (".avif",), rb"....ftyp", boxed.read_avif, encoding.write_avif, headers.boxes,
            brands=(b"avif", b"avis"), longest=65536,
        ),
        Kind(
            "HEIF", (".heic", ".heif", ".hif"), rb"....ftyp", boxed.read_heif, encoding.write_heif, headers.boxes,
            brands=(b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx"), longest=16384,
        ),
        Kind(
            "JPEG2000", (".jp2", ".j2k", ".jpf", ".jpx"),
            rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
            boxed.read_jpeg2000, encoding.write_jpeg2000, headers.jpeg2000, sure=True,
        ),
        Kind(
            "BMP", (".bmp", ".dib"), rb"BM", decoding.read_bmp, encoding.write_bmp, headers.bmp,
            alpha=False, exact=True,
        ),
        Kind("GIF", (".gif",), rb"GIF8[79]a", decoding.read_gif, None, headers.gif, sure=True),
        Kind(
            "PPM", (".ppm", ".pgm", ".pnm"), rb"P[1-6][ \t\r\n#]", decoding.read_ppm, encoding.write_ppm, headers.ppm,
            alpha=False, exact=True,
        ),
    )
}  # fmt: skip
"""All formats by name; a file is of the first whose `start` and brands fit. Raws, PSD, TGA, ICO and films are none."""

SUFFIXES = frozenset(suffix for kind in KINDS.values() for suffix in kind.suffixes)
"""Suffixes of photos; walking a folder passes by all else."""

OPTIONS: dict[str, Kind] = {kind.option: kind for kind in KINDS.values() if kind.option}
"""The formats that photos of others can be written as, by their names in `config.Format`."""

STEAD = KINDS["PNG"]
"""The format of photos whose own has no writer."""

_STARTS = {kind.name: re.compile(kind.start, re.DOTALL) for kind in KINDS.values()}


def of(data: Buffer) -> Kind | None:
    """The format of a file from its first bytes, which may be all that there are; its name is not trusted."""
    fitting = (KINDS[name] for name, start in _STARTS.items() if start.match(data))
    brands = data[8:12] + data[16 : min(int.from_bytes(data[:4], "big"), 272)]
    return next((kind for kind in fitting if not kind.brands or any(brand in brands for brand in kind.brands)), None)
