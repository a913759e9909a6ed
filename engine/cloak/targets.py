"""Goal of a person's embeddings under objective "target": one far centroid of the population for all photos."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from engine.cloak.state import seeded

CANDIDATES = 24
"""Centroids that the seed draws; the farthest of them is taken (paper, section 4.2, with centroids for its classes)."""


def farthest(
    person: tuple[Float[Array | np.ndarray, "_d"], ...],
    bank: tuple[Float[Array | np.ndarray, "n _d"], ...],
    *,
    seed: int,
) -> Int[Array, ""]:
    """The index of the centroid to send a person to: the farthest, mean over extractors, of those the seed draws.

    person, bank: for each extractor the person's mean embedding and the centroids, of length one. Row i of every bank
    is the same group of people. The draw depends on the seed alone, so the choice is stable for a person.
    """
    count = bank[0].shape[0]
    drawn = jax.random.permutation(seeded(seed), count)[: min(CANDIDATES, count)]
    distance = jnp.stack(
        [jnp.linalg.norm(rows[drawn] - own[None], axis=1) for own, rows in zip(person, bank, strict=True)]
    )
    return drawn[jnp.argmax(distance.mean(axis=0))]
