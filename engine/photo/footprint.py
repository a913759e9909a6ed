"""How much memory a photo will take, from its header alone."""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path

from engine.files import opened
from engine.photo import containers as parts
from engine.photo.making import MAX_PIXELS

PER_PIXEL = 16
"""Bytes a pixel, measured: a photo is decoded, searched for faces, cloaked, encoded and decoded again."""
BASE = 16 << 20
"""Bytes besides: the cloak of a large face. What a detector and the codecs take is a worker's, not a photo's."""


def footprint(source: Path | bytes) -> int:
    """Bytes of memory that cloaking the photo in this file, or of these bytes, will take at most, all in all.

    Reads the header only and never raises: a file that is no photo, or whose header cannot be read, needs what its own
    bytes do. A photo of more pixels than `MAX_PIXELS` is refused before it takes anything.
    """
    if isinstance(source, bytes):
        size, pixels = len(source), _pixels(source)
    else:
        try:
            with opened(source) as file:
                size = os.fstat(file.fileno()).st_size
                if not size:
                    return 0
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    pixels = _pixels(data)
        except OSError:
            return 0
    # The bytes are held twice: as they are, and as the bare picture that the decoder gets.
    return 2 * size + of_pixels(pixels)


def of_pixels(pixels: int) -> int:
    """Bytes of memory that a picture of so many pixels takes besides its file: none if it will be refused."""
    return BASE + PER_PIXEL * pixels if 0 < pixels <= MAX_PIXELS else 0


def _pixels(data: mmap.mmap | bytes) -> int:
    """Width times height, 0 if the header does not say."""
    try:
        width, height = _size(data)
    except Exception:  # whatever a damaged header raises: reading says what is wrong with it
        return 0
    return width * height


def _size(data: mmap.mmap | bytes) -> tuple[int, int]:
    head = data[:64]
    if head.startswith(b"\xff\xd8"):
        height, width = struct.unpack_from(">HH", parts.jpeg_parts(data).frame, 1)
    elif head.startswith(parts.PNG_MAGIC):
        width, height = struct.unpack_from(">II", head, 16)
    elif head[:2] in (b"II", b"MM"):
        tiff = parts.tiff_parts(data)
        width, height = max(tiff.values(0x100)), max(tiff.values(0x101))
    elif head[:4] == b"RIFF":
        width, height = _webp(head)
    elif head[4:8] == b"ftyp":
        sizes = [struct.unpack_from(">II", box, 4) for box in parts.heif_parts(data).boxes[b"ispe"]]
        width, height = max(sizes, key=lambda size: size[0] * size[1])
    elif head.startswith(b"BM"):
        width, height = (abs(side) for side in struct.unpack_from("<ii", head, 18))
    elif head.startswith(b"GIF8"):
        width, height = struct.unpack_from("<HH", head, 6)
    elif match := re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)", data[:4096]):
        width, height = int(match[1]), int(match[2])
    else:
        at = data.find(b"\xff\x4f\xff\x51")
        right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8) if at >= 0 else (0, 0, 0, 0)
        width, height = right - left, bottom - top
    return width, height


def _webp(head: bytes) -> tuple[int, int]:
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF
