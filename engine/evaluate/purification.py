"""Ways for a tracker to wash cloaks out of all its photos: pure functions on pixels, and files made of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from engine import files
from engine.bulk.prepare import digest
from engine.photo import read

Pixels = UInt8[np.ndarray, "h w 3"]
Purification = Callable[[Pixels], Pixels]

SCREEN = 0.83
"""Photo pixels on a screen's: no simple fraction, so that no pixel of the screenshot is a pixel of the photo."""


def recompressed(pixels: Pixels, *, format: str, quality: int) -> Pixels:
    """Encoded by Pillow and decoded again. format: "JPEG" (chroma halved, as is usual) or "WEBP". quality: 1-100."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format, quality=quality)
    with Image.open(data) as image:
        return np.asarray(image.convert("RGB"))


def resized(pixels: Pixels, scale: float) -> UInt8[np.ndarray, "H W 3"]:
    """Scaled by Lanczos' filter, as browsers and phones do; at least one pixel remains."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def halved(pixels: Pixels) -> Pixels:
    """Half the size and back to the old one."""
    height, width = pixels.shape[:2]
    small = Image.fromarray(resized(pixels, 0.5))
    return np.asarray(small.resize((width, height), Image.Resampling.LANCZOS))


def blurred(pixels: Pixels, *, sigma: float) -> Pixels:
    """Gaussian blur. sigma: in pixels, positive."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def median(pixels: Pixels, *, side: int) -> Pixels:
    """The median of a square of `side` pixels, each channel for itself. side: odd."""
    return cv2.medianBlur(np.ascontiguousarray(pixels), side)


def grey(pixels: Pixels) -> Pixels:
    """Luminance alone (ITU-R BT.601), in all three channels."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def screenshot(pixels: Pixels) -> UInt8[np.ndarray, "H W 3"]:
    """The photo as a screen shows it, at another size, saved as WebP at quality 85 by the app it is sent with."""
    return recompressed(resized(pixels, SCREEN), format="WEBP", quality=85)


PURIFICATIONS: Mapping[str, Purification] = MappingProxyType(
    {
        "JPEG 90": partial(recompressed, format="JPEG", quality=90),
        "JPEG 75": partial(recompressed, format="JPEG", quality=75),
        "JPEG 50": partial(recompressed, format="JPEG", quality=50),
        "half size and back": halved,
        "blur, sigma 1": partial(blurred, sigma=1.0),
        "blur, sigma 2": partial(blurred, sigma=2.0),
        "median of 3 x 3": partial(median, side=3),
        "grey": grey,
        "screenshot": screenshot,
    }
)
"""Purifications by the name that tables have. All keep the photo's size but "screenshot"."""


def purified(
    photos: Sequence[Path],
    name: str,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, all: None,
) -> dict[Path, Path]:
    """Each photo's purified copy, `folder`/NAME/<content hash>.png; those that are there are not made again.

    PNG, so that nothing but the purification acts. name: of PURIFICATIONS. Raises PhotoError for a photo that cannot be
    decoded and ValueError for a name that is not known.
    """
    if name not in PURIFICATIONS:
        raise ValueError(f"no purification named {name!r}; there are {', '.join(PURIFICATIONS)}")
    place = folder / name.replace(" ", "-").replace(",", "")
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    copies: dict[Path, Path] = {}
    for done, photo in enumerate(dict.fromkeys(photos), 1):
        copy = place / f"{digest(photo)[:32]}.png"
        if not copy.exists():
            data = io.BytesIO()
            Image.fromarray(PURIFICATIONS[name](read(photo).pixels)).save(data, "PNG")
            files.write(copy, data.getvalue())
        copies[photo] = copy
        progress(done, len(photos))
    return copies
