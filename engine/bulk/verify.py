"""`cloak verify`: what a cloak changed, measured on the two files as anybody would see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from engine import checkpoint, sharding
from engine.bulk.prepare import Prepared, prepare
from engine.config import Detection
from engine.detect import YuNet
from engine.dssim import WINDOW, dssim_pixels
from engine.extractors import available, embed_batch, load
from engine.extractors.registry import missing
from engine.faces import cut
from engine.photo import read
from engine.types import PhotoError

PAIR = 0.15
"""DSSIM above which two pictures are no photo and its cloaked version. Modes spend at most .017. Portraits of two
people have some .4, a portrait and its mirror image .3, and one moved by 8 pixels .16."""
Verdict = Literal["changed", "same", "no pair"]


@dataclass(frozen=True)
class FaceReport:
    """One face of the original. dssim: of its region at native size. shift: L2 distance (0 to 2), by extractor."""

    box: tuple[float, ...]
    dssim: float
    max_change: int
    shift: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Changes that a cloak made to a photo.

    verdict: "same" if all pixels are, "no pair" from a DSSIM of PAIR on, of the whole or of a face. max_change: largest
    difference of a pixel, in grey levels of 255. changed: share of pixels that differ. dssim: None for a photo smaller
    than its window. missing: extractors without a shift, as their weights are not installed, each with a sentence that
    says so.
    """

    verdict: Verdict
    max_change: int
    changed: float
    dssim: float | None
    faces: tuple[FaceReport, ...]
    missing: dict[str, str]


def verify(original: Path, cloaked: Path) -> Report:
    """Compare a photo with its cloaked version, in every extractor that is installed.

    Raises PhotoError, which names the file, if one cannot be read, and if their sizes differ.
    """
    sharding.configure()
    with _naming(original):
        before: Prepared = prepare(original, YuNet(checkpoint.detector(), Detection()))
    with _naming(cloaked):
        after = read(cloaked).pixels
    pixels = before.photo.pixels
    if after.shape != pixels.shape:
        sizes = f"{pixels.shape[1]}x{pixels.shape[0]} and {after.shape[1]}x{after.shape[0]}"
        raise PhotoError(
            f"{original} and {cloaked} have different sizes, {sizes}: they are not a photo and its cloaked version."
        )
    shifts: dict[str, np.ndarray] = {}
    lacking = missing()
    if before.cuts:
        pairs = np.stack([crop.canvas for crop in before.cuts] + [cut(after, face).canvas for face in before.faces])
        for name in (name for name in available() if name not in lacking):
            clean, changed = np.split(np.asarray(jax.device_get(embed_batch(load(name), pairs))), 2)
            shifts[name] = np.linalg.norm(clean - changed, axis=1)
    difference = np.abs(pixels.astype(np.int16) - after)
    faces = tuple(
        FaceReport(
            box=tuple(round(float(value), 1) for value in face.box),
            dssim=dssim_pixels(pixels[top:bottom, left:right], after[top:bottom, left:right]),
            max_change=int(difference[top:bottom, left:right].max()),
            shift={name: float(values[index]) for name, values in shifts.items()},
        )
        for index, (face, (top, left, bottom, right)) in enumerate(zip(before.faces, before.regions, strict=True))
    )
    dssim = dssim_pixels(pixels, after) if min(pixels.shape[:2]) >= WINDOW else None
    verdict: Verdict = "changed" if difference.any() else "same"
    if max(dssim or 0.0, *(face.dssim for face in faces), 0.0) > PAIR:
        verdict = "no pair"
    return Report(verdict, int(difference.max()), float((difference.max(axis=2) > 0).mean()), dssim, faces, lacking)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A photo's trouble is raised with its path."""
    try:
        yield
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error
