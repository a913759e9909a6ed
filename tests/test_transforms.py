"""engine.cloak.transforms: what the extractors see at a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import fft

from engine.cloak import transforms
from engine.cloak.objective import embeddings
from engine.config import Recipe

SIDE = 64
EXTRACTORS = (tiny.extractor(1, window=(8.0, 56.0)), tiny.extractor(2, window=(12.0, 52.0)))
STILL = Recipe(extractors=("one", "two"), jitter=0, spectrum=0)


@pytest.fixture(scope="module")
def canvas() -> jax.Array:
    return jnp.asarray(tiny.texture(1, SIDE, SIDE))


def seen(recipe: Recipe, canvas: jax.Array, seed: int, members: tuple[int, ...]) -> list[np.ndarray]:
    chosen = tuple(EXTRACTORS[index] for index in members)
    found = transforms.seen(recipe, chosen, canvas, key=jax.random.key(seed), members=members)
    return [np.asarray(one) for one in found]


def test_without_any_the_extractors_see_the_face_as_it_is(canvas: jax.Array) -> None:
    for found, expected in zip(seen(STILL, canvas, 0, (0, 1)), embeddings(EXTRACTORS, canvas), strict=True):
        np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("field", ["jitter", "spectrum"])
def test_each_changes_what_is_seen_by_the_key(canvas: jax.Array, field: str) -> None:
    changes: dict[str, Any] = {field: 0.3}
    recipe = replace(STILL, **changes)
    (still,), (one,), (other,), (again,) = (
        seen(*arguments, (0,))
        for arguments in ((STILL, canvas, 0), (recipe, canvas, 0), (recipe, canvas, 1), (recipe, canvas, 0))
    )
    np.testing.assert_array_equal(one, again)
    assert np.linalg.norm(one - still) > 0.01
    assert np.linalg.norm(one - other) > 0.01


def test_what_an_extractor_sees_does_not_depend_on_the_others(canvas: jax.Array) -> None:
    recipe = replace(STILL, jitter=0.1, spectrum=0.4)
    both, (second,) = seen(recipe, canvas, 3, (0, 1)), seen(recipe, canvas, 3, (1,))
    np.testing.assert_allclose(both[1], second, atol=1e-6)


def test_every_frequency_gets_a_factor_of_its_own_in_range(canvas: jax.Array) -> None:
    changed = transforms.spectrum(canvas, amount=0.4, key=jax.random.key(5))
    before, after = (fft.dctn(np.asarray(one, np.float64), axes=(0, 1), norm="ortho") for one in (canvas, changed))
    strong = np.abs(before) > 1e-2
    factors = np.where(strong, after / np.where(strong, before, 1), np.nan)
    assert np.nanmin(factors) > 0.6 - 1e-3
    assert np.nanmax(factors) < 1.4 + 1e-3
    assert np.nanstd(factors) == pytest.approx(0.4 / 3**0.5, rel=0.1)
    alike = strong.all(-1)
    np.testing.assert_allclose(factors[alike][:, 0], factors[alike][:, 2], atol=1e-2)


def test_no_range_leaves_the_canvas(canvas: jax.Array) -> None:
    np.testing.assert_allclose(transforms.spectrum(canvas, amount=0.0, key=jax.random.key(0)), canvas, atol=1e-5)
