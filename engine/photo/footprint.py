"""How much memory a photo will take, from its header alone."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from engine.files import opened
from engine.photo import formats
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
        except (OSError, ValueError):  # a path with a NUL, for one: reading says what is wrong with it
            return 0
    # The bytes are held twice: as they are, and as the bare picture that the decoder gets.
    return 2 * size + of_pixels(pixels)


def of_pixels(pixels: int) -> int:
    """Bytes of memory that a picture of so many pixels takes besides its file: none if it will be refused."""
    return BASE + PER_PIXEL * pixels if 0 < pixels <= MAX_PIXELS else 0


def _pixels(data: mmap.mmap | bytes) -> int:
    """Width times height, 0 if the header does not say."""
    kind = formats.of(data)
    if kind is None:
        return 0
    try:
        width, height = kind.size(data)
    except Exception:  # whatever a damaged header raises: reading says what is wrong with it
        return 0
    return width * height
