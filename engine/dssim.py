"""Structural dissimilarity, DSSIM = (1 - SSIM) / 2 (Wang et al. 2004), as the budget of a cloak.

Window 11x11 Gaussian, sigma 1.5, K1 = .01, K2 = .03, range 1, VALID, mean over RGB: `dm_pix.ssim`'s defaults.

Everything is written in the change `delta` and not in the changed image. It takes mu and var of the original, and the
blurred delta, x * delta and delta^2. With these the SSIM of x + t * delta is a rational function of t. So finding the
largest feasible scale needs three blurs, however many scales are tried. On the device a blur is two products with a
banded matrix. On the host, at the photo's native size, `dssim_pixels` has the same formula in place and in strips.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

WINDOW = 11
SIGMA = 1.5
STRIP = 64
"""Rows of windows that `dssim_pixels` measures at once: what it works on stays in the processor's cache."""
C1 = 0.01**2
C2 = 0.03**2


class Clean(NamedTuple):
    """The original's part of SSIM: image (h, w, 3) in [0, 1], windowed mean and variance (h-10, w-10, 3)."""

    image: Any
    mean: Any
    variance: Any


class Change(NamedTuple):
    """The change's part: windowed mean of delta, covariance of image and delta, variance of delta."""

    mean: Any
    covariance: Any
    variance: Any


def _taps() -> Float32[np.ndarray, 11]:
    position = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (position / SIGMA) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def _band(size: int) -> Float32[np.ndarray, "m n"]:
    """The VALID blur of a row of `size` pixels as a (size - 10, size) matrix."""
    band = np.zeros((size - WINDOW + 1, size), np.float32)
    for row in range(len(band)):
        band[row, row : row + WINDOW] = _taps()
    return band


def _blur(image: Any) -> Any:
    """VALID Gaussian blur of (h, w, 3), as two matrix products."""
    height, width = image.shape[:2]
    # "highest": TF32 would leave an error of 1e-3 in E[x^2] - E[x]^2, as large as the quantity itself.
    return jnp.einsum("ih,hwc,jw->ijc", _band(height), image, _band(width), precision="highest")


def clean(image: Any) -> Clean:
    """Statistics of the original (h, w, 3) in [0, 1], h and w >= 11."""
    mean = _blur(image)
    return Clean(image, mean, (_blur(image * image) - mean * mean).clip(0.0))


def change(original: Clean, delta: Any) -> Change:
    """Statistics of a change (h, w, 3) of `original`, in the same units."""
    mean = _blur(delta)
    # Variance must be non-negative, and Cauchy-Schwarz bounds the covariance. Rounding breaks neither by much.
    # The additive C2 keeps SSIM and its gradient finite on flat images without further guards.
    variance = (_blur(delta * delta) - mean * mean).clip(0.0)
    return Change(mean, _blur(original.image * delta) - original.mean * mean, variance)


def dssim_map(original: Clean, delta: Change, scale: Any = 1.0) -> Any:
    """DSSIM of image + scale * delta at every window, (h-10, w-10), mean over channels."""
    mean = original.mean + scale * delta.mean
    joint = original.variance + scale * delta.covariance
    variance = (joint + scale * delta.covariance + scale * scale * delta.variance).clip(0.0)
    luminance = (2 * original.mean * mean + C1) / (original.mean**2 + mean**2 + C1)
    structure = (2 * joint + C2) / (original.variance + variance + C2)
    return (1 - luminance * structure).mean(axis=-1) / 2


def dssim(x: Float[Array, "h w 3"], y: Float[Array, "h w 3"]) -> Float[Array, ""]:
    """Mean DSSIM of two images in [0, 1]; agrees with (1 - dm_pix.ssim) / 2 to 1e-5.

    Example:
        >>> float(dssim(jnp.zeros((16, 16, 3)), jnp.zeros((16, 16, 3))))
        0.0
    """
    original = clean(x)
    return dssim_map(original, change(original, y - x)).mean()


def largest_scale(
    original: Clean, delta: Change, *, weights: Float[Array, "m n"], rho: Any, bisections: int = 14
) -> Float[Array, ""]:
    """The largest scale in [0, 1] found whose weighted DSSIM is at most rho: bisection from below, so feasible.

    weights: non-negative, sum 1, over the windows of `dssim_map`. Resolution 2^-bisections.
    """

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        fits = (dssim_map(original, delta, middle) * weights).sum() <= rho
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    whole = (dssim_map(original, delta) * weights).sum() <= rho
    low, _ = jax.lax.fori_loop(0, bisections, halve, (jnp.zeros(()), jnp.ones(())))
    return jnp.where(whole, 1.0, low)


def dssim_pixels(x: UInt8[np.ndarray, "h w 3"], y: UInt8[np.ndarray, "h w 3"]) -> float:
    """Mean DSSIM of two 8-bit pictures of the same size, both sides >= 11, on the host without JAX.

    The budget is held to this figure. `x` is the face region of the photo as it was, `y` the same pixels of the file as
    it was encoded.
    """
    if x.shape != y.shape or min(x.shape[:2]) < WINDOW:
        raise ValueError(f"two pictures of one size, at least {WINDOW} pixels a side, are needed: {x.shape}, {y.shape}")
    total, count = 0.0, x.shape[0] - WINDOW + 1
    for top in range(0, count, STRIP):
        rows = slice(top, min(top + STRIP, count) + WINDOW - 1)
        total += _dissimilarity(_unit(x[rows]), _unit(y[rows]))
    return total / (count * (x.shape[1] - WINDOW + 1) * x.shape[2]) / 2


def _unit(pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    values = pixels.astype(np.float32)
    values /= 255
    return values


def _dissimilarity(image: Float32[np.ndarray, "h w 3"], changed: Float32[np.ndarray, "h w 3"]) -> float:
    """Sum of 1 - SSIM over windows and channels, as in `dssim_map`; both arguments are used up.

    In place: an array that has to be fetched from memory takes longer than what is done to it.
    """
    delta = changed
    delta -= image
    mean, moved = _windows(image), _windows(delta)
    variance = _windows(image * image)
    variance -= mean * mean
    np.maximum(variance, 0, out=variance)
    spread = _windows(delta * delta)
    spread -= moved * moved
    np.maximum(spread, 0, out=spread)
    image *= delta
    covariance = _windows(image)
    covariance -= mean * moved
    moved += mean  # mean of the changed picture
    joint = covariance
    joint += variance  # covariance of both pictures
    spread += joint
    spread += joint
    spread -= variance
    np.maximum(spread, 0, out=spread)  # variance of the changed picture
    similarity = mean * moved
    similarity *= 2
    similarity += C1
    joint *= 2
    joint += C2
    similarity *= joint
    mean *= mean
    moved *= moved
    mean += moved
    mean += C1
    variance += spread
    variance += C2
    mean *= variance
    similarity /= mean
    return similarity.size - float(similarity.sum(dtype=np.float64))


def _windows(image: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "m n 3"]:
    """VALID Gaussian blur on the host."""
    half = WINDOW // 2
    return cv2.sepFilter2D(image, -1, _taps(), _taps())[half:-half, half:-half]
