"""engine.detect: YuNet at every size, side and corner of a photo, on the sample photos."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine import checkpoint, photo
from engine.config import Detection
from engine.detect import ROOM, Look, YuNet, _framed, _merge, _placed, _sides, _tiled
from engine.types import Face

NAMES = ("astronaut.png", "biden.jpg", "obama.jpg")
FACES = {  # (x, y) of the nose and the width of the face, read off the photos by eye, in pixels
    "astronaut.png": (221, 124, 90),
    "biden.jpg": (590, 400, 270),
    "obama.jpg": (495, 262, 240),
}


def yunet(settings: Detection | None = None) -> YuNet:
    return YuNet(checkpoint.detector(), settings)


@pytest.fixture(scope="module")
def detector() -> YuNet:
    return yunet()


@pytest.fixture(scope="module")
def pictures(photos: Path) -> dict[str, np.ndarray]:
    return {name: photo.read(photos / name).pixels for name in NAMES}


def middle(face: Face) -> np.ndarray:
    return face.box[:2] + face.box[2:] / 2


def assert_same(face: Face, expected: Face, *, share: float) -> None:
    """Boxes and landmarks agree within a share of the face's longer side."""
    side = float(expected.box[2:].max())
    np.testing.assert_allclose(face.landmarks, expected.landmarks, atol=share * side)
    np.testing.assert_allclose(face.box, expected.box, atol=2 * share * side)


@pytest.mark.parametrize("name", NAMES)
def test_sample_photo_has_one_face_where_it_is(detector: YuNet, pictures: dict[str, np.ndarray], name: str) -> None:
    faces = detector.detect(pictures[name])
    assert len(faces) == 1
    x, y, width = FACES[name]
    np.testing.assert_allclose(faces[0].landmarks[2], (x, y), atol=0.15 * width)
    assert 0.7 * width < faces[0].box[2] < 1.4 * width
    left_eye, right_eye, nose, left_mouth, right_mouth = faces[0].landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert 0.6 <= faces[0].score <= 1


@pytest.mark.parametrize("name", NAMES)
def test_face_of_a_huge_photo_is_found(detector: YuNet, pictures: dict[str, np.ndarray], name: str) -> None:
    pixels = pictures[name]
    ratio = 4200 / max(pixels.shape)
    large = cv2.resize(pixels, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_CUBIC)
    expected = detector.detect(pixels)[0]
    # The nearest and not the largest: at 4200 pixels it also sees a face in the astronaut's space shuttle.
    largest = min(detector.detect(large), key=lambda face: np.linalg.norm(middle(face) / ratio - middle(expected)))
    small = Face(largest.box / np.float32(ratio), largest.landmarks / np.float32(ratio), largest.score)
    assert_same(small, expected, share=0.1)


@pytest.mark.parametrize("corner", [(40, 60), (2700, 60), (1480, 950), (2700, 1700)])
def test_small_face_in_a_large_photo_is_found(
    detector: YuNet, pictures: dict[str, np.ndarray], corner: tuple[int, int]
) -> None:
    """A face of 40 pixels in a photo of 6 megapixels: 1.3 % of its width."""
    source = pictures["astronaut.png"]
    ratio = 40 / float(detector.detect(source)[0].box[2:].max())
    small = cv2.resize(source[:260, 80:360], None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    wide = np.full((2000, 3000, 3), 120, np.uint8)
    x, y = corner
    wide[y : y + small.shape[0], x : x + small.shape[1]] = small
    faces = detector.detect(wide)
    assert len(faces) == 1
    expected = (np.array(FACES["astronaut.png"][:2]) - (80, 0)) * ratio + corner
    np.testing.assert_allclose(faces[0].landmarks[2], expected, atol=6)
    assert 28 < faces[0].box[2:].max() < 52


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_photo_on_its_side(detector: YuNet, pictures: dict[str, np.ndarray], name: str, quarters: int) -> None:
    """Landmarks come back in pixels of the turned photo, the owner's left eye still first."""
    pixels = pictures[name]
    height, width = pixels.shape[:2]
    upright = detector.detect(pixels)[0]
    face = detector.detect(np.ascontiguousarray(np.rot90(pixels, quarters)))[0]

    def turn(
        points: np.ndarray,
    ) -> np.ndarray:  # of the upright photo into np.rot90 of it; coordinates of pixel centres
        x, y = points[:, 0], points[:, 1]
        return np.stack([(y, width - 1 - x), (width - 1 - x, height - 1 - y), (height - 1 - y, x)][quarters - 1], 1)

    side = float(upright.box[2:].max())
    np.testing.assert_allclose(face.landmarks, turn(upright.landmarks), atol=0.08 * side)
    np.testing.assert_allclose(middle(face), turn(middle(upright)[None])[0], atol=0.1 * side)
    expected = upright.box[2:] if quarters == 2 else upright.box[:1:-1]
    np.testing.assert_allclose(face.box[2:], expected, atol=0.15 * side)


def test_faces_come_largest_first_and_once(detector: YuNet, pictures: dict[str, np.ndarray]) -> None:
    source = pictures["astronaut.png"]
    sheet = np.full((1100, 1500, 3), 90, np.uint8)
    for ratio, (x, y) in ((0.5, (20, 20)), (1.6, (500, 100)), (0.9, (30, 500))):
        small = cv2.resize(source, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        sheet[y : y + small.shape[0], x : x + small.shape[1]] = small
    faces = detector.detect(sheet)
    sides = [float(face.box[2:].max()) for face in faces]
    assert len(faces) == 3
    assert sides == sorted(sides, reverse=True)
    np.testing.assert_allclose(faces[0].landmarks[2], (500 + 221 * 1.6, 100 + 121 * 1.6), atol=20)


def test_upright_and_upside_down_faces_in_one_photo(detector: YuNet, pictures: dict[str, np.ndarray]) -> None:
    """Each face has its own way up, and turning the photo for one does not lose or double the other."""
    upright = cv2.resize(pictures["obama.jpg"], (364, 455), interpolation=cv2.INTER_AREA)
    turned = cv2.resize(pictures["astronaut.png"][:250, 90:310], (400, 455), interpolation=cv2.INTER_LINEAR)[::-1, ::-1]
    faces = detector.detect(np.concatenate([upright, turned], 1))
    assert len(faces) == 2
    eyes_over_mouth = {bool(face.box[0] < 364): bool(face.landmarks[0, 1] < face.landmarks[3, 1]) for face in faces}
    assert eyes_over_mouth == {True: True, False: False}


def test_min_size_is_honoured(pictures: dict[str, np.ndarray]) -> None:
    side = float(yunet().detect(pictures["astronaut.png"])[0].box[2:].max())
    assert len(yunet(Detection(min_size=int(side) - 5)).detect(pictures["astronaut.png"])) == 1
    assert yunet(Detection(min_size=int(side) + 20)).detect(pictures["astronaut.png"]) == []


def test_min_score_is_honoured(pictures: dict[str, np.ndarray]) -> None:
    score = yunet().detect(pictures["biden.jpg"])[0].score
    assert score < 0.999
    lower = yunet(Detection(min_score=score - 0.02))
    assert lower.detect(pictures["biden.jpg"])[0].score == pytest.approx(score, abs=1e-6)
    assert yunet(Detection(min_score=0.9999)).detect(pictures["biden.jpg"]) == []


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (1, 500), (500, 1), (11, 4000), (300, 200)])
def test_photo_without_a_face(detector: YuNet, size: tuple[int, int]) -> None:
    assert detector.detect(np.full((*size, 3), 128, np.uint8)) == []


