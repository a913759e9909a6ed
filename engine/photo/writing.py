"""From a `Photo` and changed pixels to a file: as what format, and what that format cannot hold."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from engine.photo.encoding import FINEST, held
from engine.photo.formats import KINDS, OPTIONS, STEAD, Kind, Writer
from engine.photo.making import sentence
from engine.types import Photo, PhotoError


def target(photo: Photo, format: str) -> Kind:
    """The kind of file that a photo is written as. format: keep | png | jpeg | webp.

    A kind without a writer becomes `STEAD`, if it is to be kept. Raises ValueError for another format, and for a photo
    made by hand whose own format is unknown.
    """
    if photo.format not in KINDS:
        raise ValueError(f"a photo's format must be one of {', '.join(sorted(KINDS))}; it is {photo.format!r}")
    if format == "keep":
        kind = KINDS[photo.format]
        return STEAD if kind.write is None else kind
    if format not in OPTIONS:
        raise ValueError(f"format must be keep, png, jpeg or webp, it is {format!r}")
    return OPTIONS[format]


def suffix(photo: Photo, format: str) -> str:
    """The extension that a changed format needs (".png"), "" if the file's own name fits."""
    kind = target(photo, format)
    return "" if kind.name == photo.format else kind.suffixes[0]


def notes(photo: Photo, format: str = "keep") -> tuple[str, ...]:
    """Omissions from a file of this photo in that format, one sentence each; () if nothing was left out."""
    kind = target(photo, format)
    _, omitted = held(photo.encoding, photo.format, kind.name)
    changed = format == "keep" and kind.name != photo.format
    instead = (f"Written as {kind.name}, since a {photo.format} cannot hold a cloak.",) * changed
    return photo.notes + instead + sentence(omitted)


def writer(photo: Photo, format: str) -> Writer:
    """The writer of a photo's file. format: as in `target`.

    It costs next to nothing, so ask for it before a cloak is made. Raises PhotoError if files of that kind cannot hold
    the photo, and ValueError as `target` does.
    """
    kind = target(photo, format)
    assert kind.write is not None, kind.name
    if photo.alpha is not None and not kind.alpha and photo.alpha.min() < 255:
        raise PhotoError(
            f"The photo is partly transparent, which {kind.name} files cannot hold: choose format png or webp."
        )
    if kind.longest is not None and max(photo.size) > kind.longest:
        raise PhotoError(f"A {kind.name} file can be at most {kind.longest} pixels wide and high: choose format png.")
    return kind.write


def encode(
    photo: Photo,
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    format: str = "keep",
    quality: int | None = None,
    finer: int = 0,
) -> bytes:
    """The bytes of a file with these upright pixels and all else as in `photo`; the same bytes for the same input.

    pixels: uint8 RGB of the photo's size; of a grey photo all three channels must be equal. format: keep | png | jpeg |
    webp. quality: 1 to 100 for the lossy formats. None keeps a JPEG at its own quantisation steps, or whole fractions
    of those that are coarser than quality 75's. So a coarse file does not erase the cloak, and writing does not damage
    what the cloak left alone. It keeps lossless WebP lossless, and is a high quality elsewhere. finer: 0 to FINEST, how
    far to raise a quality of None above that. Raises PhotoError if the format cannot hold the photo, and ValueError for
    arguments that do not fit together.
    """
    kind = target(photo, format)
    if pixels.dtype != np.uint8 or pixels.shape != photo.pixels.shape:
        raise ValueError(f"pixels must be uint8 {photo.pixels.shape}, they are {pixels.dtype} {pixels.shape}")
    if quality is not None and quality not in range(1, 101):
        raise ValueError(f"quality must be a whole number from 1 to 100, it is {quality}")
    if finer not in range(FINEST + 1):
        raise ValueError(f"finer must be a whole number from 0 to {FINEST}, it is {finer}")
    write = writer(photo, format)
    if photo.grey and not (
        np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    ):
        raise ValueError("the three channels of a grey photo must be equal")
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if photo.grey else pixels)
    if photo.alpha is not None and kind.alpha:
        image.putalpha(Image.fromarray(photo.alpha))
    encoding, _ = held(photo.encoding, photo.format, kind.name)
    try:
        return write(image, {**encoding, "finer": finer if quality is None else 0}, quality)
    except (OSError, RuntimeError, ValueError, struct.error) as error:
        raise PhotoError(f"The photo cannot be written as {kind.name} ({error}): choose format png.") from error


_PIXEL_KEYS = ("tables", "transposed", "sampling", "keep_rgb", "lossless", "reversible", "wrapped", "nclx")


@dataclass(frozen=True)
class Encoder:
    """`encode` for one photo and one setting: called with pixels it gives the bytes of the file.

    It can also tell what the codec makes of a part of the photo, at a fraction of the cost, and be made `finer`.
    """

    photo: Photo
    format: str = "keep"
    quality: int | None = None
    finer: int = 0

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
        """The bytes of the file; errors as in `encode`."""
        return encode(self.photo, pixels, format=self.format, quality=self.quality, finer=self.finer)

    @property
    def notes(self) -> tuple[str, ...]:
        """Differences of the file from the original, one sentence each."""
        raised = (
            "Written at a higher quality than its own, because its own changes the face nearly as much as a cloak.",
        )
        return notes(self.photo, self.format) + raised * (self.finer > 0)

    @property
    def exact(self) -> bool:
        """True if what is decoded is what was encoded, pixel for pixel."""
        kind, encoding = target(self.photo, self.format), self.photo.encoding
        if kind.name == "WEBP":
            same = kind.name == self.photo.format and self.quality is None
            return same and (bool(encoding.get("lossless")) or self.finer > 1)
        return kind.exact

    def raised(self) -> Encoder | None:
        """The same with a finer quality, or None if that is at its end or was asked for."""
        if self.exact or self.quality is not None or self.finer >= FINEST:
            return None
        return replace(self, finer=self.finer + 1)

    def part(self, pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """View that a viewer will have of these pixels of a part of the photo, whose corner lies on a multiple of 16.

        Within 16 pixels of an edge inside the photo, and with codecs whose blocks depend on each other, it is near.
        """
        if self.exact:
            return pixels
        encoding = {key: value for key in _PIXEL_KEYS if (value := self.photo.encoding.get(key)) is not None}
        part = replace(self.photo, pixels=pixels, alpha=None, encoding=encoding)
        data = encode(part, pixels, format=self.format, quality=self.quality, finer=self.finer)
        return target(part, self.format).read(data).pixels
