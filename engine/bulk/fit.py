"""The budget as a guarantee: cloaks are composited, encoded, measured on the encoded file, and scaled until they fit.

The cloak of a face gets the scale at which the file spends the budget, and no more than MOST. That holds whatever
resampling and the codec take or leave. The cloak of a large face is not scaled up. There the same change costs far less
DSSIM than on the canvas, and to spend what is left would make it visible.

The cost of a scale is measured on the face's part of the photo alone, encoded as the whole will be. The whole photo is
then encoded, mostly once, and the figure that counts is measured on it. The whole comes first if large faces are much
of the photo. So it does if some bands of them say that they cost little. What the codec costs by itself is measured
only if it could matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from engine.bulk.prepare import Prepared
from engine.config import CANVAS
from engine.dssim import dssim_pixels
from engine.faces import Warped, add, warp
from engine.photo import Encoder
from engine.types import PhotoError

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels."""
Seen = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]]

TRIALS = 12
MOST, LARGE = 1.1, 264
"""Largest scale of a cloak, and the longer side of a region, in pixels, from which on it is 1."""
AIM = 0.99
"""Share of the amplitude that would just fit which a rescaled cloak gets, since that is an estimate."""
SPENT = 0.97
"""Share of the budget at which the search for the scale ends."""
ROUNDS = 6
"""Scales that are tried on a face's part of the photo."""
TOO_COARSE, FINE = 0.5, 0.25
"""Shares of the budget. A codec whose own loss is more than the first is made finer until it is under the second."""
MOSTLY = 0.25
"""Share of the photo's pixels around large faces from which on their parts cost as much to try as the whole."""
BAND, APART = 74, 256
"""Rows of a band of a large face, of which there is one in so many rows."""
LIKELY = 0.8
"""Share of what is little enough that bands may cost: a fourth of a face is an estimate."""
GRID = 16
"""Pixels of the largest blocks that codecs cut a photo into."""


@dataclass(frozen=True)
class Fitted:
    """A cloaked photo. data: the encoded file. pixels: what a viewer sees of it. dssim, scale: for each face.

    notes: what is to be known about the file, one sentence each; empty unless `fit` got an `Encoder`.
    """

    data: bytes
    pixels: UInt8[np.ndarray, "h w 3"]
    dssim: tuple[float, ...]
    scale: tuple[float, ...]
    notes: tuple[str, ...] = ()


def fit(
    prepared: Prepared,
    deltas: Sequence[Float32[np.ndarray, "c c 3"]],
    *,
    rho: float,
    encode: Callable[[UInt8[np.ndarray, "h w 3"]], bytes],
    decode: Callable[[bytes], UInt8[np.ndarray, "h w 3"]],
) -> Fitted:
    """The photo with its cloaks, each face region within rho in the pixels that come back from the encoded bytes.

    encode: an `Encoder` takes fewer encodings of the whole photo than another function, and may be made finer. Raises
    PhotoError if no scale fits, because the format alone costs more than the budget.
    """
    photo, regions = prepared.photo, prepared.regions
    warped = warp(photo.size, [cut.matrix for cut in prepared.cuts], deltas)

    def written(scale: np.ndarray) -> Fitted:
        data = encode(_cloaked(photo.pixels, warped, scale, grey=photo.grey))
        pixels = decode(data)
        cost = tuple(dssim_pixels(photo.pixels[box], pixels[box]) for box in map(_slices, regions))
        notes = encode.notes if isinstance(encode, Encoder) else ()
        return Fitted(data, pixels, cost, tuple(scale.tolist()), notes)

    # No larger scale is allowed. A codec is not too coarse if its loss and the cloak together cost so little.
    full, enough = np.ones(len(deltas)), TOO_COARSE * rho
    large, known = _large(regions), None
    shown = encode.part if isinstance(encode, Encoder) else _as_is
    if large and (_share(regions, photo.size) >= MOSTLY or _roughly(prepared, deltas, shown).max() <= LIKELY * enough):
        fitted = written(full)
        if max(fitted.dssim) <= enough:
            return fitted
        if isinstance(encode, Encoder):
            known = np.array(fitted.dssim)
        del fitted
    parts = [_part(prepared, deltas, region) for region in regions]

    def predicted(scale: np.ndarray, seen: Seen) -> np.ndarray:
        return np.array([part.cost(scale, seen, grey=photo.grey) for part in parts])

    seen: Seen = _as_is  # without the codec, if all that is known of it is a function
    lost = np.zeros(len(deltas))
    if isinstance(encode, Encoder) and not encode.exact:
        if large and known is None:
            known = predicted(full, encode.part)
        if known is None or known.max() > enough:
            requested = encode
            encode, lost = _fine(encode, lambda encoder: predicted(0 * full, encoder.part), rho)
            known = known if encode is requested else None
        seen = encode.part
    scale = _spent(lambda scale: predicted(scale, seen), lost, regions, rho=rho, known=known)
    for trial in range(TRIALS):
        fitted = written(scale)
        cost = np.array(fitted.dssim)
        if (cost <= rho).all():
            return fitted
        del fitted
        # The codec's own loss does not shrink with the cloak: later trials give more ground.
        scale = scale * _together(_factor(cost, rho, AIM - 0.05 * trial), regions)
    raise PhotoError(
        f"Encoding alone changes the face by more than the budget of {rho:g}: choose format png or a higher quality."
    )


