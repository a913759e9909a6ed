"""Objective of a cloak: how far it has moved the embeddings of one face, as a function of the cloaked canvas.

All functions are for one face and are meant to be vmapped. No two faces are ever coupled.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from engine.config import Recipe
from engine.dssim import WINDOW, Clean
from engine.extractors import Extractor, embed

Extractors = tuple[Extractor, ...]


class Problem(NamedTuple):
    """One face to cloak, on the device.

    original: the canvas (c, c, 3) and its SSIM statistics. mask: (c, c, 1) in [0, 1]. weights: (c-10, c-10), of sum 1,
    for the SSIM windows that lie inside the face region. clean: the face's embedding by each extractor. target: the
    embedding to get away from (the face's own, the person's), or the one to go to. grey: the cloak must be achromatic.
    key: the face's own.
    """

    original: Clean
    mask: Float[Array, "c c 1"]
    weights: Float[Array, "m m"]
    clean: tuple[Float[Array, "_d"], ...]
    target: tuple[Float[Array, "_d"], ...]
    grey: Bool[Array, ""]
    key: PRNGKeyArray


def window_weights(region: Bool[Array, "c c"]) -> Float[Array, "m m"]:
    """Equal weights, sum 1, for the SSIM windows that lie wholly inside the region; all zero if none does."""
    windows = jax.lax.reduce_window(region.astype(jnp.float32), 1.0, jax.lax.min, (WINDOW, WINDOW), (1, 1), "VALID")
    return windows / jnp.maximum(windows.sum(), 1.0)


def embeddings(extractors: Extractors, canvas: Float[Array, "c c 3"]) -> tuple[Float[Array, "_d"], ...]:
    """The L2-normalised embedding of the canvas by each extractor, at its own crop."""
    return tuple(embed(extractor, canvas) for extractor in extractors)


def distances(these: tuple[Float[Array, "_d"], ...], those: tuple[Float[Array, "_d"], ...]) -> Float[Array, "k"]:
    """L2 distance in each extractor, in [0, 2]; its gradient is finite if the two are equal."""
    squared = jnp.stack([((a - b) ** 2).sum() for a, b in zip(these, those, strict=True)])
    return jnp.sqrt(squared + 1e-12)


def gain(
    recipe: Recipe,
    face: Problem,
    found: tuple[Float[Array, "_d"], ...],
    *,
    members: tuple[int, ...] | None = None,
    lead: tuple[Float[Array, "_d"], ...] | None = None,
) -> Float[Array, ""]:
    """Gain that the solver maximises: the extractors' weighted mean distance from face.target, or minus that to it.

    found: embeddings of the cloaked face by the extractors `members`. members: indices into the ensemble, None for all.
    lead: what is taken off the target of each extractor of the ensemble, None for nothing.
    """
    chosen = range(len(recipe.extractors)) if members is None else members
    given = [recipe.weights[index] for index in chosen]
    weights = jnp.array(given) / sum(given)  # no product of matrices: GPUs round theirs to TF32
    targets = (
        face.target if lead is None else tuple(goal - ahead for goal, ahead in zip(face.target, lead, strict=True))
    )
    distance = (weights * distances(found, tuple(targets[index] for index in chosen))).sum()
    return -distance if recipe.objective == "target" else distance
