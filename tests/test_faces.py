"""engine.faces: what is cut lies where the face is, and what is pasted lands where it was cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from engine.config import CANVAS, REGION, TEMPLATE
from engine.faces import FEATHER, composite, cut, region_box, scale_of, similarity
from engine.types import Face

NO_CHANGE = np.zeros((CANVAS, CANVAS, 3), np.float32)
MIDDLE = np.array([88.0, 98.0])
"""A point of the canvas in the middle of the face."""
ANGLES = (0, 17, 45, 90, 133, 180, 270)


def placement(x: float, y: float, *, scale: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """Canvas to photo (2, 3): MIDDLE at (x, y), `scale` photo pixels a canvas pixel, turned by `angle` degrees."""
    turn = np.deg2rad(angle)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.concatenate([matrix, (np.array([x, y]) - matrix @ MIDDLE)[:, None]], 1)


def mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def face_at(x: float, y: float, *, scale: float = 1.0, angle: float = 0.0, size: float = 76.0) -> Face:
    """A face whose landmarks are the template's under `placement`, in a square box of `size` canvas pixels."""
    landmarks = mapped(placement(x, y, scale=scale, angle=angle), np.array(TEMPLATE))
    side = size * scale
    box = np.array([x - side / 2, y - side / 2, side, side], np.float32)
    return Face(box, landmarks.astype(np.float32), 0.9)


def marker(x: float, y: float, *, sigma: float = 6.0, height: float = 0.2) -> np.ndarray:
    grid = np.arange(CANVAS, dtype=np.float32)
    blob = np.exp(-0.5 * (((grid - x) ** 2)[None, :] + ((grid - y) ** 2)[:, None]) / sigma**2)
    return np.repeat((height * blob)[..., None], 3, axis=2).astype(np.float32)


def centroid(weight: np.ndarray) -> np.ndarray:
    """(x, y) of the centre of mass of (h, w)."""
    total = weight.sum()
    y, x = np.indices(weight.shape)
    return np.array([(x * weight).sum() / total, (y * weight).sum() / total])


# --- the way out and back --------------------------------------------------------------------------------------


@given(
    size=st.tuples(st.integers(2, 320), st.integers(2, 320)),
    middle=st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)),
    scale=st.floats(0.1, 4),
    angle=st.floats(-180, 180),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_no_cloak_leaves_every_pixel_as_it_was(
    size: tuple[int, int], middle: tuple[float, float], scale: float, angle: float, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    faces = [face_at(size[1] * middle[0], size[0] * middle[1], scale=s, angle=angle) for s in (scale, scale * 0.7)]
    cuts, refused = [], []
    for face in faces:
        try:
            cuts.append(cut(pixels, face))
        except ValueError as error:
            refused.append(str(error))
    assert all("outside a photo" in reason for reason in refused)
    before = pixels.copy()
    after = composite(pixels, [cut_face.matrix for cut_face in cuts], [NO_CHANGE] * len(cuts))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(pixels, before)


def test_the_photo_that_was_given_is_not_written_to() -> None:
    pixels = tiny.texture_pixels(0, 200, 200)
    before = pixels.copy()
    face = cut(pixels, face_at(100, 100))
    assert (composite(pixels, [face.matrix], [marker(*MIDDLE)]) != pixels).any()
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("scale", [0.35, 1.0, 2.3])
def test_landmarks_come_to_lie_on_the_template(scale: float, angle: float) -> None:
    face = face_at(210, 190, scale=scale, angle=angle)
    matrix = similarity(face.landmarks)
    np.testing.assert_allclose(mapped(matrix, face.landmarks), TEMPLATE, atol=1e-3)
    assert scale_of(matrix) == pytest.approx(1 / scale, rel=1e-5)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("scale", "tolerance"), [(0.4, 0.15), (1.0, 0.1), (2.3, 0.05)])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (13.4, -9.7)])