def _large(regions: Sequence[Box]) -> bool:
    """Whether no cloak may be scaled up."""
    return all(max(bottom - top, right - left) >= LARGE for top, left, bottom, right in regions)


def _share(regions: Sequence[Box], size: tuple[int, int]) -> float:
    """Share of the photo's pixels that the regions take, overlaps counted twice."""
    return sum((bottom - top) * (right - left) for top, left, bottom, right in regions) / (size[0] * size[1])


class _Part(NamedTuple):
    """The surroundings of one face region, with the faces whose canvas reaches into them.

    pixels: of the original. inner: the region in them. warped: the changes of `faces`, as they are on these pixels.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    inner: Box
    faces: list[int]
    warped: list[Warped]

    def cost(self, scale: np.ndarray, seen: Seen, *, grey: bool) -> float:
        """DSSIM of the region with the cloaks at this scale. seen: what becomes of pixels that are written and read."""
        amount = scale[self.faces]
        pixels = _cloaked(self.pixels, self.warped, amount, grey=grey) if amount.any() else self.pixels
        pixels = seen(pixels)
        box = _slices(self.inner)
        return dssim_pixels(self.pixels[box], pixels[box])


def _part(prepared: Prepared, deltas: Sequence[Float32[np.ndarray, "c c 3"]], region: Box) -> _Part:
    height, width = prepared.photo.size
    top, left = (max(0, edge // GRID - 1) * GRID for edge in region[:2])
    bottom, right = (
        min(limit, (-(-edge // GRID) + 1) * GRID) for edge, limit in zip(region[2:], (height, width), strict=True)
    )
    shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], np.float64)
    faces, matrices = [], []
    for face, cut in enumerate(prepared.cuts):
        corners = np.array([[0, 0, 1], [CANVAS, 0, 1], [0, CANVAS, 1], [CANVAS, CANVAS, 1]]) @ _inverse(cut.matrix).T
        (low_x, low_y), (high_x, high_y) = corners.min(0), corners.max(0)
        if low_x < right and high_x > left and low_y < bottom and high_y > top:
            faces.append(face)
            matrices.append(cut.matrix @ shift)
    inner = region[0] - top, region[1] - left, region[2] - top, region[3] - left
    pixels = prepared.photo.pixels[top:bottom, left:right]
    return _Part(pixels, inner, faces, warp(pixels.shape[:2], matrices, [deltas[face] for face in faces]))


def _as_is(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return pixels


def _roughly(prepared: Prepared, deltas: Sequence[Float32[np.ndarray, "c c 3"]], seen: Seen) -> np.ndarray:
    """DSSIM of each large face at scale 1, of bands of it alone."""
    full, grey = np.ones(len(deltas)), prepared.photo.grey

    def cost(region: Box) -> float:
        bands = [_part(prepared, deltas, band).cost(full, seen, grey=grey) for band in _bands(region)]
        return sum(bands) / len(bands)

    return np.array([cost(region) for region in prepared.regions])


def _bands(region: Box) -> list[Box]:
    """Bands of a region, spread evenly."""
    top, left, bottom, right = region
    count = max(1, round((bottom - top) / APART))
    starts = [top + round((index + 0.5) * (bottom - top) / count - BAND / 2) for index in range(count)]
    return [(max(top, start), left, min(bottom, start + BAND), right) for start in starts]


def _inverse(matrix: np.ndarray) -> np.ndarray:
    return cv2.invertAffineTransform(np.asarray(matrix, np.float64))


def _slices(box: Box) -> tuple[slice, slice]:
    top, left, bottom, right = box
    return np.s_[top:bottom, left:right]


def _cloaked(
    pixels: UInt8[np.ndarray, "h w 3"], warped: Sequence[Warped], scale: np.ndarray, *, grey: bool
) -> UInt8[np.ndarray, "h w 3"]:
    result = add(pixels, warped, scale.tolist())
    for top in range(
        0, len(result) if grey else 0, 256
    ):  # in strips: a float copy of the whole takes four times its size
        # The deltas of a grey photo are achromatic up to float rounding, so at most one level is decided here.
        strip = result[top : top + 256]
        strip[:] = np.rint(strip.mean(axis=2, keepdims=True, dtype=np.float32))
    return result


def _fine(encoder: Encoder, loss: Callable[[Encoder], np.ndarray], rho: float) -> tuple[Encoder, np.ndarray]:
    """The encoder, made finer if encoding alone would spend most of the budget, and what encoding costs each face."""
    best, least = encoder, loss(encoder)
    if least.max() <= TOO_COARSE * rho:
        return best, least
    candidate = encoder.raised()
    while candidate is not None and least.max() > FINE * rho:
        cost = loss(candidate)
        if cost.max() < least.max():
            best, least = candidate, cost
        candidate = candidate.raised()
    return best, least


def _spent(
    predicted: Callable[[np.ndarray], np.ndarray],
    lost: np.ndarray,
    regions: Sequence[Box],
    *,
    rho: float,
    known: np.ndarray | None,
) -> np.ndarray:
    """The largest scale of each cloak that is allowed and predicted to cost at most rho.

    lost: what the codec costs. known: what is predicted for scale 1, if that was asked already.
    """
    scale = np.ones(len(lost))
    sides = [max(bottom - top, right - left) for top, left, bottom, right in regions]
    most = np.where(np.array(sides) < LARGE, MOST, 1.0)
    low, high = np.zeros(len(lost)), np.full(len(lost), np.inf)
    for _ in range(ROUNDS):
        cost, known = predicted(scale) if known is None else known, None
        fits = cost <= rho
        low, high = np.where(fits, np.maximum(low, scale), low), np.where(fits, high, np.minimum(high, scale))
        if (fits & ((cost >= SPENT * rho) | (scale >= most))).all():
            break
        # Beyond the codec's own loss DSSIM is nearly quadratic in the scale.
        spare, used = np.maximum(AIM**2 * rho - lost, 0), np.maximum(cost - lost, 1e-9)
        wanted = np.minimum(scale * np.sqrt(spare / used), most)
        wanted = np.where((wanted <= low) | (wanted >= high), (low + np.minimum(high, most)) / 2, wanted)
        scale = scale * _together(wanted / scale, regions)
    # A face that no scale was found for gets the last that was tried: what the whole file costs is measured in the end.
    return _together(np.where(low > 0, low, scale), regions)


def _factor(cost: np.ndarray, rho: float, aim: float) -> np.ndarray:
    """Factor that scales down a cloak over the budget: DSSIM is nearly quadratic in the scale."""
    return np.where(cost > rho, np.sqrt(rho / np.maximum(cost, 1e-9)) * aim, 1.0)


def _together(factor: np.ndarray, regions: Sequence[Box]) -> np.ndarray:
    """Faces that overlap spend one budget: each takes the smallest factor among those it overlaps."""
    result = factor.copy()
    for i, (top, left, bottom, right) in enumerate(regions):
        for j, neighbour in enumerate(regions):
            if top < neighbour[2] and neighbour[0] < bottom and left < neighbour[3] and neighbour[1] < right:
                result[i] = min(result[i], factor[j])
    return result