def test_threads_find_the_same(detector: YuNet, pictures: dict[str, np.ndarray]) -> None:
    alone = [detector.detect(pictures[name]) for name in NAMES]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(detector.detect, [pictures[name] for name in NAMES * 3]))
    for index, faces in enumerate(together):
        assert len(faces) == len(alone[index % 3])
        for face, expected in zip(faces, alone[index % 3], strict=True):
            np.testing.assert_array_equal(face.box, expected.box)
            np.testing.assert_array_equal(face.landmarks, expected.landmarks)
            assert face.score == expected.score


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx; reinstall"):
        YuNet(tmp_path / "gone.onnx")


@pytest.mark.parametrize("size", [0, 1000, 60_000])
def test_weights_that_are_cut_off_are_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "short.onnx").write_bytes(checkpoint.detector().read_bytes()[:size])
    with pytest.raises(ValueError, match=r"short\.onnx is no YuNet .*reinstall"):
        YuNet(tmp_path / "short.onnx")


@pytest.mark.slow
def test_lfw_faces_are_found(detector: YuNet, faces_folder: Path) -> None:
    """Of 300 photos of LFW, whose person is in the middle, each has a face whose box covers the middle."""
    paths = sorted((faces_folder / "lfw").rglob("*.jpg"))
    paths = paths[:: max(1, len(paths) // 300)][:300]
    assert len(paths) == 300
    missed = []
    for path in paths:
        pixels = photo.read(path).pixels
        centre = np.array([pixels.shape[1], pixels.shape[0]]) / 2
        faces = detector.detect(pixels)
        if not any((abs(middle(face) - centre) < face.box[2:] / 2).all() for face in faces):
            missed.append(path.name)
    assert missed == []


def test_tiles_show_what_a_look_at_the_whole_does(detector: YuNet, pictures: dict[str, np.ndarray]) -> None:
    """Each of 15 faces once, also those that the edges of tiles cut; boxes within a tenth of a face's side."""
    small = cv2.resize(pictures["astronaut.png"][:260, 80:360], None, fx=0.45, fy=0.45, interpolation=cv2.INTER_AREA)
    sheet = np.full((800, 1300, 3), 120, np.uint8)
    for y, x in product(range(20, 660, 270), range(20, 1170, 230)):
        sheet[y : y + small.shape[0], x : x + small.shape[1]] = small

    def faces(looks: Iterable[Look]) -> list[np.ndarray]:
        rows = np.concatenate([_placed(look, rows) for look, rows in detector._seen(looks)])
        return sorted(_merge(rows), key=lambda row: (round(row[1] / 100), row[0]))

    tiles, whole = list(_tiled(sheet)), Look(_framed(sheet, ROOM), -ROOM, -ROOM)
    assert len(tiles) > 3
    rows, expected = faces(tiles), faces([whole])
    assert len(rows) == len(expected) == 15
    for row, other_row in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row[:14], other_row[:14], atol=0.1 * other_row[2:4].max())


@pytest.mark.parametrize("longest", [639, 641, 1279, 1281, 1283, 1401, 2001, 3003])
@pytest.mark.parametrize("min_size", [16, 24, 25, 37])
def test_the_scans_of_any_size_come_to_an_end(longest: int, min_size: int) -> None:
    assert 1 <= len(_sides(longest, min_size)) <= 4
