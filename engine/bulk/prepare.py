"""From a photo to canvases: decode, detect, cut. Host work without JAX, safe in any number of threads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from engine import photo as photos
from engine.bulk.people import OTHERS
from engine.bulk.sightings import Sightings
from engine.detect import Detector
from engine.dssim import WINDOW
from engine.faces import Cut, cut, region_box
from engine.files import NotAFileError, opened
from engine.types import Face, Photo, PhotoError, UnsettledError

Source = Path | bytes | Photo | np.ndarray | Image.Image


@dataclass(frozen=True)
class Prepared:
    """A photo whose faces are ready to be cloaked.

    sha256: as `digest` gives it. faces, cuts, regions: in the same order; a region is (top, left,
    bottom, right) in pixels. unusable: why faces were found that cannot be cloaked, one sentence each. others: how
    many faces were found and are not wanted. notes: what else is to be known of its cloaks, one sentence each.
    """

    photo: Photo
    sha256: str
    faces: tuple[Face, ...] = ()
    cuts: tuple[Cut, ...] = ()
    regions: tuple[tuple[int, int, int, int], ...] = ()
    unusable: tuple[str, ...] = ()
    others: int = 0
    notes: tuple[str, ...] = ()


def digest(source: Source) -> str:
    """SHA-256 of a file's bytes, or of what is seen of a picture in memory: pixels, upright, and transparency.

    Raises UnsettledError for a file that cannot be read, and PhotoError for what is no photo.
    """
    if isinstance(source, Path):
        try:
            with opened(source) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except NotAFileError as error:
            raise PhotoError(f"This is no photo, because {error.strerror}: name a file.") from None
        except OSError as error:
            raise UnsettledError(
                f"The file cannot be read ({error.strerror}): check that it is there and readable."
            ) from error
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    photo = _pictured(source)
    seen = hashlib.sha256(repr((photo.pixels.shape, photo.grey, photo.alpha is not None)).encode())
    for channels in (photo.pixels, photo.alpha):
        if channels is not None:
            seen.update(np.ascontiguousarray(channels).data)
    return seen.hexdigest()


def still(source: Source) -> Source:
    """The source as it is now, whatever its owner draws into it later. What is wrong with it is said by `prepare`."""
    if isinstance(source, Photo):
        with suppress(Exception):
            alpha = None if source.alpha is None else source.alpha.copy()
            return replace(source, pixels=source.pixels.copy(), alpha=alpha)
    if isinstance(source, (np.ndarray, Image.Image)):
        with suppress(Exception):
            return photos.from_array(source)
    return source


def prepare(
    source: Source, detector: Detector, *, sha256: str | None = None, sightings: Sightings | None = None
) -> Prepared:
    """Decode a photo and cut out all its faces, largest first. Raises PhotoError when it cannot be decoded.

    sha256: what `digest` gave for it; UnsettledError if it is another photo now. A file is read once, so hash and
    pixels are of one state of it, whoever writes to it meanwhile. sightings: of this detector; a photo that it knows is
    not searched for faces again.
    """
    if isinstance(source, Path):
        source = photos.load(source)
    elif not isinstance(source, bytes):
        source = _pictured(source)
    content = digest(source)
    if sha256 is not None and content != sha256:
        raise UnsettledError("The photo was changed during the run: run the same command again.")
    photo = photos.read(source) if isinstance(source, bytes) else source
    usable: list[tuple[Face, Cut, tuple[int, int, int, int]]] = []
    unusable: list[str] = []
    detected = None if sightings is None else sightings.faces(content)
    if detected is None:
        detected = detector.detect(photo.pixels)
        if sightings is not None:
            sightings.keep_faces(content, detected)
    for face in detected:
        try:
            crop, region = cut(photo.pixels, face), region_box(face, photo.size)
        except ValueError as error:
            unusable.append(f"Not cloaked: {error}.")
            continue
        if min(region[2] - region[0], region[3] - region[1]) < WINDOW or not _has_window(crop):
            where = ", ".join(str(round(float(value))) for value in face.box)
            unusable.append(f"Not cloaked: the face at {where} lies too far outside the photo.")
        else:
            usable.append((face, crop, region))
    faces, cuts, regions = tuple(zip(*usable, strict=True)) or ((), (), ())
    return Prepared(photo, content, faces, cuts, regions, tuple(unusable))


def _pictured(source: Source) -> Photo:
    if not isinstance(source, Photo):
        return photos.from_array(source)  # type: ignore[bad-argument-type]
    pixels, alpha = source.pixels, source.alpha
    if not _is_plane(pixels, 3) or pixels.shape[2] != 3:
        raise PhotoError(f"The pixels of a Photo must be RGB, uint8 (h, w, 3); got {_described(pixels)}.")
    if alpha is not None and not (_is_plane(alpha, 2) and alpha.shape == pixels.shape[:2]):
        raise PhotoError(f"The alpha of a Photo must be uint8 {pixels.shape[:2]}; got {_described(alpha)}.")
    if not isinstance(source.grey, (bool, np.bool_)):
        raise PhotoError(f"The field grey of a Photo must be True or False; got {_described(source.grey)}.")
    return source


def _is_plane(value: object, dimensions: int) -> bool:
    """Whether a caller's value is a picture's pixels at all, whatever its annotation says."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == dimensions and value.size > 0


def _described(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def subset(prepared: Prepared, keep: Sequence[int]) -> Prepared:
    """The same photo with only those faces."""

    def select(column: tuple) -> tuple:
        return tuple(column[index] for index in keep)

    others = prepared.others + len(prepared.faces) - len(keep)
    notes = (*prepared.notes, f"{OTHERS} {others} face{'' if others == 1 else 's'}.") if others else prepared.notes
    faces, cuts, regions = select(prepared.faces), select(prepared.cuts), select(prepared.regions)
    return replace(prepared, faces=faces, cuts=cuts, regions=regions, others=others, notes=notes)


def _has_window(crop: Cut) -> bool:
    """Whether at least one SSIM window lies wholly inside the region, so that the budget has something to bound."""
    rows = np.lib.stride_tricks.sliding_window_view(crop.region, WINDOW, axis=0).all(-1)
    return bool(np.lib.stride_tricks.sliding_window_view(rows, WINDOW, axis=1).all(-1).any())
