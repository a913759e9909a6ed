"""Geometry of one face: the canvas cut out of the photo, and cloaks composited back into it.

The canvas is the face turned upright by its landmarks at a fixed size, with context. Cutting is resampling,
so the canvas is never pasted back: only the *change* made on it is warped onto the photo and added there.
No change therefore leaves every pixel of the photo as it was, and there is no seam to hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int16, Real, UInt8

from engine.config import CANVAS, REGION, TEMPLATE
from engine.types import Face

FEATHER = 8.0
"""Canvas pixels over which the cloak fades in from the edge of the face region."""
STRIP = 64
"""Rows of the photo that changes are added to at once."""


class Cut(NamedTuple):
    """One face, ready to be cloaked.

    canvas: (c, c, 3) in [0, 1], black outside the photo. mask: (c, c, 1) in [0, 1], where and how strongly the
    cloak may act. region: (c, c) bool, where the budget is measured. matrix: (2, 3), photo to canvas.
    """

    canvas: Float32[np.ndarray, "c c 3"]
    mask: Float32[np.ndarray, "c c 1"]
    region: np.ndarray
    matrix: np.ndarray


def central(boxes: Sequence[Real[np.ndarray, "4"]], size: tuple[int, int]) -> int:
    """Index of the box (x, y, width, height) whose centre is nearest to the middle of a photo.

    size: of the photo, (height, width). In a collection by person that face is the person's.
    """
    middle = np.array([size[1], size[0]]) / 2
    centres = np.array([np.asarray(box[:2]) + np.asarray(box[2:]) / 2 for box in boxes])
    return int(np.linalg.norm(centres - middle, axis=1).argmin())


def similarity(landmarks: Float32[np.ndarray, "5 2"]) -> np.ndarray:
    """The rotation, scale and shift (2, 3) that bring landmarks nearest to the template (Umeyama 1991).

    Raises ValueError when the landmarks coincide, are not finite or have no orientation.
    """
    source, goal = np.asarray(landmarks, np.float64), np.asarray(TEMPLATE, np.float64)
    if not np.isfinite(source).all():
        raise ValueError(f"landmarks must be finite; got {source.tolist()}")
    from_mean, to_mean = source.mean(0), goal.mean(0)
    a, b = source - from_mean, goal - to_mean
    spread = (a * a).sum()
    if spread < 1e-6:
        raise ValueError(f"landmarks must be five distinct points; got {source.tolist()}")
    # In two dimensions the rotation is closed-form, and a mirrored solution cannot come out.
    cosine = (a * b).sum() / spread
    sine = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / spread
    if np.hypot(cosine, sine) * np.sqrt(spread) < 0.05 * np.linalg.norm(b):  # their correlation: 1 for a perfect fit
        raise ValueError(f"landmarks must lie like those of a face; got {source.tolist()}")
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.concatenate([turn, (to_mean - turn @ from_mean)[:, None]], 1)


def region_box(face: Face, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the face region inside a photo of `size` (height, width).

    The square of side 1.3 x the longer side of the face box, centred on it, cut off at the border.
    """
    left, top, width, height = (float(value) for value in face.box)
    half = max(width, height) * REGION / 2
    x, y = left + width / 2, top + height / 2
    edges = (y - half, x - half, y + half, x + half)
    limits = (size[0], size[1], size[0], size[1])
    return tuple(min(max(round(edge), 0), limit) for edge, limit in zip(edges, limits, strict=True))  # type: ignore[return-value]


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.concatenate([matrix, [[0, 0, 1]]]) if len(matrix) == 2 else matrix


