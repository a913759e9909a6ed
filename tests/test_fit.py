"""engine.bulk.fit: the budget holds in the pixels that come back from the encoded file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from engine import photo as photos
from engine.bulk.fit import MOST, SPENT, Fitted, fit
from engine.bulk.prepare import Prepared, prepare
from engine.config import CANVAS, TEMPLATE
from engine.dssim import dssim_pixels
from engine.faces import region_box
from engine.types import Face, PhotoError

SIZE = (300, 380)


def face_at(x: float, y: float, *, scale: float = 1.0) -> Face:
    """An upright face with the middle of its canvas at (x, y); scale: photo pixels a canvas pixel."""
    landmarks = (np.array(TEMPLATE) - (88, 98)) * scale + (x, y)
    side = 80 * scale
    return Face(np.array([x - side / 2, y - side / 2, side, side], np.float32), landmarks.astype(np.float32), 0.9)


ONE = (face_at(180, 150),)
SMALL = (face_at(180, 150, scale=0.5),)
LARGE = (face_at(190, 150, scale=1.7),)
APART = (face_at(80, 110, scale=0.8), face_at(290, 190, scale=0.9))
OVERLAPPING = (face_at(150, 140), face_at(215, 165, scale=0.9))
BORDER = (face_at(15, 150), face_at(370, 290))
SCENES = {"one": ONE, "small": SMALL, "large": LARGE, "apart": APART, "overlapping": OVERLAPPING, "border": BORDER}
every_scene = pytest.mark.parametrize("scene", SCENES)


class Found:
    """A detector that knows where the faces are."""

    def __init__(self, faces: tuple[Face, ...]) -> None:
        self.faces = faces

    def detect(self, pixels: np.ndarray) -> list[Face]:
        return list(self.faces)


def prepared(faces: tuple[Face, ...], *, grey: bool = False) -> Prepared:
    pixels = tiny.texture_pixels(1, *SIZE, contrast=0.1)
    subject = prepare(pixels[..., 0].copy() if grey else pixels, Found(faces))
    assert len(subject.cuts) == len(faces)
    return subject


def noises(subject: Prepared, size: float) -> list[np.ndarray]:
    """For each face smooth noise of this root mean square, inside its mask."""
    return [
        crop.mask * (tiny.texture(50 + index, CANVAS, CANVAS, sigma=2, contrast=0.1) - 0.5) * (size / 0.1)
        for index, crop in enumerate(subject.cuts)
    ]


def encoder(subject: Prepared, format: str, quality: int | None = None) -> Callable[[np.ndarray], bytes]:
    return lambda pixels: photos.encode(subject.photo, pixels, format=format, quality=quality)


def fitted(subject: Prepared, deltas: list[np.ndarray], *, rho: float, format: str = "png", quality: int | None = None):
    return fit(subject, deltas, rho=rho, encode=encoder(subject, format, quality), decode=photos.decode_pixels)


def assert_within(result: Fitted, subject: Prepared, faces: tuple[Face, ...], rho: float) -> None:
    """Measured anew on what the bytes decode to, and that is also what is reported."""
    seen = photos.decode_pixels(result.data)
    np.testing.assert_array_equal(seen, result.pixels)
    original = subject.photo.pixels
    for face, reported in zip(faces, result.dssim, strict=True):
        top, left, bottom, right = region_box(face, SIZE)
        measured = dssim_pixels(original[top:bottom, left:right], seen[top:bottom, left:right])
        assert measured <= rho
        assert reported == pytest.approx(measured, abs=1e-7)


@pytest.mark.parametrize("rho", [0.002, 0.007, 0.03])
@pytest.mark.parametrize("grey", [False, True])
@every_scene
def test_every_face_is_within_the_budget_of_a_lossless_file(scene: str, grey: bool, rho: float) -> None:
    """Cloaks far past the budget are scaled down until each face fits, and not much further than they need."""
    subject = prepared(SCENES[scene], grey=grey)
    result = fitted(subject, noises(subject, 0.15), rho=rho)
    assert_within(result, subject, SCENES[scene], rho)
    assert max(result.dssim) > 0.6 * rho
    assert all(0 < scale < 1 for scale in result.scale)
    if grey:
        assert np.ptp(result.pixels, axis=2).max() == 0


@every_scene
def test_a_cloak_is_scaled_up_a_little_at_most(scene: str) -> None:
    """However much of the budget is left."""
    subject = prepared(SCENES[scene])
    deltas = noises(subject, 0.01)
    result = fitted(subject, deltas, rho=0.05)
    assert_within(result, subject, SCENES[scene], 0.05)
    assert result.scale == (MOST,) * len(deltas)
    assert 0 < max(result.dssim) < 0.03
    assert (result.pixels != subject.photo.pixels).any()


@pytest.mark.parametrize("quality", [75, 90, None])
def test_the_budget_is_spent_on_the_file(quality: int | None) -> None:
    """Whether a cloak is a little too faint or too strong, and whatever the codec adds or takes."""
    subject = prepared(ONE)
    for size in (0.02, 0.1):
        rho = 0.97 * fitted(subject, noises(subject, size), rho=0.45).dssim[0] / MOST**2
        options: dict[str, Any] = {} if quality is None else {"format": "jpeg", "quality": quality}
        result = fitted(subject, noises(subject, size), rho=rho, **options)
        assert_within(result, subject, ONE, rho)
        assert result.dssim[0] > (SPENT - 0.05) * rho


def test_no_cloak_writes_the_photo_as_it_was() -> None:
    subject = prepared(OVERLAPPING)
    result = fitted(subject, noises(subject, 0.0), rho=0.007)
    np.testing.assert_array_equal(result.pixels, subject.photo.pixels)
    assert result.dssim == pytest.approx((0, 0), abs=1e-7)


@pytest.mark.parametrize(("quality", "rho"), [(60, 0.007), (60, 0.02), (60, 0.0001), (95, 0.007), (30, 0.005)])
@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_fits_or_says_that_it_cannot(grey: bool, quality: int, rho: float) -> None:
    """Never past the budget; refused only where the format alone, with no cloak at all, leaves less than a third."""
    subject = prepared(OVERLAPPING, grey=grey)
    bare = photos.decode_pixels(encoder(subject, "jpeg", quality)(subject.photo.pixels))
    boxes = [np.s_[top:bottom, left:right] for top, left, bottom, right in subject.regions]
    loss = max(dssim_pixels(subject.photo.pixels[box], bare[box]) for box in boxes)
    result = None
    reason = ""
    try:
        result = fitted(subject, noises(subject, 0.1), rho=rho, format="jpeg", quality=quality)
    except PhotoError as error:
        reason = str(error)
    if result is None:
        assert f"budget of {rho:g}: choose format png or a higher quality" in reason
        assert loss > 2 / 3 * rho
    else:
        assert_within(result, subject, OVERLAPPING, rho)
        assert loss < rho
        assert result.data[:2] == b"\xff\xd8"


@pytest.mark.parametrize(("quality", "rho", "fits"), [(95, 0.02, True), (30, 0.0005, False)])
def test_jpeg_of_clear_cases(quality: int, rho: float, fits: bool) -> None:
    subject = prepared(ONE)
    if fits:
        result = fitted(subject, noises(subject, 0.1), rho=rho, format="jpeg", quality=quality)
        assert_within(result, subject, ONE, rho)
        assert result.dssim[0] > 0.5 * rho
    else:
        with pytest.raises(PhotoError, match=r"budget of 0\.0005: choose format png or a higher quality"):
            fitted(subject, noises(subject, 0.1), rho=rho, format="jpeg", quality=quality)


def test_faces_apart_are_scaled_apart() -> None:
    """One face past the budget does not cost the other its cloak."""
    subject = prepared(APART)
    little, much = noises(subject, 0.01)[0], noises(subject, 0.2)[1]
    result = fitted(subject, [little, much], rho=0.01)
    assert_within(result, subject, APART, 0.01)
    assert result.scale[0] == MOST
    assert result.scale[1] < 0.8


def test_a_face_gives_way_to_one_it_overlaps() -> None:
    """A small face before a large one, all change made by the large one's cloak and within its own budget.

    Scaling the small one alone, which is the one past the budget, could never make room.
    """
    faces = (face_at(180, 150, scale=1.6), face_at(180, 150, scale=0.5))
    subject = prepared(faces)
    local = np.zeros((CANVAS, CANVAS, 1), np.float32)
    local[80:116, 70:106] = 1
    large, small = noises(subject, 0.1)
    result = fitted(subject, [large * local, 0 * small], rho=0.01)
    assert_within(result, subject, faces, 0.01)
    assert result.dssim[0] < 0.005
    assert result.dssim[1] > 0.006
    assert result.scale[0] < 0.9


def test_only_the_bytes_count() -> None:
    """A decoder that sees more than was encoded, as a codec's loss would be, makes the cloak give way."""
    subject = prepared(ONE)
    deltas = noises(subject, 0.03)
    noise = np.random.default_rng(3).integers(-3, 4, (*SIZE, 3))

    def decode(data: bytes) -> np.ndarray:
        return (photos.decode_pixels(data) + noise).clip(0, 255).astype(np.uint8)

    exact = fitted(subject, deltas, rho=0.02)
    lossy = fit(subject, deltas, rho=0.02, encode=encoder(subject, "png"), decode=decode)
    assert lossy.scale[0] < exact.scale[0]
    assert lossy.dssim[0] <= 0.02


