"""Outcome of a photo, and what callers from Python get of it, pixels or a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from jaxtyping import UInt8

from engine.types import Photo

Status = Literal["cloaked", "no_face", "skipped", "failed"]


@dataclass(frozen=True)
class CloakedFace:
    """One face. box: (x, y, width, height) in pixels. dssim: of the face region in the result, at most rho.

    shift: L2 distance (0 to 2) that the cloak moves the embedding, by extractor, measured on the canvas.
    scale: by how much the cloak was scaled to meet the budget at the photo's own size.
    """

    box: tuple[float, float, float, float]
    dssim: float
    shift: dict[str, float]
    scale: float


@dataclass(frozen=True)
class Outcome:
    """Outcome of a photo that could be read. reason, faces, notes: as in `Encoded`.

    data: its cloaked file. pixels: what a viewer sees of that. Both are None unless the status is "cloaked".
    """

    photo: Photo
    status: Status
    reason: str
    faces: tuple[CloakedFace, ...] = ()
    notes: tuple[str, ...] = ()
    data: bytes | None = None
    pixels: UInt8[np.ndarray, "h w 3"] | None = None


@dataclass(frozen=True)
class Cloaked:
    """Outcome of one image. image: RGB uint8 (h, w, 3), upright; None unless the status is "cloaked".

    reason: why it is not cloaked, or which of its faces are not. notes: what else is to be known, one sentence each.
    """

    status: Status
    reason: str
    image: UInt8[np.ndarray, "h w 3"] | None
    faces: tuple[CloakedFace, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        """The pixels of an outcome."""
        image = None if outcome.pixels is None else outcome.pixels.copy()
        return cls(outcome.status, outcome.reason, image, outcome.faces, outcome.notes)

    @classmethod
    def failed(cls, reason: str) -> Self:
        """Outcome of an image that could not be cloaked."""
        return cls("failed", reason, None, ())


@dataclass(frozen=True)
class Encoded:
    """Outcome of one photo. data: the bytes of the cloaked file; None unless the status is "cloaked".

    reason: why it is not cloaked, or which of its faces are not. notes: what the file lacks of the original or has
    otherwise, one sentence each.
    """

    data: bytes | None
    status: Status
    reason: str
    faces: tuple[CloakedFace, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        """The file of an outcome."""
        return cls(outcome.data, outcome.status, outcome.reason, outcome.faces, outcome.notes)

    @classmethod
    def failed(cls, reason: str) -> Self:
        """Outcome of a photo that could not be cloaked."""
        return cls(None, "failed", reason, ())


class WeakerWarning(UserWarning):
    """A call whose cloaks protect less than those of another call with the same settings."""
