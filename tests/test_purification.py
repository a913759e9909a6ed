"""Purifications: what they do to pixels, and that their files are made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.evaluate import purification
from engine.evaluate.purification import PURIFICATIONS, purified

PHOTO = tiny.texture_pixels(3, 60, 83)


@pytest.mark.parametrize("name", PURIFICATIONS)
@settings(max_examples=15, deadline=None)
@given(height=st.integers(3, 70), width=st.integers(3, 70), seed=st.integers(0, 99))
def test_any_photo_stays_a_photo_and_is_not_touched(name: str, height: int, width: int, seed: int) -> None:
    pixels = tiny.texture_pixels(seed, height, width)
    before = pixels.copy()
    result = PURIFICATIONS[name](pixels)
    assert result.dtype == np.uint8
    scale = purification.SCREEN if name == "screenshot" else 1
    assert result.shape == (round(height * scale), round(width * scale), 3)
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(result, PURIFICATIONS[name](pixels))


@pytest.mark.parametrize("name", PURIFICATIONS)
def test_each_removes_most_of_a_fine_change_and_keeps_the_photo(name: str) -> None:
    fine = (8 * (-1) ** np.indices(PHOTO.shape[:2]).sum(0))[..., None]
    changed = (PHOTO.astype(int) + fine).clip(0, 255).astype(np.uint8)
    clean, washed = (PURIFICATIONS[name](pixels).astype(float) for pixels in (PHOTO, changed))
    share_left = np.abs(washed - clean).mean() / np.abs(changed.astype(float) - PHOTO).mean()
    if name in ("JPEG 90", "JPEG 75", "grey"):
        assert share_left < 1.1  # a checkerboard this strong passes a fine quantiser, and is grey; it is not amplified
    elif name != "JPEG 50":
        assert share_left < 0.6
    if name not in ("screenshot", "grey"):
        assert np.abs(clean - PHOTO).mean() < 12


def test_lower_jpeg_qualities_change_more() -> None:
    change = [np.abs(PURIFICATIONS[f"JPEG {q}"](PHOTO).astype(int) - PHOTO).mean() for q in (90, 75, 50)]
    assert 0 < change[0] < change[1] < change[2]


def test_blur_and_median_are_scipys() -> None:
    inner = np.s_[12:-12, 12:-12]
    for sigma in (1.0, 2.0):
        scipys = scipy.ndimage.gaussian_filter(PHOTO.astype(float), (sigma, sigma, 0))
        ours = PURIFICATIONS[f"blur, sigma {sigma:g}"](PHOTO)
        np.testing.assert_allclose(ours[inner], scipys[inner], atol=1.01)
    scipys = scipy.ndimage.median_filter(PHOTO, (3, 3, 1))
    np.testing.assert_array_equal(PURIFICATIONS["median of 3 x 3"](PHOTO)[inner], scipys[inner])


def test_grey_is_the_luminance_alone() -> None:
    """Within 1 of .299 R + .587 G + .114 B, ITU-R BT.601, in every channel."""
    luminance = PHOTO @ np.array([0.299, 0.587, 0.114])
    assert np.abs(PURIFICATIONS["grey"](PHOTO) - luminance[..., None]).max() < 1


def test_copies_are_made_once_and_hold_the_purified_pixels(tmp_path: Path) -> None:
    photos = [tmp_path / "a.png", tmp_path / "<script>.png"]
    for seed, photo in enumerate(photos):
        Image.fromarray(tiny.texture_pixels(seed, 40, 40)).save(photo)
    copies = purified(photos, "blur, sigma 1", tmp_path / "copies")
    assert list(copies) == photos
    with Image.open(copies[photos[0]]) as image:
        np.testing.assert_array_equal(np.asarray(image), PURIFICATIONS["blur, sigma 1"](tiny.texture_pixels(0, 40, 40)))
    made = {copy: copy.stat().st_mtime_ns for copy in copies.values()}
    again = purified(photos, "blur, sigma 1", tmp_path / "copies")
    assert again == copies
    assert {copy: copy.stat().st_mtime_ns for copy in again.values()} == made
    assert sorted(p.suffix for p in (tmp_path / "copies").rglob("*") if p.is_file()) == [".png", ".png"]
    Image.fromarray(tiny.texture_pixels(7, 40, 40)).save(photos[0])
    assert purified(photos, "blur, sigma 1", tmp_path / "copies")[photos[0]] != copies[photos[0]]


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JPEG 90"):
        purified([], "sharpen", tmp_path)
