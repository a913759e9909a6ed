"""engine.dssim against dm_pix.ssim, and the search for the largest scale within a budget."""

from __future__ import annotations

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import dssim

RESOLUTION = 2.0**-14


def noise(seed: int, shape: tuple[int, ...], size: float) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal((*shape[:2], 3))).astype(np.float32)


def oracle(x: np.ndarray | jax.Array, y: np.ndarray | jax.Array) -> float:
    # dm_pix mixes floats and integers itself, so strict promotion is off round it alone. In float32 its E[x^2] - E[x]^2
    # is off by up to 3e-5 on white pictures, so the oracle computes in float64.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return (1 - float(dm_pix.ssim(jnp.asarray(x, jnp.float64), jnp.asarray(y, jnp.float64)))) / 2


def picture(kind: str, height: int = 40, width: int = 33) -> np.ndarray:
    random = np.random.default_rng(7).random((height, width, 3)).astype(np.float32)
    checks = ((np.indices((height, width)).sum(0) // 4) % 2).astype(np.float32)
    return {
        "random": random,
        "smooth": tiny.texture(1, height, width, sigma=6),
        "fine": tiny.texture(2, height, width, sigma=0.8),
        "flat": np.full((height, width, 3), 0.5, np.float32),
        "black": np.zeros((height, width, 3), np.float32),
        "white": np.ones((height, width, 3), np.float32),
        "saturated": np.repeat(checks[..., None], 3, axis=2),
        "one channel": random * np.array([1, 0, 0], np.float32),
    }[kind]


KINDS = ("random", "smooth", "fine", "flat", "black", "white", "saturated", "one channel")


@pytest.mark.parametrize("size", [0.0, 0.003, 0.05, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_dm_pix(kind: str, size: float) -> None:
    x = picture(kind)
    y = (x + noise(3, x.shape, size)).clip(0, 1)
    assert float(dssim.dssim(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(oracle(x, y), abs=1e-5)


@pytest.mark.parametrize(("x", "y"), [("black", "white"), ("random", "saturated"), ("flat", "smooth")])
def test_agrees_with_dm_pix_on_unlike_pictures(x: str, y: str) -> None:
    first, second = jnp.asarray(picture(x)), jnp.asarray(picture(y))
    value = float(dssim.dssim(first, second))
    assert value == pytest.approx(oracle(first, second), abs=1e-5)
    assert value > 0.1
    assert float(dssim.dssim(second, first)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_change_is_exactly_zero(kind: str) -> None:
    x = jnp.asarray(picture(kind))
    assert float(dssim.dssim(x, x)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("size", [0.0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_finite_and_grows_off_the_clean_image(kind: str, size: float) -> None:
    x = jnp.asarray(picture(kind))
    delta = jnp.asarray(noise(4, x.shape, size))
    gradient = jax.grad(lambda d: dssim.dssim(x, x + d))(delta)
    assert bool(jnp.isfinite(gradient).all())
    if size:  # along the change itself DSSIM rises: the gradient is not merely finite but right in sign
        assert float((gradient * delta).sum()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_host_and_device_agree(kind: str) -> None:
    """dssim_pixels (OpenCV) is what the budget is held to, the device form what the solver sees: within 1e-5."""
    x = np.rint(picture(kind) * 255).astype(np.uint8)
    y = (x.astype(np.float32) + noise(5, x.shape, 6)).clip(0, 255).round().astype(np.uint8)
    host = dssim.dssim_pixels(x, y)
    device = float(dssim.dssim(jnp.asarray(x / np.float32(255)), jnp.asarray(y / np.float32(255))))
    assert host == pytest.approx(device, abs=1e-5)
    assert host > 1e-4
    assert dssim.dssim_pixels(x, x) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_host_and_device_maps_agree_everywhere(kind: str) -> None:
    x, delta = picture(kind), noise(6, (40, 33), 0.03)
    host = dssim.clean(x)
    device = dssim.clean(jnp.asarray(x))
    ours = dssim.dssim_map(host, dssim.change(host, delta), 0.5)
    on_device = dssim.dssim_map(device, dssim.change(device, jnp.asarray(delta)), 0.5)
    assert ours.shape == (30, 23)
    np.testing.assert_allclose(ours, on_device, atol=1e-4)


def test_scale_scales_the_change() -> None:
    """The rational function of t is DSSIM of x + t * delta, not an approximation to it."""
    x, delta = jnp.asarray(picture("fine")), jnp.asarray(noise(8, (40, 33), 0.1))
    original = dssim.clean(x)
    for t in (0.0, 0.1, 0.5, 1.0):
        rational = float(dssim.dssim_map(original, dssim.change(original, delta), t).mean())
        assert rational == pytest.approx(oracle(x, x + t * delta), abs=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("x", "y"),
    [((10, 40, 3), (10, 40, 3)), ((40, 10, 3), (40, 10, 3)), ((20, 20, 3), (20, 21, 3)), ((0, 0, 3), (0, 0, 3))],
)
def test_pictures_that_cannot_be_compared_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one size, at least 11 pixels"):
        dssim.dssim_pixels(np.zeros(x, np.uint8), np.zeros(y, np.uint8))


def test_smallest_picture_is_one_window() -> None:
    assert dssim.dssim_pixels(np.zeros((11, 11, 3), np.uint8), np.full((11, 11, 3), 255, np.uint8)) > 0.49


# --- largest_scale ---------------------------------------------------------------------------------------------


@jax.jit
def largest(x: jax.Array, delta: jax.Array, weights: jax.Array, rho: jax.Array) -> jax.Array:
    original = dssim.clean(x)
    return dssim.largest_scale(original, dssim.change(original, delta), weights=weights, rho=rho)


@jax.jit
def weighted(x: jax.Array, delta: jax.Array, weights: jax.Array) -> jax.Array:
    original = dssim.clean(x)
    return (dssim.dssim_map(original, dssim.change(original, delta)) * weights).sum()


def half_weights() -> jax.Array:
    weights = np.zeros((30, 23), np.float32)
    weights[:, :12] = 1
    return jnp.asarray(weights / weights.sum())


@pytest.mark.parametrize("rho", [1e-4, 0.004, 0.017, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_largest_scale_is_feasible_and_maximal(kind: str, rho: float) -> None:
    """Feasible within float rounding of the sum (2e-6), and one notch of 2^-14 further is past the budget."""
    x, delta, weights = jnp.asarray(picture(kind)), jnp.asarray(noise(9, (40, 33), 0.8)), half_weights()
    scale = largest(x, delta, weights, jnp.float32(rho))
    assert 0 < float(scale) < 1
    assert float(weighted(x, delta * scale, weights)) <= rho + 2e-6
    assert float(weighted(x, delta * (scale + 1.5 * RESOLUTION), weights)) > rho - 2e-6


@given(
    seed=st.integers(0, 1000),
    size=st.floats(0.01, 1.0),
    rhos=st.lists(st.floats(1e-4, 0.4), min_size=2, max_size=2).map(sorted),
)
@settings(max_examples=40, deadline=None)
def test_largest_scale_grows_with_rho(seed: int, size: float, rhos: list[float]) -> None:
    x, delta, weights = jnp.asarray(picture("fine")), jnp.asarray(noise(seed, (40, 33), size)), half_weights()
    lower, upper = (largest(x, delta, weights, jnp.float32(rho)) for rho in rhos)
    assert 0 <= float(lower) <= float(upper) <= 1
    for rho, scale in zip(rhos, (lower, upper), strict=True):
        assert float(weighted(x, delta * scale, weights)) <= rho + 2e-6


def test_change_within_the_budget_is_left_as_it_is() -> None:
    x, delta = jnp.asarray(picture("fine")), jnp.asarray(noise(10, (40, 33), 0.01))
    assert float(largest(x, delta, half_weights(), jnp.float32(0.1))) == 1.0
    assert float(largest(x, 0 * delta, half_weights(), jnp.float32(1e-4))) == 1.0


def test_windows_without_weight_do_not_count() -> None:
    """A change far from the weighted windows costs nothing; the same change inside them does."""
    outside = np.zeros((40, 33, 3), np.float32)
    outside[:, 24:] = 0.5  # windows of columns 0-11 see pixels of columns 0-21
    x, weights = jnp.asarray(picture("fine")), half_weights()
    assert float(largest(x, jnp.asarray(outside), weights, jnp.float32(1e-4))) == 1.0
    assert float(largest(x, jnp.asarray(outside[:, ::-1].copy()), weights, jnp.float32(1e-4))) < 0.5
