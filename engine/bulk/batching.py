"""Faces of many photos in batches of one fixed shape: the only edge between host and device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from engine import sharding
from engine.cloak import solver
from engine.cloak.objective import Extractors
from engine.config import Recipe
from engine.faces import Cut


class FaceJob(NamedTuple):
    """One face on its way to the device. target: for each extractor (d,), as of `solver.Batch`."""

    cut: Cut
    grey: bool
    sha256: str
    index: int
    target: tuple[Float32[np.ndarray, "d"], ...]


class FaceCloak(NamedTuple):
    """What came back. delta: (c, c, 3). dssim: on the canvas. shift: by extractor, on the canvas."""

    delta: Float32[np.ndarray, "c c 3"]
    dssim: float
    shift: tuple[float, ...]


class Batcher:
    """Runs the solver, or the extractors alone, on any number of faces in batches of `size` slots.

    Empty slots are filled with copies: every call has the same shape, so nothing is compiled twice, and a face's cloak
    does not depend on how many others there were.
    """

    def __init__(self, recipe: Recipe, extractors: Extractors, *, size: int, mesh: Mesh) -> None:
        """size is rounded up to a multiple of the mesh's devices."""
        self.recipe = recipe
        self.size = -(-size // mesh.size) * mesh.size
        self.mesh = mesh
        self.extractors = sharding.replicate(extractors, mesh)

    def solve(self, jobs: Sequence[FaceJob], *, progress: Callable[[int], None] | None = None) -> list[FaceCloak]:
        """The cloaks of at most `size` faces, in order; progress as in `solver.solve`."""
        padded = self._padded(jobs)
        words = [_identity(self.recipe.seed, job) for job in padded]
        put = partial(sharding.split_faces, mesh=self.mesh)
        batch = solver.Batch(
            canvas=put(np.stack([job.cut.canvas for job in padded])),
            mask=put(np.stack([job.cut.mask for job in padded])),
            region=put(np.stack([job.cut.region for job in padded])),
            target=tuple(put(np.stack(column)) for column in zip(*(job.target for job in padded), strict=True)),
            grey=put(np.array([job.grey for job in padded])),
            identity=put(np.array(words, np.uint32)),
        )
        result = solver.solve(self.recipe, self.extractors, batch, progress=progress)
        delta, dssim, shift = jax.device_get(result)
        return [
            FaceCloak(delta[i], float(dssim[i]), tuple(float(value) for value in shift[i])) for i in range(len(jobs))
        ]

    def embed(self, canvases: Sequence[Float32[np.ndarray, "c c 3"]]) -> list[tuple[Float32[np.ndarray, "d"], ...]]:
        """For each canvas its embedding by every extractor, any number of canvases."""
        found: list[tuple[Float32[np.ndarray, "d"], ...]] = []
        for first in range(0, len(canvases), self.size):
            some = list(canvases[first : first + self.size])
            batch = sharding.split_faces(np.stack(self._padded(some)), self.mesh)
            columns = jax.device_get(solver.embed(self.extractors, batch))
            found += [tuple(column[i] for column in columns) for i in range(len(some))]
        return found

    def no_target(self) -> tuple[Float32[np.ndarray, "d"], ...]:
        """What stands in a FaceJob for the face's own embedding."""
        return tuple(np.zeros(extractor.dim, np.float32) for extractor in self.extractors)

    def _padded(self, jobs: Sequence) -> list:
        if not 0 < len(jobs) <= self.size:
            raise ValueError(f"a batch has 1 to {self.size} faces; got {len(jobs)}")
        return [*jobs, *[jobs[0]] * (self.size - len(jobs))]


def _identity(seed: int, job: FaceJob) -> tuple[int, int, int, int]:
    return seed % 2**32, int(job.sha256[:8], 16), int(job.sha256[8:16], 16), job.index