def scale_of(matrix: np.ndarray) -> float:
    """Canvas pixels per photo pixel."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def cut(pixels: UInt8[np.ndarray, "h w 3"], face: Face) -> Cut:
    """Cut the canvas of one face out of an upright RGB photo; anti-aliased when it shrinks.

    Raises ValueError when the landmarks are degenerate or the face lies outside the photo.

    Example:
        >>> cut(photo.pixels, face).canvas.shape
        (176, 176, 3)
    """
    matrix = similarity(face.landmarks)
    top, left, bottom, right = _footprint(matrix, pixels.shape[:2])
    if bottom - top < 2 or right - left < 2:
        raise ValueError(f"face at {face.box.tolist()} lies outside a photo of {pixels.shape[1]}x{pixels.shape[0]}")
    patch = pixels[top:bottom, left:right].astype(np.float32)
    local = _square(matrix) @ _shift(left, top)
    scale = scale_of(matrix)
    if scale < 1:
        width = max(1, round(patch.shape[1] * scale))
        height = max(1, round(patch.shape[0] * scale))
        x_scale, y_scale = patch.shape[1] / width, patch.shape[0] / height
        patch = cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA)
        # Pixel centres: position p of the small patch is (p + .5) * scale - .5 of the large one.
        local = local @ np.array([[x_scale, 0, x_scale / 2 - 0.5], [0, y_scale, y_scale / 2 - 0.5], [0, 0, 1]])
    patch /= 255  # once it is small
    warp = {"M": local[:2], "dsize": (CANVAS, CANVAS), "flags": cv2.INTER_LINEAR}
    canvas = cv2.warpAffine(patch, **warp)
    inside = cv2.warpAffine(np.ones(patch.shape[:2], np.float32), **warp) > 0.999
    distance = _depth(face, matrix)
    region = (distance >= 0) & inside
    mask = np.clip(distance / FEATHER, 0, 1) * inside
    return Cut(canvas, mask[..., None].astype(np.float32), region, matrix)


def _depth(face: Face, matrix: np.ndarray) -> np.ndarray:
    """How deep each canvas pixel lies inside region and canvas, in canvas pixels; negative outside."""
    scale = scale_of(matrix)
    inverse = cv2.invertAffineTransform(matrix)
    grid = np.arange(CANVAS, dtype=np.float64)
    x = inverse[0, 0] * grid + inverse[0, 1] * grid[:, None] + inverse[0, 2]
    y = inverse[1, 0] * grid + inverse[1, 1] * grid[:, None] + inverse[1, 2]
    left, top, width, height = face.box.astype(np.float64)
    half = max(width, height) * REGION / 2
    depth = half - np.maximum(np.abs(x - left - width / 2), np.abs(y - top - height / 2))
    edge = np.minimum(grid, CANVAS - 1 - grid)
    return np.minimum(depth * scale, np.minimum(edge, edge[:, None]))


def _footprint(matrix: np.ndarray, size: Sequence[int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the photo's pixels that the canvas touches, with two pixels to spare."""
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [CANVAS, 0, 1], [0, CANVAS, 1], [CANVAS, CANVAS, 1]], np.float64) @ inverse.T
    margin = 2 + 2 / scale_of(matrix)
    low = np.floor(corners.min(0) - margin).astype(int)
    high = np.ceil(corners.max(0) + margin).astype(int)
    (left, top), (right, bottom) = np.clip(low, 0, size[::-1]), np.clip(high, 0, size[::-1])
    return int(top), int(left), int(bottom), int(right)


class Warped(NamedTuple):
    """A change made on a canvas, as it is on the photo.

    box: (top, left, bottom, right) of what it reaches. change: (h, w) if it is achromatic, else (h, w, 3), in units of
    [0, 1].
    """

    box: tuple[int, int, int, int]
    change: Float32[np.ndarray, "h w *channels"]


def composite(
    pixels: UInt8[np.ndarray, "h w 3"],
    matrices: Sequence[np.ndarray],
    deltas: Sequence[Float32[np.ndarray, "c c 3"]],
) -> UInt8[np.ndarray, "h w 3"]:
    """Add changes made on canvases to a photo: warped to native size, summed where faces overlap, rounded once.

    deltas: in units of [0, 1], already masked. Returns new pixels; those that no change reaches are bit-identical.
    To try several scales, `warp` once and `add` each time.
    """
    return add(pixels, warp(pixels.shape[:2], matrices, deltas))


