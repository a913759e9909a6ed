"""The set of allowed cloaks, and what brings a step back into it. One face; vmap over a batch."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from engine import dssim
from engine.cloak.objective import Problem

COARSE = 4.0
"""Sigma, in canvas pixels, of the blur that leaves the coarse part of a gradient."""


def shape(face: Problem, delta: Float[Array, "c c k"]) -> Float[Array, "c c 3"]:
    """The change as three channels: only inside the mask, achromatic for a grey photo, never past black or white."""
    delta = jnp.where(face.grey, delta.mean(axis=-1, keepdims=True), delta) * face.mask
    return jnp.clip(face.original.image + delta, 0.0, 1.0) - face.original.image


def budget(face: Problem, delta: Float[Array, "c c 3"], *, rho: Float[Array, ""] | float) -> Float[Array, "c c 3"]:
    """The cloak scaled down to a DSSIM of at most rho. Scaling keeps it within `shape`, so the result is feasible."""
    statistics = dssim.change(face.original, delta)
    return delta * dssim.largest_scale(face.original, statistics, weights=face.weights, rho=rho)


def cost(face: Problem, delta: Float[Array, "c c 3"]) -> Float[Array, ""]:
    """DSSIM of the face region on the canvas."""
    return (dssim.dssim_map(face.original, dssim.change(face.original, delta)) * face.weights).sum()


def room(face: Problem) -> Float[Array, "c c 1"]:
    """How much change a pixel takes for the same DSSIM: the local standard deviation of the photo, SSIM's C2 added.

    DSSIM's second-order cost of a change is about its square over (2 * variance + C2). Its full inverse crowds the
    cloak onto edges, where single pixels show; its root keeps the gain in distance.
    """
    variance = face.original.variance.mean(axis=-1, keepdims=True)
    edge = (face.mask.shape[0] - variance.shape[0]) // 2
    variance = jnp.pad(variance, ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    return jnp.sqrt(2 * variance + dssim.C2)


def direction(
    face: Problem, gradient: Float[Array, "c c k"], *, smoothing: float, coarse: float
) -> Float[Array, "c c k"]:
    """Direction of a step. smoothing and coarse: as in `Recipe`.

    A coarse change is a shade that DSSIM hardly counts, as the mean of its windows is large beside it. Networks see
    shades too, and with them those that took no part are moved further (benchmarks/README.md).
    """
    spaced = room(face)
    fine = smooth(gradient, sigma=smoothing) * spaced
    return fine + coarse * smooth(gradient * spaced, sigma=COARSE) if coarse else fine


def smooth(image: Float[Array, "c c k"], *, sigma: float) -> Float[Array, "c c k"]:
    """Gaussian blur of the same size, sigma in canvas pixels, as two matrix products; 0 leaves it alone."""
    if sigma == 0:
        return image
    rows = _smoother(image.shape[0], sigma)
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, rows)


def _smoother(size: int, sigma: float) -> Float32[np.ndarray, "n n"]:
    position = np.arange(size)
    rows = np.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
