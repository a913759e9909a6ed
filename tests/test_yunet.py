"""engine.yunet: the finds and faces of OpenCV's detector, by one program for every photo."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engine import checkpoint, compiles, photo, yunet
from engine.config import Detection
from engine.detect import Look, YuNet
from engine.types import Face

NAMES = ("astronaut.png", "biden.jpg", "obama.jpg")


@pytest.fixture(scope="module")
def pictures(photos: Path) -> dict[str, np.ndarray]:
    pixels_of = {name: photo.read(photos / name).pixels for name in NAMES}
    pixels_of["on its side"] = np.ascontiguousarray(np.rot90(pixels_of["astronaut.png"]))
    wide = np.full((1000, 1400, 3), 90, np.uint8)
    for ratio, (x, y) in ((0.5, (20, 20)), (1.2, (500, 100)), (0.3, (30, 500))):
        small = cv2.resize(pixels_of["astronaut.png"], None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        wide[y : y + small.shape[0], x : x + small.shape[1]] = small
    return pixels_of | {"three sizes": wide}


@pytest.fixture(scope="module")
def opencv() -> YuNet:
    return YuNet(checkpoint.detector())


@pytest.fixture(scope="module")
def flax(pictures: dict[str, np.ndarray]) -> yunet.FlaxYuNet:
    """Called by two threads at once first."""
    detector = yunet.FlaxYuNet()
    with compiles.record() as compiled, ThreadPoolExecutor(2) as pool:
        list(pool.map(detector.detect, [pictures[name][::4, ::4] for name in NAMES[:2]]))
    assert compiled.by_program["finds"].made <= 1  # none if another test had it made
    return detector


def assert_same(faces: list[Face], expected: list[Face]) -> None:
    """Boxes and landmarks within a hundredth of a pixel, scores within 1e-5."""
    assert len(faces) == len(expected)
    for face, wanted in zip(faces, expected, strict=True):
        np.testing.assert_allclose(face.box, wanted.box, atol=0.01)
        np.testing.assert_allclose(face.landmarks, wanted.landmarks, atol=0.01)
        assert face.score == pytest.approx(wanted.score, abs=1e-5)


def test_every_place_of_a_picture_is_as_opencv_has_it(flax: yunet.FlaxYuNet, pictures: dict[str, np.ndarray]) -> None:
    """Whatever lies beside the picture in its frame: boxes and landmarks within .01 pixels, scores within 1e-5."""
    picture = np.ascontiguousarray(cv2.resize(pictures["obama.jpg"], (192, 160))[..., ::-1])
    frames = np.random.default_rng(0).integers(0, 256, (1, yunet.FRAME, yunet.FRAME, 3), dtype=np.uint8)
    frames[0, :160, :192] = picture
    sizes = np.array([[160, 192]], np.int32)
    best, every = map(np.asarray, yunet.finds(flax._params, frames, sizes, graphdef=flax._graphdef))

    names = [f"{head}_{stride}" for head in ("cls", "obj", "bbox", "kps") for stride in yunet.STRIDES]
    source = cv2.dnn.readNetFromONNX(str(checkpoint.detector()))
    source.setInput(cv2.dnn.blobFromImage(picture))
    raw = dict(zip(names, source.forward(names), strict=True))
    scores, rest = [], every[0]
    for stride in yunet.STRIDES:
        height, width, side = 160 // stride, 192 // stride, yunet.FRAME // stride
        finds, rest = rest[: side * side].reshape(side, side, 15), rest[side * side :]
        assert not finds[height:, :, 14].any()
        assert not finds[:, width:, 14].any()
        likely, thing, box, points = (
            raw[f"{head}_{stride}"].reshape(height, width, -1) for head in ("cls", "obj", "bbox", "kps")
        )
        place = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
        extent = np.exp(box[..., 2:])
        expected = np.concatenate([place + box[..., :2] - extent / 2, extent, np.tile(place, 5) + points], -1) * stride
        np.testing.assert_allclose(finds[:height, :width, :14], expected, atol=0.01)
        np.testing.assert_allclose(finds[:height, :width, 14:], np.sqrt(likely * thing), atol=1e-5)
        scores.append(finds[..., 14].ravel())
    assert len(rest) == 0
    np.testing.assert_array_equal(best[0, :, 14], np.sort(np.concatenate(scores))[::-1][: yunet.CANDIDATES])


@pytest.mark.parametrize("name", [*NAMES, "on its side", "three sizes"])
def test_the_faces_are_those_of_opencv(
    name: str, flax: yunet.FlaxYuNet, opencv: YuNet, pictures: dict[str, np.ndarray]
) -> None:
    expected = opencv.detect(pictures[name])
    assert len(expected) == (3 if name == "three sizes" else 1)
    assert_same(flax.detect(pictures[name]), expected)


@pytest.mark.parametrize("size", [(1, 1), (11, 700), (300, 200)])
def test_photo_without_a_face(size: tuple[int, int], flax: yunet.FlaxYuNet) -> None:
    """Nor does a photo of another size compile anything."""
    with compiles.record() as compiled:
        assert flax.detect(np.full((*size, 3), 128, np.uint8)) == []
    assert compiled.made == {}


def test_every_doubtful_find_of_a_picture_is_that_of_opencv(
    opencv: YuNet, flax: yunet.FlaxYuNet, pictures: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, suppression and all, at a low score."""
    few = YuNet(checkpoint.detector(), Detection(min_score=0.1))
    monkeypatch.setattr(flax, "settings", few.settings)
    look = Look(np.ascontiguousarray(pictures["three sizes"][:650, :790, ::-1]), 0, 0)
    ((_, expected),), ((_, finds),) = few._seen([look]), flax._seen([look])
    assert len(finds) > 3
    np.testing.assert_allclose(finds, expected, atol=0.01)


