from pathlib import Path

import numpy as np
import pytest
from faces_on_file import Middle, blank, canvases, save
from PIL import Image

from engine.config import Detection
from engine.evaluate.canvases import Canvases, stack
from engine.types import PhotoError


def test_the_canvas_is_the_photo_where_the_face_lies_like_the_template(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", 1, 0)
    (canvas,) = canvases().cut([photo])
    assert canvas is not None
    with Image.open(photo) as image:
        # The template has four decimals: pixels are interpolated by a ten-thousandth of one.
        np.testing.assert_allclose(canvas.astype(int), np.asarray(image).astype(int), atol=1)


def test_a_photo_without_a_face_or_that_is_no_photo_has_no_canvas(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no more")
    photos = [blank(tmp_path / "blank.png"), broken, save(tmp_path / "a.png", 1, 0)]
    for folder in (None, tmp_path / "kept", tmp_path / "kept"):
        cut = canvases(folder).cut(photos)
        assert [canvas is None for canvas in cut] == [True, True, False]
        assert [face is None for face in canvases(folder).faces(photos)] == [True, True, False]
        faces, there = stack(cut)
        assert faces.shape == (1, 176, 176, 3)
        assert there.tolist() == [False, False, True]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="cannot be read"):
        canvases().cut([tmp_path / "nobody.jpg"])


def test_kept_by_content_and_settings(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", 1, 0)
    (tmp_path / "copy.png").write_bytes(photo.read_bytes())
    first, again, other = Middle(), Middle(), Middle()
    made = Canvases(first, Detection(), tmp_path / "kept").cut([photo])
    same = Canvases(again, Detection(), tmp_path / "kept").cut([tmp_path / "copy.png"])
    Canvases(other, Detection(min_score=0.9), tmp_path / "kept").cut([photo])
    assert (first.looked, again.looked, other.looked) == (1, 0, 1)
    np.testing.assert_array_equal(made[0], same[0])
    assert not list((tmp_path / "kept").glob("*.part"))


def test_crops_of_another_version_are_cut_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = save(tmp_path / "a.png", 1, 0)
    Canvases(Middle(), Detection(), tmp_path / "kept").cut([photo])
    monkeypatch.setattr("engine.evaluate.canvases.CROPS", -1)
    later = Middle()
    Canvases(later, Detection(), tmp_path / "kept").cut([photo])
    assert later.looked == 1


def test_the_face_is_the_region_of_the_budget_in_the_photos_own_pixels(tmp_path: Path) -> None:
    photo = save(tmp_path / "a.png", 1, 0)
    (face,) = canvases().faces([photo])
    with Image.open(photo) as image:
        np.testing.assert_array_equal(face, np.asarray(image)[23:153, 23:153])  # 1.3 times 100 pixels round 88


def test_stacking_nothing() -> None:
    faces, there = stack([None, None])
    assert faces.shape == (0, 176, 176, 3)
    assert not there.any()
