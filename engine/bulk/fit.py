"""The budget as a guarantee: cloaks are composited, encoded, measured on the encoded file, and scaled until they fit.

A cloak is only ever scaled down. On a large face the same change costs less DSSIM than on the canvas, but scaling it up
to spend what is left makes it visible and moves embeddings no further than the canvas allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from engine.bulk.prepare import Prepared
from engine.dssim import dssim_pixels
from engine.faces import composite
from engine.types import PhotoError

TRIALS = 12
AIM = 0.99
"""Share of the amplitude that would just fit which a rescaled cloak gets, since that is an estimate."""


@dataclass(frozen=True)
class Fitted:
    """A cloaked photo. data: the encoded file, pixels: what a viewer sees of it. dssim, scale: for each face."""

    data: bytes
    pixels: UInt8[np.ndarray, "h w 3"]
    dssim: tuple[float, ...]
    scale: tuple[float, ...]


def fit(
    prepared: Prepared,
    deltas: Sequence[Float32[np.ndarray, "c c 3"]],
    *,
    rho: float,
    encode: Callable[[UInt8[np.ndarray, "h w 3"]], bytes],
    decode: Callable[[bytes], UInt8[np.ndarray, "h w 3"]],
) -> Fitted:
    """The photo with its cloaks, each face region within rho in the pixels that come back from the encoded bytes.

    Raises PhotoError where no scale fits, because the format alone costs more than the budget.
    """
    original = prepared.photo.pixels
    matrices = [one.matrix for one in prepared.cuts]

    def cloaked(scale: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
        scaled = [delta * np.float32(s) for delta, s in zip(deltas, scale, strict=True)]
        pixels = composite(original, matrices, scaled)
        return np.repeat(_grey(pixels), 3, axis=2) if prepared.photo.grey else pixels

    def measure(pixels: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        boxes = [np.s_[top:bottom, left:right] for top, left, bottom, right in prepared.regions]
        return np.array([dssim_pixels(original[box], pixels[box]) for box in boxes])

    scale = np.ones(len(deltas))
    for _ in range(3):  # without the codec, which is the slow part
        cost = measure(cloaked(scale))
        if (cost <= rho).all():
            break
        scale = scale * _together(_factor(cost, rho, AIM), prepared.regions)
    for trial in range(TRIALS):
        data = encode(cloaked(scale))
        pixels = decode(data)
        cost = measure(pixels)
        if (cost <= rho).all():
            return Fitted(data, pixels, tuple(cost.tolist()), tuple(scale.tolist()))
        # The codec's own loss does not shrink with the cloak: later trials give more ground.
        scale = scale * _together(_factor(cost, rho, AIM - 0.05 * trial), prepared.regions)
    raise PhotoError(
        f"Encoding alone changes the face by more than the budget of {rho:g}: "
        "choose --format png or a higher --quality."
    )


def _factor(cost: np.ndarray, rho: float, aim: float) -> np.ndarray:
    """What to scale each face's cloak by: DSSIM is nearly quadratic in the scale. Never up."""
    return np.where(cost > rho, np.sqrt(rho / np.maximum(cost, 1e-9)) * aim, 1.0)


def _grey(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 1"]:
    # The deltas of a grey photo are achromatic up to float rounding, so at most one level is decided here.
    return np.rint(pixels.mean(axis=2, keepdims=True, dtype=np.float32)).astype(np.uint8)


def _together(factor: np.ndarray, regions: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """Faces that overlap spend one budget: each takes the smallest factor among those it overlaps."""
    result = factor.copy()
    for i, (top, left, bottom, right) in enumerate(regions):
        for j, other in enumerate(regions):
            if top < other[2] and other[0] < bottom and left < other[3] and other[1] < right:
                result[i] = min(result[i], factor[j])
    return result
