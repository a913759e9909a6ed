"""Search in a gallery: which of the people whom a tracker knows are nearest to a test photo.

A gallery holds embeddings of length one under names. A search by 1-NN ranks people by their nearest photo, one by
nearest centroid by their mean embedding. The rank decides: a name is found among the best k guesses or it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from engine.dataset import photos_of
from engine.evaluate.recognisers import Recogniser

PHOTOS = 2
"""Most photos of a person whom no list of people names: a scraper has few of most people."""

Rows = Float[np.ndarray, "_ _"]
"""Embeddings of one person or of the tests, a row each."""
Distances = Float[np.ndarray, "m k"]
"""Distances of each of m tests to each of k people. Only their order means something."""


def embedded(recogniser: Recogniser, photos: Sequence[Path]) -> list[Float[np.ndarray, "d"] | None]:
    """An embedding of length one for each photo, None without a face."""
    rows = recogniser.embed(list(photos))
    return [None if row is None else row / max(float(np.linalg.norm(row)), 1e-9) for row in rows]


def stacked(rows: Sequence[Float[np.ndarray, "d"] | None]) -> Rows:
    """The rows that are there; (0, 1) if none is."""
    there = [row for row in rows if row is not None]
    return np.stack(there) if there else np.empty((0, 1), np.float32)


def people(recogniser: Recogniser, photos: Sequence[Sequence[Path]]) -> list[Rows]:
    """The embeddings of each person, empty for one without a face. All photos are shown to the recogniser at once."""
    flat = embedded(recogniser, [photo for paths in photos for photo in paths])
    ends = np.cumsum([len(paths) for paths in photos], dtype=int)
    return [stacked(flat[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def further(faces: Path, known: Collection[str]) -> dict[str, list[Path]]:
    """The people under `faces`/NAME/ who are not among the known, each with at most PHOTOS photos.

    Raises ValueError for a folder without people.
    """
    return {name: paths[:PHOTOS] for name, paths in photos_of(faces).items() if name not in known}


def to_photos(tests: Rows, gallery: Sequence[Rows]) -> Distances:
    """Squared distance of each test to each person's nearest photo. Everybody must have one."""
    squared = 2 - 2 * tests @ np.concatenate(gallery).T
    starts = np.cumsum([0, *(len(rows) for rows in gallery[:-1])])
    return np.minimum.reduceat(squared, starts, axis=1)


def to_centroids(tests: Rows, gallery: Sequence[Rows]) -> Distances:
    """Squared distance of each test to each person's mean embedding, less one. Everybody must have a photo."""
    means = np.stack([rows.mean(axis=0) for rows in gallery])
    return (means**2).sum(axis=1) - 2 * tests @ means.T


SEARCHES: Mapping[str, Callable[[Rows, Sequence[Rows]], Distances]] = {
    "1-NN": to_photos,
    "nearest centroid": to_centroids,
}
"""Under the names that `trackers.HEADS` has for them."""


def nearer(distances: Distances, truth: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    """How many people are nearer to each test than the one it shows, whose column `truth` has.

    The name is among the best k guesses if that is less than k; a tie counts for the name.

    Example:
        >>> nearer(np.array([[0.2, 0.1, 0.4]]), np.array([0]))
        array([1])
    """
    to_truth = distances[np.arange(len(truth)), truth][:, None]
    return (distances < to_truth).sum(axis=1)
