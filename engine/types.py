"""The values that pass between the stages: photos, faces, and the errors a bad photo raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8


class PhotoError(Exception):
    """A photo that cannot be cloaked, with a reason fit to show to the person who owns it.

    Raised by `engine.photo` for files that are broken or too large. Raised too for a kind whose pixels cannot be
    written back without loss (16 bit, CMYK, animations). The bulk runner turns it into a manifest row.
    """


class UnsettledError(PhotoError):
    """A photo that cannot be read as it was found a moment ago: it changed, went away, or its disk failed.

    It says nothing about the photo, which another call may well read.
    """


class DeviceError(ValueError):
    """A platform of JAX's that was asked for and is not there. The message names it and says what to do."""


class Face(NamedTuple):
    """One detected face, in pixels of the upright photo.

    box: (x, y, width, height), may reach past the border. landmarks: (5, 2) as x, y, of the photo's left eye, right
    eye, nose tip, left and right mouth corner. score: the detector's confidence in [0, 1].
    """

    box: Float32[np.ndarray, 4]
    landmarks: Float32[np.ndarray, "5 2"]
    score: float


@dataclass(frozen=True)
class Photo:
    """A decoded photo and everything that must survive writing it again.

    pixels: upright RGB. They are kept as uint8 (not the float of the design), because a photo of 24 megapixels would
    take 288 MB as float32. Only the faces are ever computed on; `engine.faces` converts those to [0, 1].
    grey: the file holds one channel of luminance; a cloak for it must be achromatic.
    alpha: uint8 (h, w) or None. format: Pillow's name of the container ("JPEG"). encoding: what the writer needs to
    write the same kind of file again (EXIF, ICC profile, quantisation tables, ...).
    notes: what of the file was left out on reading it, one sentence or none; `engine.photo.notes` adds what the format
    of the output cannot hold.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    format: str
    grey: bool = False
    alpha: UInt8[np.ndarray, "h w"] | None = None
    encoding: dict[str, object] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]