def test_grey_photo_stays_grey_with_a_coloured_change() -> None:
    """Even if a solver let colour through, a file of one channel gets one channel."""
    subject = prepared(ONE, grey=True)
    deltas = noises(subject, 0.05)
    assert np.ptp(deltas[0], axis=2).max() > 0.01
    result = fitted(subject, deltas, rho=0.01)
    assert np.ptp(result.pixels, axis=2).max() == 0
    assert photos.read(result.data).grey


def noisy_jpeg(quality: int, **options: object) -> Prepared:
    """A photo whose noise its own JPEG, of half as much colour, cannot hold twice."""
    pixels = tiny.texture_pixels(1, *SIZE, contrast=0.1).astype(np.int16)
    pixels += np.random.default_rng(5).normal(0, 14, pixels.shape).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=quality, subsampling=2, **options
    )
    return prepare(buffer.getvalue(), Found(ONE))


def test_a_noisy_photo_is_written_at_a_higher_quality_and_says_so() -> None:
    subject = noisy_jpeg(97)
    deltas = noises(subject, 0.02)
    encode = photos.Encoder(subject.photo)
    bare = photos.decode_pixels(encode(subject.photo.pixels))
    top, left, bottom, right = subject.regions[0]
    loss = dssim_pixels(subject.photo.pixels[top:bottom, left:right], bare[top:bottom, left:right])
    result = fit(subject, deltas, rho=0.9 * loss, encode=encode, decode=photos.decode_pixels)
    assert_within(result, subject, ONE, 0.9 * loss)
    assert result.data[:2] == b"\xff\xd8"
    assert result.scale[0] > 0.1
    assert "higher quality" in result.notes[-1]
    asked = photos.Encoder(subject.photo, quality=40)
    with pytest.raises(PhotoError, match="choose format png or a higher quality"):  # unless the quality was asked for
        fit(subject, deltas, rho=0.2 * loss, encode=asked, decode=photos.decode_pixels)