def warp(
    size: Sequence[int], matrices: Sequence[np.ndarray], deltas: Sequence[Float32[np.ndarray, "c c 3"]]
) -> list[Warped]:
    """The changes as they are on a photo of `size` (height, width), for `add`; in the order of the faces.

    An achromatic change takes 4 bytes a pixel that it reaches, another one 12.
    """
    boxes = [_footprint(matrix, size) for matrix in matrices]
    triples = zip(boxes, deltas, matrices, strict=True)
    return [Warped(box, _warp_back(delta, matrix, box)) for box, delta, matrix in triples]


def add(
    pixels: UInt8[np.ndarray, "h w 3"], warped: Sequence[Warped], scale: Sequence[float] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Add warped changes to the photo of their size, each times its scale (1 by default).

    Changes are summed where they overlap, and rounded once. Returns new pixels.

    Example:
        >>> changes = warp(photo.size, [one.matrix], [delta])
        >>> weaker = add(photo.pixels, changes, [0.5])
    """
    amounts = [1.0] * len(warped) if scale is None else list(scale)
    pairs = list(zip(warped, amounts, strict=True))
    # A float sum depends on its order in the last bit, so faces that overlap are summed in one order of their own.
    pairs.sort(key=lambda pair: (pair[0].box, pair[1], pair[0].change.tobytes() if len(pairs) > 1 else b""))
    result = pixels.copy()
    for (top, left, bottom, right), _ in (placed for placed, _ in pairs):
        # In strips: what is worked on stays in the processor's cache, and memory does not grow with the face.
        for first in range(top, bottom, STRIP):
            strip = first, left, min(first + STRIP, bottom), right
            place = np.s_[first : strip[2], left:right]
            # Every box gets the sum of all changes that reach it, so the order of faces does not matter.
            result[place] = cv2.add(pixels[place], _levels(strip, pairs), dtype=cv2.CV_8U)  # stops at 0 and 255
    return result


def _levels(strip: tuple[int, int, int, int], pairs: Sequence[tuple[Warped, float]]) -> Int16[np.ndarray, "h w 3"]:
    """The sum of all changes in a strip of the photo, in whole levels of 255."""
    top, left, bottom, right = strip
    total: np.ndarray | None = None
    for (box, change), amount in pairs:
        y0, x0, y1, x1 = max(top, box[0]), max(left, box[1]), min(bottom, box[2]), min(right, box[3])
        if y0 >= y1 or x0 >= x1:
            continue
        part = change[y0 - box[0] : y1 - box[0], x0 - box[1] : x1 - box[1]] * np.float32(amount * 255)
        if total is None:
            total = np.zeros((bottom - top, right - left, *part.shape[2:]), np.float32)
        if part.ndim != total.ndim:
            part, total = (np.stack([array] * 3, axis=2) if array.ndim == 2 else array for array in (part, total))
        total[y0 - top : y1 - top, x0 - left : x1 - left] += part
    assert total is not None
    levels = np.rint(total, out=total).astype(np.int16)
    return levels if levels.ndim == 3 else cv2.merge([levels] * 3)


def _warp_back(
    delta: Float32[np.ndarray, "c c 3"], matrix: np.ndarray, box: tuple[int, int, int, int]
) -> Float32[np.ndarray, "h w *channels"]:
    top, left, bottom, right = box
    scale = scale_of(matrix)
    if (delta == delta[..., :1]).all():
        delta = delta[..., 0]
    delta = np.ascontiguousarray(delta, np.float32)
    if scale > 1:  # the photo is coarser than the canvas: remove what it cannot hold
        delta = cv2.GaussianBlur(
            delta, (0, 0), 0.5 * float(np.sqrt(scale * scale - 1)) + 1e-3, borderType=cv2.BORDER_CONSTANT
        )
    local = (_square(matrix) @ _shift(left, top))[:2]
    return cv2.warpAffine(delta, local, (right - left, bottom - top), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
