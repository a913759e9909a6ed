import jax
import jax.numpy as jnp
import numpy as np
from tiny import texture

from engine.evaluate.views import Range, draw, lit, straight, window
from engine.extractors import crop

WINDOW = (32.0, 144.0)


def test_the_straight_view_is_the_networks_own_crop() -> None:
    canvas = jnp.asarray(texture(0, 176, 176))
    seen = crop(lit(straight(), canvas), size=112, window_yx=window(straight(), WINDOW))
    np.testing.assert_allclose(seen, canvas[32:144, 32:144], atol=1e-6)


def test_a_mirrored_view_swaps_left_and_right() -> None:
    canvas = jnp.asarray(texture(0, 176, 176))
    seen = crop(canvas, size=112, window_yx=window(straight(mirrored=True), WINDOW))
    np.testing.assert_allclose(seen, canvas[32:144, 32:144][:, ::-1], atol=1e-6)


def test_views_stay_within_their_range_and_differ() -> None:
    within = Range(shift=0.1, zoom=0.2, gain=0.3, lift=0.05)
    views = jax.jit(jax.vmap(lambda key: draw(key, within)))(jax.random.split(jax.random.key(0), 400))
    assert 0.08 < np.abs(views.shift).max() <= 0.1
    assert 0.15 < np.abs(views.zoom - 1).max() <= 0.2
    assert 0.25 < np.abs(views.gain - 1).max() <= 0.3
    assert 0.04 < np.abs(views.lift).max() <= 0.05
    assert 0.4 < np.mean(views.mirrored) < 0.6


def test_light_never_leaves_the_range_of_pixels() -> None:
    view = straight()._replace(gain=jnp.float32(3), lift=jnp.float32(0.5))
    seen = lit(view, jnp.asarray(texture(0, 20, 20)))
    assert seen.min() >= 0
    assert seen.max() <= 1


def test_a_crop_that_lies_lower_is_looked_at_lower() -> None:
    rows = np.asarray(window(straight(), ((48.0, 160.0), (32.0, 144.0))))
    np.testing.assert_allclose(rows, [[48.0, 160.0], [32.0, 144.0]], atol=1e-4)