def test_pictures_go_in_batches_and_no_find_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five pictures, two at a time; of each there are more finds than are fetched at first."""
    shapes: list[tuple[int, ...]] = []
    rows = np.zeros((2, 6, 15), np.float32)
    rows[:, :, :2] = np.arange(6)[:, None] * 50
    rows[:, :, 2:4] = 20
    rows[:, :, 14] = [0.1, 0.7, 0.5, 0.9, 0.8, 0.65]
    rows[1, :, 14] = [0, 0, 0, 0, 0, 0.7]
    order = np.argsort(-rows[..., 14], axis=1, kind="stable")[:, :2, None]

    def finds(params: Any, frames: np.ndarray, sizes: np.ndarray, **_: Any) -> tuple[np.ndarray, np.ndarray]:
        shapes.append((*frames.shape, *sizes.ravel().tolist()))
        return np.take_along_axis(rows, order, axis=1), rows

    monkeypatch.setattr(yunet, "finds", finds)
    detector = yunet.FlaxYuNet(batch=2)
    looks = [Look(np.zeros((30 + n, 70, 3), np.uint8), n, n) for n in range(5)]
    seen = list(detector._seen(iter(looks)))
    assert [look for look, _ in seen] == looks
    many, single = [0.9, 0.8, 0.7, 0.65], [0.7]
    assert [[round(float(score), 4) for score in found[:, 14]] for _, found in seen] == [
        many,
        single,
        many,
        single,
        many,
    ]
    frame = 2, yunet.FRAME, yunet.FRAME, 3
    assert shapes == [(*frame, 32, 96, 32, 96), (*frame, 32, 96, 64, 96), (*frame, 64, 96, 0, 0)]


def test_the_detector_suits_the_platform() -> None:
    settings = Detection(min_size=40)
    here, cpu, gpu = (yunet.detector(settings, platform=platform) for platform in (None, "cpu", "gpu"))
    assert isinstance(here, YuNet)
    assert isinstance(cpu, YuNet)
    assert isinstance(gpu, yunet.FlaxYuNet)
    assert cpu.settings == gpu.settings == settings


def test_what_one_has_seen_is_not_what_the_other_has(opencv: YuNet, flax: yunet.FlaxYuNet) -> None:
    """Nor what one has seen with other settings."""
    same, smaller = yunet.FlaxYuNet(), yunet.FlaxYuNet(Detection(min_size=40))
    assert flax.key == same.key
    assert len({opencv.key, flax.key, smaller.key}) == 3


def test_a_cloak_is_known_by_weights_that_both_have() -> None:
    """`dependencies` names the hash of the ONNX file alone."""
    tables = checkpoint.manifest()["detectors"]
    assert tables["yunet-flax"]["source_sha256"] == tables["yunet"]["sha256"]


@pytest.mark.slow
def test_faces_of_lfw_are_those_of_opencv(flax: yunet.FlaxYuNet, opencv: YuNet, faces_folder: Path) -> None:
    paths = sorted((faces_folder / "lfw").rglob("*.jpg"))
    for path in paths[:: max(1, len(paths) // 8)][:8]:
        pixels = photo.read(path).pixels
        assert_same(flax.detect(pixels), opencv.detect(pixels))
