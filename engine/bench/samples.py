"""The faces that are cloaked: of photos, or synthetic ones, which have a face's size and nothing else of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engine import checkpoint
from engine.bulk.batching import FaceJob
from engine.bulk.inputs import InputError, collect
from engine.bulk.prepare import Prepared, prepare
from engine.config import CANVAS, Detection
from engine.detect import YuNet
from engine.faces import FEATHER, Cut
from engine.types import PhotoError

TEXTURES = 64
"""Synthetic faces that differ; more than these repeat."""
BORDER = 16
"""Pixels of a synthetic canvas outside its face region."""
WORKERS = 4


@dataclass(frozen=True)
class Samples:
    """Faces to be repeated. source: what they are, in words. photos: files they come from, empty for synthetic ones."""

    cuts: tuple[tuple[Cut, bool, str], ...]
    source: str
    photos: tuple[Path, ...] = ()

    def jobs(self, count: int, dims: Sequence[int]) -> list[FaceJob]:
        """So many faces, each with a key of its own; to be moved from their own embeddings, of `dims` numbers."""
        none = tuple(np.zeros(dim, np.float32) for dim in dims)
        chosen = (self.cuts[index % len(self.cuts)] for index in range(count))
        return [FaceJob(cut, grey, sha256, index, none) for index, (cut, grey, sha256) in enumerate(chosen)]


def synthetic() -> Samples:
    """Smooth random textures. They cost what faces cost; DSSIM and shift of their cloaks say nothing of faces."""
    return Samples(
        tuple((_texture(seed), False, hashlib.sha256(bytes([seed])).hexdigest()) for seed in range(TEXTURES)),
        "synthetic faces (smooth random textures): the times are those of faces, DSSIM and shift say nothing of faces",
    )


def _texture(seed: int) -> Cut:
    noise = np.random.default_rng(seed).standard_normal((CANVAS, CANVAS, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    canvas = (0.5 + 0.15 * smooth / smooth.std()).clip(0, 1).astype(np.float32)
    edge = np.minimum(np.arange(CANVAS), np.arange(CANVAS)[::-1])
    depth = np.minimum(edge, edge[:, None]) - BORDER
    mask = np.clip(depth / FEATHER, 0, 1).astype(np.float32)
    return Cut(canvas, mask[..., None], depth >= 0, np.eye(2, 3))


def of_photos(paths: Sequence[Path]) -> Samples:
    """The faces of all photos under the paths. Raises InputError if there is none, or a path does not exist."""
    photos = tuple(item.source for item in collect(paths, out=Path(".bench")) if not (item.skip or item.fault))
    detector = YuNet(checkpoint.detector(), Detection())

    def prepared(photo: Path) -> Prepared | None:
        try:
            return prepare(photo, detector)
        except PhotoError:
            return None

    with ThreadPoolExecutor(WORKERS) as pool:
        photos_cut = [photo for photo in pool.map(prepared, photos) if photo is not None]
    cuts = tuple((cut, photo.photo.grey, photo.sha256) for photo in photos_cut for cut in photo.cuts)
    if not cuts:
        raise InputError(f"no face was found in {len(photos)} photos under {', '.join(map(str, paths))}")
    return Samples(cuts, f"{len(cuts)} faces of {len(photos)} photos, repeated where more are needed", photos)
