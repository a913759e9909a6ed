"""engine.cloak.targets: which centroid a person is sent to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from engine.cloak.state import seeded
from engine.cloak.targets import CANDIDATES, farthest


def rows(seed: int, count: int, dim: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def far(person: list[np.ndarray], bank: list[np.ndarray], seed: int) -> int:
    return int(farthest(tuple(map(jnp.asarray, person)), tuple(map(jnp.asarray, bank)), seed=seed))


@pytest.mark.parametrize("count", [1, 2, CANDIDATES])
def test_of_a_small_bank_the_farthest_is_taken(count: int) -> None:
    """With no more centroids than candidates all are drawn: NumPy's argmax over the mean distance is the answer."""
    person, bank = [rows(1, 1, 8)[0], rows(2, 1, 16)[0]], [rows(3, count, 8), rows(4, count, 16)]
    distance = sum(np.linalg.norm(b.astype(np.float64) - p, axis=1) for p, b in zip(person, bank, strict=True))
    assert {far(person, bank, seed) for seed in range(3)} == {int(np.argmax(distance))}


def test_the_draw_is_of_the_seed_alone() -> None:
    """One seed draws the same candidates for everybody: over many people no more than CANDIDATES ever come out."""
    bank = [rows(5, 100, 8)]
    chosen = {seed: {far([person], bank, seed) for person in rows(6, 60, 8)} for seed in (0, 1)}
    assert all(1 < len(some) <= CANDIDATES for some in chosen.values())
    assert chosen[0] != chosen[1]


def test_the_choice_is_far_and_stable_under_a_small_change() -> None:
    bank, person = [rows(7, 100, 8)], rows(8, 1, 8)[0]
    first = far([person], bank, 3)
    assert float(bank[0][first] @ person) < -0.3  # of 24 random directions in 8 dimensions the farthest is well behind
    near = person + 1e-3 * rows(9, 1, 8)[0]
    assert far([near / np.linalg.norm(near)], bank, 3) == first


def test_keys_are_of_one_kind_whatever_jax_is_set_to() -> None:
    expected = jax.random.uniform(seeded(3), (4,))
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(jax.random.uniform(seeded(3), (4,)), expected)
        assert not np.array_equal(jax.random.uniform(jax.random.key(3), (4,)), expected)
