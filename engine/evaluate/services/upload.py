"""A photo file as a service takes it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engine.photo import read

ORIENTATION = 0x0112
QUALITY = 95
"""Quality of the JPEG that stands for a photo which no lossless file of the allowed size can hold."""


@dataclass(frozen=True)
class Limits:
    """The limits of a service: largest file in bytes, longest side in pixels."""

    size: int
    side: int


def upload(path: Path, limits: Limits) -> bytes:
    """The file itself, byte for byte and with its metadata, if it is an upright JPEG or PNG within the limits.

    Any other photo is sent upright and without metadata, scaled down to the allowed side. It is sent as PNG, or if that
    is too large, as JPEG of quality 95, halved until it fits. Raises `engine.types.PhotoError` for what is no photo.
    """
    data = path.read_bytes()
    if len(data) <= limits.size and _plain(data, limits):
        return data
    image = Image.fromarray(read(path).pixels)
    image.thumbnail((limits.side, limits.side), Image.Resampling.LANCZOS)
    data = _encoded(image, "PNG")
    while len(data) > limits.size:
        data = _encoded(image, "JPEG", quality=QUALITY)
        image = image.reduce(2)
    return data


def _plain(data: bytes, limits: Limits) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return (
                image.format in ("JPEG", "PNG")
                and max(image.size) <= limits.side
                and image.getexif().get(ORIENTATION, 1) == 1
            )
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return False  # `engine.photo.read` says what is wrong, or reads it after all


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
