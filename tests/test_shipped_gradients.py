"""The gradients of the shipped networks, by programs that compile quickly: optimised ones would take minutes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_extractors import SHIPPED, shipped

from engine import extractors
from engine.config import CANVAS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiles")]


@jax.jit
def both(extractor: extractors.Extractor, canvas: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The embedding, and the gradient of how far it lies in the direction."""
    embedding, pull = jax.vjp(lambda canvas: extractors.embed(extractor, canvas), canvas)
    return embedding, pull(direction)[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_gradient_of_the_shipped_networks_on_grey_is_finite(name):
    network = shipped(name)
    _, gradient = both(network, jnp.full((CANVAS, CANVAS, 3), 0.5), jnp.ones(network.dim))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", ["web-incept", "mobilefacenet-192", "faceres", "dlib-resnet"])
def test_the_tuned_form_has_the_same_embeddings_and_gradients(name: str) -> None:
    """Within 1e-5 of an embedding's length and 1e-4 of a gradient's: sums of floats in another order."""
    plain = shipped(name)
    canvas = jax.random.uniform(jax.random.key(1), (CANVAS, CANVAS, 3))
    direction = jnp.asarray(np.random.default_rng(0).standard_normal(plain.dim), jnp.float32)
    expected, tuned = both(plain, canvas, direction), both(extractors.tuned(plain), canvas, direction)
    np.testing.assert_allclose(tuned[0], expected[0], atol=1e-5)
    assert np.linalg.norm(tuned[1] - expected[1]) < 1e-4 * np.linalg.norm(expected[1])
