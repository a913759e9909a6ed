"""From a decoded picture to a `Photo`: its size is checked, it is turned upright, and its metadata is cleaned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from engine.photo import metadata as meta
from engine.photo.exif import clean_exif
from engine.photo.icc import clean_icc
from engine.photo.prose import Allowance
from engine.photo.xmp import clean_xmp
from engine.types import Photo, PhotoError

# The largest phone sensors have 200 million pixels and WebP ends at 268. Decoding takes 7 bytes a pixel: 1.9 GB here.
MAX_PIXELS = 1 << 28

MAX_NAMED = 12

ADVICE = "Save it as an 8-bit RGB PNG or JPEG first."
REFUSED_MODES = {
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
DEEP = "it has more than 8 bits per channel, and writing it with 8 would coarsen it"


def sentence(omitted: Sequence[str]) -> tuple[str, ...]:
    """Omissions from a file, as one sentence for the photo's row; () if there are none."""
    names = list(dict.fromkeys("".join(c if c.isprintable() else "?" for c in name) for name in omitted))
    if len(names) > MAX_NAMED:
        names[MAX_NAMED:] = [f"and {len(names) - MAX_NAMED} more"]
    return (f"Left out of the file: {'; '.join(names)}.",) if names else ()


def make_photo(
    image: Image.Image,
    format: str,
    *,
    turned: int,
    exif: meta.Exif | None = None,
    xmp: bytes | None = None,
    icc: bytes | None = None,
    omitted: Sequence[str] = (),
    allowance: Allowance | None = None,
    **details: Any,
) -> Photo:
    """Decode, turn upright, split off alpha and clean the metadata.

    omitted: what the reader left out already. allowance: what it did not spend; a whole one by default.
    """
    check_size(*image.size)
    if image.mode in REFUSED_MODES:
        raise refusal(REFUSED_MODES[image.mode])
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
    dpi = details.pop("dpi", None)
    block = clean_exif(exif, pixels.shape[:2], turned, allowance or Allowance())
    packet, profile = clean_xmp(xmp, turned), clean_icc(icc)
    if icc and profile != icc:
        omitted = [
            *omitted,
            "parts of the colour profile" if profile else f"a broken colour profile ({len(icc):,} bytes)",
        ]
    encoding = {
        "exif": block.exif,
        "xmp": packet.packet,
        "icc": profile,
        "dpi": (dpi[::-1] if turned >= 5 else dpi) if dpi else None,
        **details,
    }
    present = {k: v for k, v in encoding.items() if v is not None}
    return Photo(pixels, format, grey, alpha, present, sentence([*omitted, *block.omitted, *packet.omitted]))


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
