"""Telling cloaked photos from clean ones: what can be measured on a photo, and a linear discriminant of it.

Two kinds of measurement. Statistics of the noise in the face, as steganalysis takes them, know nothing of networks.
Squeezing (Xu, Evans and Qi, NDSS 2018) asks a network. A cloak that moved its embedding is fine detail. So blurring the
photo moves the embedding back, further than it moves that of a clean photo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from engine.evaluate.training import embeddings
from engine.extractors import Extractor

Pixels = UInt8[np.ndarray, "h w 3"]
SCALES = (1.0, 2.0, 4.0)
"""Sigmas, in pixels, between which the bands of detail lie."""
GRID = 4
STEP = 3
"""Differences between neighbours are cut off at so many grey levels."""
LEAST = 0.1
"""Grey levels added to an amplitude before its logarithm."""
RIDGE = 0.01
SQUEEZES: tuple[Callable[[Pixels], Pixels], ...] = (
    lambda image: cv2.GaussianBlur(image, (0, 0), 2.0),
    lambda image: cv2.resize(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), image.shape[1::-1]),
    lambda image: cv2.medianBlur(image, 5),
)


def noise(face: Pixels) -> Float[np.ndarray, " d"]:
    """Statistics of one face at the photo's own resolution.

    They are how much detail each band has in luma and chroma, and where in a grid of 4 x 4 the luma's is. The last are
    how often neighbouring differences follow each other (SPAM, Pevný et al. 2010).
    """
    planes = cv2.cvtColor(face, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    features = []
    for channel in range(3):
        plane = np.ascontiguousarray(planes[..., channel])
        for sigma in SCALES:
            smooth = cv2.GaussianBlur(plane, (0, 0), sigma)
            band, plane = plane - smooth, smooth
            features.append(np.log(band.std() + LEAST).reshape(1))
            if channel == 0:
                energy = cv2.resize(band * band, (GRID, GRID), interpolation=cv2.INTER_AREA)
                features.append(np.log(energy + LEAST).ravel())
    return np.concatenate([*features, _follow(planes[..., 0])])


def _follow(luma: Float[np.ndarray, "h w"]) -> Float[np.ndarray, " d"]:
    levels = np.rint(luma).astype(int)
    kinds = 2 * STEP + 1
    tables = []
    for plane in (levels, levels.T):
        steps = np.clip(np.diff(plane, axis=1), -STEP, STEP) + STEP
        pairs = steps[:, :-1] * kinds + steps[:, 1:]
        tables.append(np.bincount(pairs.ravel(), minlength=kinds * kinds) / max(pairs.size, 1))
    return np.mean(tables, axis=0)


def squeezing(extractor: Extractor, canvases: UInt8[np.ndarray, "n c c 3"]) -> Float[np.ndarray, "n 3"]:
    """How far each of SQUEEZES moves the embeddings of canvases."""
    plain = embeddings(extractor, canvases)
    moved = [embeddings(extractor, np.stack([squeeze(canvas) for canvas in canvases])) for squeeze in SQUEEZES]
    return np.stack([np.linalg.norm(plain - squeezed, axis=1) for squeezed in moved], axis=1)


class Discriminant(NamedTuple):
    """A direction in the space of measurements. mean, scale (d,): of what it learnt from. weights (d,)."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    weights: Float[np.ndarray, " d"]

    def score(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The higher, the more like a cloaked photo."""
        return (rows - self.mean) / self.scale @ self.weights


def discriminant(rows: Float[np.ndarray, "n d"], cloaked: Bool[np.ndarray, " n"]) -> Discriminant:
    """Fisher's linear discriminant, with a ridge of RIDGE on standardised measurements.

    Raises ValueError unless there are rows of both kinds.
    """
    if cloaked.all() or not cloaked.any():
        raise ValueError(f"a discriminant needs cloaked and clean photos; got {int(cloaked.sum())} of {len(cloaked)}")
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    standard = (rows - mean) / scale
    wanted = np.where(cloaked, 1.0, -1.0)
    inner = standard.T @ standard + RIDGE * len(rows) * np.eye(rows.shape[1])
    return Discriminant(mean, scale, np.linalg.solve(inner, standard.T @ (wanted - wanted.mean())))


class Curve(NamedTuple):
    """Receiver operating characteristic, from (0, 0) to (1, 1).

    It has, at each threshold, the share of clean photos that are called cloaked, and the share of cloaked ones that
    are.
    """

    alarms: Float[np.ndarray, " t"]
    found: Float[np.ndarray, " t"]

    @property
    def area(self) -> float:
        """Under the curve: the chance that a cloaked photo scores higher than a clean one."""
        return float(np.trapezoid(self.found, self.alarms))

    def at(self, alarms: float) -> float:
        """The largest share found at no more than this share of false alarms."""
        return float(self.found[self.alarms <= alarms].max())


def curve(scores: Float[np.ndarray, " n"], cloaked: Bool[np.ndarray, " n"]) -> Curve:
    """The curve of scores whose truth is known; photos of one score are called alike."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, misses = np.cumsum(cloaked[order])[ends], np.cumsum(~cloaked[order])[ends]
    return Curve(
        np.concatenate([[0.0], misses / max((~cloaked).sum(), 1)]),
        np.concatenate([[0.0], hits / max(cloaked.sum(), 1)]),
    )


def interval(
    scores: Float[np.ndarray, " n"],
    cloaked: Bool[np.ndarray, " n"],
    people: Int[np.ndarray, " n"],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % interval of the area under the curve, by bootstrap over people: photos of one person are alike."""
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(people == person) for person in np.unique(people)]
    areas = []
    for _ in range(draws):
        taken = np.concatenate([rows[n] for n in random.integers(len(rows), size=len(rows))])
        if cloaked[taken].any() and not cloaked[taken].all():
            areas.append(curve(scores[taken], cloaked[taken]).area)
    low, high = np.quantile(areas, (0.025, 0.975)) if areas else (np.nan, np.nan)
    return float(low), float(high)