@pytest.mark.parametrize("format", ["keep", "png"])
@pytest.mark.parametrize("scene", ["one", "overlapping", "border", "large"])
def test_an_encoder_gives_what_its_function_gives_at_less_cost(scene: str, format: str) -> None:
    """The same budget is spent as without knowing the codec, and the whole photo is encoded once or twice."""
    buffer = io.BytesIO()
    Image.fromarray(tiny.texture_pixels(1, *SIZE, contrast=0.1)).save(buffer, "JPEG", quality=92, subsampling=0)
    subject = prepare(buffer.getvalue(), Found(SCENES[scene]))
    deltas = noises(subject, 0.1)
    decoded = []

    def decode(data: bytes) -> np.ndarray:
        decoded.append(len(data))
        return photos.decode_pixels(data)

    encoder = photos.Encoder(subject.photo, format)
    result = fit(subject, deltas, rho=0.01, encode=encoder, decode=decode)
    plain = fit(subject, deltas, rho=0.01, encode=lambda pixels: encoder(pixels), decode=photos.decode_pixels)
    assert_within(result, subject, SCENES[scene], 0.01)
    assert result.notes == ()
    assert len(decoded) <= 2
    np.testing.assert_allclose(result.scale, plain.scale, rtol=0.15)


def test_a_large_face_takes_one_encoding_and_comes_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """No larger scale is allowed: that the whole fits says all that trials of its parts could."""
    buffer = io.BytesIO()
    Image.fromarray(tiny.texture_pixels(1, *SIZE, contrast=0.1)).save(buffer, "JPEG", quality=92, subsampling=0)
    subject = prepare(buffer.getvalue(), Found((face_at(190, 150, scale=2.7),)))
    deltas, parts = noises(subject, 0.01), []
    part = photos.Encoder.part
    monkeypatch.setattr(photos.Encoder, "part", lambda self, pixels: parts.append(1) or part(self, pixels))

    def fitted(rho: float) -> tuple[Fitted, int, int]:
        encoded: list[int] = []
        parts.clear()

        def decode(data: bytes) -> np.ndarray:
            encoded.append(1)
            return photos.decode_pixels(data)

        result = fit(subject, deltas, rho=rho, encode=photos.Encoder(subject.photo), decode=decode)
        return result, len(encoded), len(parts)

    result, encoded, tried = fitted(rho=0.05)
    assert (encoded, tried, result.scale) == (1, 0, (1.0,))
    tight = fitted(rho=1.5 * result.dssim[0])  # so little room that the codec might be most of it
    assert tight[2] == 1  # what the codec costs by itself; what both cost is known from the whole
    monkeypatch.setattr("engine.bulk.fit.MOSTLY", 2.0)
    slowly, encoded, tried = fitted(rho=0.05)
    assert (encoded, tried) == (1, 1)  # a band says that there is room
    assert slowly.data == result.data
    fits, encoded, tried = fitted(rho=1.5 * result.dssim[0])
    assert (encoded, tried) == (1, 3)  # a band, then the part with its cloak and without, each once
    assert fits.data == result.data


@pytest.mark.parametrize("format", ["keep", "webp"])
def test_a_part_is_seen_as_it_will_be_in_the_whole(format: str) -> None:
    subject = noisy_jpeg(90, progressive=True)
    encoder = photos.Encoder(subject.photo, format)
    pixels = subject.photo.pixels
    whole = photos.decode_pixels(encoder(pixels))
    part = encoder.part(pixels[64:208, 96:256])
    difference = np.abs(part.astype(int) - whole[64:208, 96:256])[16:-16, 16:-16]
    assert difference.max() <= (0 if format == "keep" else 40)
    assert difference.mean() < 2