def test_cloak_lands_where_the_face_is(
    angle: float, scale: float, tolerance: float, offset: tuple[float, float]
) -> None:
    """A blob on the canvas changes the photo round the point it maps to, and is there when the photo is cut again.

    Tolerances: the centroid in photo pixels within .1, on the canvas within `tolerance` canvas pixels; the height of
    the blob within .03 of .2 where the photo is as fine as the canvas (rounding to 8 bits, two resamplings).
    """
    pixels = tiny.texture_pixels(3, 430, 450, contrast=0.1)
    face, point = face_at(231.3, 214.8, scale=scale, angle=angle), MIDDLE + offset
    before, delta = cut(pixels, face), marker(*point)
    after = composite(pixels, [before.matrix], [delta])

    change = (after.astype(np.float32) - pixels).mean(-1)
    there = mapped(placement(231.3, 214.8, scale=scale, angle=angle), point)
    np.testing.assert_allclose(centroid(change), there, atol=0.1)

    again = cut(after, face)
    seen = (again.canvas - before.canvas).mean(-1)
    np.testing.assert_allclose(centroid(np.where(seen > 0.02, seen, 0)), point, atol=tolerance)
    if scale >= 1:
        np.testing.assert_allclose(seen, delta[..., 0], atol=0.03)


@pytest.mark.parametrize(
    ("x", "y", "point"),
    [(8, 120, (110, 98)), (232, 120, (66, 98)), (120, 6, (88, 120)), (120, 236, (88, 76)), (4, 4, (112, 122))],
)
def test_cloak_lands_on_a_face_at_the_border(x: float, y: float, point: tuple[float, float]) -> None:
    pixels = np.full((240, 240, 3), 128, np.uint8)
    face = face_at(x, y)
    before = cut(pixels, face)
    after = composite(pixels, [before.matrix], [marker(*point, sigma=3)])
    there = mapped(placement(x, y), np.array(point))
    np.testing.assert_allclose(centroid((after.astype(np.float32) - pixels).mean(-1)), there, atol=0.1)
    seen = (cut(after, face).canvas - before.canvas).mean(-1)
    np.testing.assert_allclose(seen, marker(*point, sigma=3)[..., 0], atol=0.03)


