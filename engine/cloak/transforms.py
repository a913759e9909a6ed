"""Transformations: random changes of what the extractors see at a step. What holds for all of them carries further.

One of the canvas is a function (canvas, amount, key) -> canvas, one of the crop gives its window. `seen` chains them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray
from scipy import fft

from engine.cloak.objective import Extractors, embeddings
from engine.config import Recipe
from engine.extractors import Extractor, embed


def seen(
    recipe: Recipe,
    extractors: Extractors,
    canvas: Float[Array, "c c 3"],
    *,
    key: PRNGKeyArray,
    members: tuple[int, ...],
) -> tuple[Float[Array, "_d"], ...]:
    """Embeddings of the transformed canvas by the extractors `members`, indices in the ensemble.

    Each crop depends on the key and on its own index alone, the canvas on the key and on how many extractors the
    ensemble has. Without `recipe.jitter` the crops are the extractors' own, without `recipe.spectrum` the canvas is as
    it is.
    """
    if recipe.spectrum:
        canvas = spectrum(canvas, amount=recipe.spectrum, key=jax.random.fold_in(key, len(recipe.extractors)))
    if recipe.jitter == 0:
        return embeddings(extractors, canvas)
    windows = [
        _window(extractor, amount=recipe.jitter, key=jax.random.fold_in(key, index))
        for index, extractor in zip(members, extractors, strict=True)
    ]
    return tuple(
        embed(extractor, canvas, window_yx=window) for extractor, window in zip(extractors, windows, strict=True)
    )


def spectrum(canvas: Float[Array, "c c 3"], *, amount: float, key: PRNGKeyArray) -> Float[Array, "c c 3"]:
    """The canvas with every frequency times a random factor in [1 - amount, 1 + amount], the same for all channels.

    Networks differ in the frequencies that they look at, so a cloak must not rely on few of them. This is the spectrum
    simulation of Long et al. (ECCV 2022) without its noise. Values may leave [0, 1].
    """
    side = canvas.shape[0]
    waves = jnp.array(_waves(side))
    factors = 1 + amount * jax.random.uniform(key, (side, side, 1), minval=-1.0)
    # Highest: TF32 or bfloat16 products would round the pixels to about 1/1000 before the network sees them.
    precision = jax.lax.Precision.HIGHEST
    frequencies = jnp.einsum("ih,hwc,jw->ijc", waves, canvas, waves, precision=precision)
    return jnp.einsum("ih,ijc,jw->hwc", waves, frequencies * factors, waves, precision=precision)


def _waves(size: int) -> Float32[np.ndarray, "n n"]:
    """The orthonormal cosines of the discrete cosine transform, a row each."""
    return fft.dct(np.eye(size), axis=0, norm="ortho").astype(np.float32)


def _window(extractor: Extractor, *, amount: float, key: PRNGKeyArray) -> Float[Array, "2 2"]:
    """The extractor's window on the canvas at a random scale, offset and mirroring; amount: share of its side."""
    scale_key, shift_key, flip_key = jax.random.split(key, 3)
    rows = extractor.spec.window_yx
    side = rows[1][1] - rows[1][0]
    half = side / 2 * (1 + amount * jax.random.uniform(scale_key, minval=-1.0))
    middle = jnp.array([(low + high) / 2 for low, high in rows])
    middle = middle + side * amount * jax.random.uniform(shift_key, (2,), minval=-1.0)
    y = jnp.stack([middle[0] - half, middle[0] + half])
    x = jnp.stack([middle[1] - half, middle[1] + half])
    return jnp.stack([y, jnp.where(jax.random.bernoulli(flip_key), x[::-1], x)])