@pytest.mark.parametrize("angle", [0, 30, 180])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_only_the_face_region_is_changed(scale: float, angle: float) -> None:
    """The largest cloak that the mask lets through stays inside the region box, two canvas pixels allowed."""
    pixels = tiny.texture_pixels(4, 500, 500)
    face = face_at(250, 240, scale=scale, angle=angle)
    before = cut(pixels, face)
    after = composite(pixels, [before.matrix], [np.float32(0.5) * before.mask * np.ones(3, np.float32)])
    top, left, bottom, right = region_box(face, (500, 500))
    room = int(np.ceil(2 * max(scale, 1)))
    outside = np.ones((500, 500), bool)
    outside[top - room : bottom + room, left - room : right + room] = False
    np.testing.assert_array_equal(after[outside], pixels[outside])
    middle = np.s_[(top + bottom) // 2 - 3 : (top + bottom) // 2 + 3, (left + right) // 2 - 3 : (left + right) // 2 + 3]
    assert (after[middle] > pixels[middle]).all()


@pytest.mark.parametrize("seed", range(4))
def test_overlapping_faces_add_up_in_any_order(seed: int) -> None:
    """Three faces that overlap: the sum of their changes, bit for bit the same in all six orders."""
    pixels = tiny.texture_pixels(seed, 300, 320, contrast=0.05)
    faces = [face_at(130, 140, scale=1.1), face_at(165, 150, scale=0.8, angle=20), face_at(150, 180, angle=-35)]
    matrices = [cut(pixels, face).matrix for face in faces]
    deltas = [0.3 * (tiny.texture(10 * seed + n, CANVAS, CANVAS, contrast=0.1) - 0.5) for n in range(3)]
    alone = [
        composite(pixels, [matrix], [delta]).astype(np.float64) - pixels
        for matrix, delta in zip(matrices, deltas, strict=True)
    ]
    together = composite(pixels, matrices, deltas)
    # Each change alone is rounded once, so the three together are off by at most 1.5 + .5 levels.
    np.testing.assert_allclose(together.astype(np.float64) - pixels, sum(alone), atol=2)
    assert ((alone[0] != 0) & (alone[1] != 0) & (alone[2] != 0)).any()
    for order in itertools.permutations(range(3)):
        again = composite(pixels, [matrices[i] for i in order], [deltas[i] for i in order])
        np.testing.assert_array_equal(again, together)


def test_opposite_changes_of_one_face_cancel() -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    matrix = cut(pixels, face_at(100, 100, angle=33)).matrix
    after = composite(pixels, [matrix, matrix], [marker(*MIDDLE), -marker(*MIDDLE)])
    np.testing.assert_array_equal(after, pixels)


@pytest.mark.parametrize(("start", "height", "end"), [(250, 0.5, 255), (5, -0.5, 0)])
def test_change_stops_at_black_and_white(start: int, height: float, end: int) -> None:
    pixels = np.full((200, 200, 3), start, np.uint8)
    after = composite(pixels, [cut(pixels, face_at(100, 100)).matrix], [marker(*MIDDLE, height=height)])
    assert after[100, 100].tolist() == [end] * 3
    assert ((after >= min(start, end)) & (after <= max(start, end))).all()


# --- the canvas against a reference ----------------------------------------------------------------------------


def coordinate_ramp(side: int) -> np.ndarray:
    """(side, side, 3) uint8 whose channels sum to the x coordinate: an exact ramp of up to 765 pixels."""
    x = np.arange(side)
    return np.repeat(np.stack([x // 3, (x + 1) // 3, (x + 2) // 3], -1)[None], side, axis=0).astype(np.uint8)


@pytest.mark.parametrize("angle", [0, 30, 90, 180])
@pytest.mark.parametrize("scale", [0.3, 0.8, 1.0, 1.3, 2.0, 2.7])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_canvas_pixel_shows_the_photo_pixel_it_maps_to(axis: str, scale: float, angle: float) -> None:
    """On a picture of its own coordinates bilinear resampling is exact, so the canvas must read back its origin.

    Within .02 photo pixels on average (half a pixel of shift would be .5), .3 at most: OpenCV rounds positions to
    1/32, and INTER_AREA weighs the pixels that it takes a part of from their centres.
    """
    ramp = coordinate_ramp(700)
    pixels = ramp if axis == "x" else np.ascontiguousarray(ramp.transpose(1, 0, 2))
    canvas_cut = cut(pixels, face_at(351.7, 348.2, scale=scale, angle=angle))
    read = canvas_cut.canvas.sum(-1, dtype=np.float64) * 255
    grid = np.stack(np.meshgrid(np.arange(CANVAS), np.arange(CANVAS)), -1).astype(np.float64)
    expected = mapped(placement(351.7, 348.2, scale=scale, angle=angle), grid)
    interior = ((expected > 3 * scale) & (expected < 699 - 3 * scale)).all(-1)
    error = (read - expected[..., 0 if axis == "x" else 1])[interior]
    assert interior.mean() > 0.9
    assert abs(error.mean()) < 0.02
    assert np.abs(error).max() < 0.3


@pytest.mark.parametrize("angle", [0, 25, 180])
@pytest.mark.parametrize(("scale", "tolerance"), [(0.4, 0.01), (1.0, 0.01), (3.0, 0.02)])
def test_canvas_agrees_with_a_reference_resampler(scale: float, tolerance: float, angle: float) -> None:
    """scipy's bilinear map_coordinates on a smooth picture, after its box filter where the canvas is coarser."""
    pixels = tiny.texture_pixels(8, 560, 560, sigma=4 * max(scale, 1))
    canvas_cut = cut(pixels, face_at(276.4, 283.9, scale=scale, angle=angle))
    grid = np.stack(np.meshgrid(np.arange(CANVAS), np.arange(CANVAS)), -1).astype(np.float64)
    x, y = np.moveaxis(mapped(placement(276.4, 283.9, scale=scale, angle=angle), grid), -1, 0)
    image = pixels / 255
    if scale > 1:
        image = ndimage.uniform_filter(image, (int(scale), int(scale), 0))
    expected = np.stack([ndimage.map_coordinates(image[..., c], [y, x], order=1) for c in range(3)], -1)
    interior = (np.minimum(x, y) > 4) & (np.maximum(x, y) < 555)
    np.testing.assert_allclose(canvas_cut.canvas[interior], expected[interior], atol=tolerance)


@pytest.mark.parametrize("scale", [2.0, 3.4])
def test_a_large_face_is_shrunk_without_aliasing(scale: float) -> None:
    """A pattern of single pixels is grey from afar; taking every second pixel would turn it black or white."""
    pixels = np.repeat((np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    canvas_cut = cut(pixels, face_at(320, 320, scale=scale))
    assert np.abs(canvas_cut.canvas[40:136, 40:136] - 0.5).max() < 0.1


def test_canvas_is_black_and_masked_outside_the_photo() -> None:
    pixels = np.full((200, 200, 3), 255, np.uint8)
    canvas_cut = cut(pixels, face_at(0, 100))
    outside = np.s_[:, : int(MIDDLE[0]) - 1]
    inside = np.s_[:, int(MIDDLE[0]) + 1 :]
    assert canvas_cut.canvas[outside].max() == 0
    assert canvas_cut.mask[outside].max() == 0
    assert not canvas_cut.region[outside].any()
    assert canvas_cut.canvas[inside].min() > 0.99
    assert canvas_cut.region[inside].any()


def test_mask_fades_in_from_the_edge_of_the_region() -> None:
    pixels = np.full((300, 300, 3), 128, np.uint8)
    canvas_cut = cut(pixels, face_at(150, 150, size=80))
    half = 80 * REGION / 2
    row = canvas_cut.mask[int(MIDDLE[1]), :, 0]
    distance = half - np.abs(np.arange(CANVAS) - MIDDLE[0])
    np.testing.assert_allclose(row, np.clip(distance / FEATHER, 0, 1), atol=1e-4)
    assert canvas_cut.mask.dtype == np.float32
    assert not (canvas_cut.mask[..., 0] > 0)[~canvas_cut.region].any()
    assert canvas_cut.region.sum() == pytest.approx((2 * half) ** 2, rel=0.03)


# --- regions and bad faces -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 100, 100, 100), (85, 85, 215, 215)),
        ((100, 80, 50, 100), (65, 60, 195, 190)),
        ((-20, 10, 60, 60), (1, 0, 79, 49)),
        ((250, 250, 100, 100), (235, 235, 300, 300)),
        ((-500, -500, 100, 100), (0, 0, 0, 0)),
    ],
)
def test_region_is_the_wider_square_cut_at_the_border(box: tuple[int, ...], expected: tuple[int, ...]) -> None:
    face = face_at(0, 0)._replace(box=np.array(box, np.float32))
    assert region_box(face, (300, 300)) == expected


def turned_landmarks() -> np.ndarray:
    """A mirror image of the template stretched so that no similarity brings it nearer than any other: scale 0."""
    points = np.array(TEMPLATE) - np.mean(TEMPLATE, 0)
    axes = np.linalg.eigh(points.T @ points)[1]
    along = points @ axes
    return (along * [1, -1] / (along**2).sum(0) * 1000) @ axes.T + 100


@pytest.mark.parametrize(
    ("landmarks", "problem"),
    [
        (np.full((5, 2), 60.0), "landmarks"),
        (np.full((5, 2), np.nan), "landmarks"),
        (np.where(np.indices((5, 2))[0] == 2, np.inf, np.array(TEMPLATE)), "landmarks"),
        (turned_landmarks(), "landmarks"),
        (np.array(TEMPLATE) + 5000, "outside a photo of 200x100"),
        (np.array(TEMPLATE) - 5000, "outside a photo of 200x100"),
        (np.array(TEMPLATE) + np.array([0, 400]), "outside a photo of 200x100"),
    ],
    ids=["coincide", "nan", "infinite", "no orientation", "far right", "far left", "below"],
)
def test_bad_face_is_refused_by_name(landmarks: np.ndarray, problem: str) -> None:
    face = Face(np.array([40, 40, 80, 80], np.float32), landmarks.astype(np.float32), 0.9)
    with pytest.raises(ValueError, match=problem):
        cut(np.full((100, 200, 3), 128, np.uint8), face)


@given(
    landmarks=st.lists(
        st.tuples(st.floats(-300, 600, width=32), st.floats(-300, 600, width=32)), min_size=5, max_size=5
    )
)
@settings(max_examples=100, deadline=None)
def test_any_landmarks_give_a_canvas_or_a_value_error(landmarks: list[tuple[float, float]]) -> None:
    """No warning, no other exception, nothing that is not a picture."""
    face = Face(np.array([40, 40, 80, 80], np.float32), np.array(landmarks, np.float32), 0.9)
    canvas_cut = None
    reason = ""
    try:
        canvas_cut = cut(np.full((100, 200, 3), 128, np.uint8), face)
    except ValueError as error:
        reason = str(error)
    if canvas_cut is None:
        assert "landmarks" in reason or "outside" in reason
    else:
        assert canvas_cut.canvas.shape == (CANVAS, CANVAS, 3)
        assert canvas_cut.canvas.min() >= 0
        assert canvas_cut.canvas.max() <= 1
        assert canvas_cut.mask.min() >= 0
        assert canvas_cut.mask.max() <= 1
