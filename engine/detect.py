"""Face detection: YuNet (Wu et al. 2023) at every scale that a photo needs, by OpenCV. Flax runs it in yunet.py.

YuNet sees faces of about 10 to 300 pixels. A photo is scanned at 640 pixels, at the size where the smallest face that
counts has 12 pixels, and at sizes between. What several scans found is merged. All scans but the first are made in
small tiles of one shape. What the network keeps of a tile stays in the processor's cache, which halves the time of a
pixel. Nor does memory grow with the photo. A tile has no need of large faces, which a coarser scan sees whole.

YuNet also finds faces that lie on their side or head. It gives them the landmarks of an upright face, which would put
the cloak in the wrong place. So a face that it is not sure of is looked at again in all four quarter turns. The photo
is then scanned in the turns that suit a face better, or in all of them if nothing was found upright.
"""

from __future__ import annotations

import hashlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from engine.config import Detection
from engine.types import Face

FIRST_SCAN = 640
SMALLEST_SEEN = 12
STEP = 3.3
"""How much finer a scan may be than the one before."""
OVERLAP = 0.4
SURE = 0.92
"""Score from which a face counts as upright: of faces lying on their side or head hardly one reaches it."""
CLOSE_UP = 100
"""Side of the face, in pixels, for that look."""
BETTER = 0.02
"""How much higher another quarter turn must score to be tried."""
TILE, OVERLAPPING = 768, 128
"""Longest side of a tile, and how far tiles overlap at least, in pixels of the scan: the largest face kept from one."""
ROOM = 48
"""Pixels of room around the photo in a scan of tiles, for small faces that its border cuts."""
LONGEST = FIRST_SCAN + 2 * (FIRST_SCAN // 8)
"""Longest side of a picture that a network sees: the first scan, with room around it."""
IN_PICTURE, MOST = 0.3, 5000
"""Overlap at which the lower of two finds in one picture is dropped, and how many the highest are that are compared."""


class Detector(Protocol):
    """Finds the faces of one upright RGB photo."""

    def detect(self, pixels: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Faces, largest first."""
        ...


class Look(NamedTuple):
    """A picture for the network, and where its finds belong.

    picture: BGR, sides up to LONGEST. x, y: of its corner in the scan. inner: of a tile, whether its left, top, right
    and bottom edges lie inside the scan. scale: of each number of a find, from the scan to the photo.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    x: int
    y: int
    inner: tuple[bool, bool, bool, bool] | None = None
    scale: Float32[np.ndarray, " 15"] | None = None


class Scanner(ABC):
    """A detector that scans a photo at every scale and in the quarter turns that suit its faces."""

    def __init__(self, settings: Detection | None = None) -> None:
        """settings: what counts as a face."""
        self.settings = settings or Detection()

    @abstractmethod
    def _seen(self, looks: Iterable[Look]) -> Iterator[tuple[Look, Float32[np.ndarray, "n 15"]]]:
        """Finds of the network in each picture, in the order of the looks; the next are taken as they are needed.

        A find is a box (x, y, width, height), five landmarks and a score of at least `min_score`, in pixels of the
        picture. The highest scores come first, and of finds that overlap only the first is kept.
        """

    def detect(self, pixels: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Faces in pixels of the photo, largest first, at least `min_size` and `min_score`.

        Example:
            >>> round(float(YuNet(checkpoint.detector()).detect(photo.pixels)[0].score), 2)
            0.94
        """
        faces = self._scan(pixels)
        turns = {self._best_turn(pixels, face) for face in faces} if faces else {1, 2, 3}
        for quarters in sorted(turns - {0}):
            turned = self._scan(np.ascontiguousarray(np.rot90(pixels, quarters)))
            faces = _rivals(faces, [_turn_back(face, quarters, pixels.shape[:2]) for face in turned])
        return sorted(faces, key=lambda face: (-float(face.box[2:].max()), *face.box.tolist()))

    def _best_turn(self, pixels: UInt8[np.ndarray, "h w 3"], face: Face) -> int:
        """The quarter turn in which the face scores highest, by a closer look at it alone."""
        if face.score >= SURE:
            return 0
        side = float(face.box[2:].max())
        (x, y), reach = face.box[:2] + face.box[2:] / 2, side
        top, left = max(0, int(y - reach)), max(0, int(x - reach))
        near = pixels[top : int(y + reach) + 1, left : int(x + reach) + 1]
        ratio = min(1.0, CLOSE_UP / side)
        size = max(1, round(near.shape[1] * ratio)), max(1, round(near.shape[0] * ratio))
        near = cv2.resize(near, size, interpolation=cv2.INTER_AREA)
        if min(size) < SMALLEST_SEEN:
            return 0
        scores: list[float] = []
        for _, rows in self._seen(_once(np.ascontiguousarray(np.rot90(near, quarters))) for quarters in range(4)):
            scores.append(float(rows[:, 14].max(initial=0)))
            if scores[0] >= SURE:
                return 0
        best = int(np.argmax(scores))
        return best if scores[best] > max(scores[0], face.score) + BETTER else 0

    def _scan(self, pixels: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        finds = [_placed(look, rows) for look, rows in self._seen(_looks(pixels, self.settings.min_size))]
        rows = np.concatenate([np.empty((0, 15), np.float32), *finds])
        rows = rows[rows[:, 2:4].max(axis=1) >= self.settings.min_size]
        return [Face(row[:4].copy(), row[4:14].reshape(5, 2).copy(), float(row[14])) for row in _merge(rows)]


class YuNet(Scanner):
    """The detector that ships with the engine, on the CPU. One instance serves any number of threads."""

    def __init__(self, weights: Path, settings: Detection | None = None) -> None:
        """weights: the ONNX file, read once; `checkpoint.detector()` is the shipped one, checked.

        Raises FileNotFoundError if there is none, ValueError if OpenCV cannot read it.
        """
        super().__init__(settings)
        if not weights.is_file():
            raise FileNotFoundError(f"face detector weights not found: {weights}; reinstall the package")
        self.weights = weights
        self._local = threading.local()  # OpenCV's detector keeps its input size: one for each thread
        self._model = np.fromfile(weights, np.uint8)
        try:
            self._detector()
        except cv2.error as error:
            said = str(error).strip().partition("\n")[0]
            raise ValueError(f"{weights} is no YuNet that OpenCV can read ({said}); reinstall the package") from error

    @cached_property
    def key(self) -> str:
        """Hash of the weights and the settings, on which all that it finds depends."""
        return hashlib.sha256(self._model.tobytes() + repr(sorted(asdict(self.settings).items())).encode()).hexdigest()

    def _detector(self) -> cv2.FaceDetectorYN:
        """This thread's detector."""
        detector = getattr(self._local, "detector", None)
        if detector is None:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of the CPU target on every load
            settings = (32, 32), self.settings.min_score, IN_PICTURE, MOST
            detector = cv2.FaceDetectorYN.create("onnx", self._model, np.empty(0, np.uint8), *settings)
            self._local.detector = detector
        return detector

    def _seen(self, looks: Iterable[Look]) -> Iterator[tuple[Look, Float32[np.ndarray, "n 15"]]]:
        detector = self._detector()
        for look in looks:
            detector.setInputSize((look.picture.shape[1], look.picture.shape[0]))
            rows = detector.detect(look.picture)[1]
            yield look, np.empty((0, 15), np.float32) if rows is None else rows.astype(np.float32)


def _looks(pixels: UInt8[np.ndarray, "h w 3"], min_size: int) -> Iterator[Look]:
    """All that a network has to see of a photo: of the finest scan first."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    small = pixels
    for side in _sides(longest, min_size):
        size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
        if size != (small.shape[1], small.shape[0]):  # from the scan before, which has fewer pixels than the photo
            small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
        if min(size) < SMALLEST_SEEN:
            continue
        scale = np.array([width / size[0], height / size[1]] * 7 + [1], np.float32)
        for look in [_once(small)] if side <= FIRST_SCAN else _tiled(small):
            yield look._replace(scale=scale)


def _once(pixels: UInt8[np.ndarray, "h w 3"]) -> Look:
    """A small picture as a whole."""
    # A face that the border cuts, or that fills the photo, is found only with room around it.
    room = max(8, min(pixels.shape[:2]) // 8)
    return Look(_framed(pixels, room), -room, -room)


def _tiled(pixels: UInt8[np.ndarray, "h w 3"]) -> Iterator[Look]:
    """The tiles of a picture of any size, for faces of up to OVERLAPPING pixels."""
    framed = _framed(pixels, ROOM)
    (high, tops), (wide, lefts) = map(_spans, framed.shape[:2])
    for top, left in product(tops, lefts):
        inner = left != lefts[0], top != tops[0], left != lefts[-1], top != tops[-1]
        tile = np.ascontiguousarray(framed[top : top + high, left : left + wide])
        yield Look(tile, left - ROOM, top - ROOM, inner)


def _placed(look: Look, rows: Float32[np.ndarray, "n 15"]) -> Float32[np.ndarray, "k 15"]:
    """A picture's finds in pixels of the photo, without those of a tile that another tile or scan has as a whole."""
    if look.inner is not None:
        left, top, right, bottom = look.inner
        height, width = look.picture.shape[:2]
        x, y, wide, high = rows[:, :4].T
        # The tile may hold no more than a part of a larger face.
        whole = rows[:, 2:4].max(axis=1, initial=0) <= OVERLAPPING
        whole &= ((x > 2) | (not left)) & ((y > 2) | (not top))
        whole &= ((x + wide < width - 2) | (not right)) & ((y + high < height - 2) | (not bottom))
        rows = rows[whole]
    rows = rows + np.array([look.x, look.y, 0, 0] + [look.x, look.y] * 5 + [0], np.float32)
    return rows if look.scale is None else rows * look.scale


def _sides(longest: int, min_size: int) -> list[int]:
    """Longest sides of the scans of a photo, the finest first, evenly spaced and at most STEP apart."""
    coarsest = min(FIRST_SCAN, longest)
    finest = max(coarsest, min(longest, round(longest * SMALLEST_SEEN / min_size)))
    steps = math.ceil(round(math.log(finest / coarsest, STEP), 6))
    return [round(finest * (coarsest / finest) ** (step / steps)) for step in range(steps)] + [coarsest]


def _framed(pixels: UInt8[np.ndarray, "h w 3"], room: int) -> UInt8[np.ndarray, "H W 3"]:
    """An RGB picture as BGR, with black around it."""
    return cv2.copyMakeBorder(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), room, room, room, room, cv2.BORDER_CONSTANT)


def _spans(side: int) -> tuple[int, list[int]]:
    """The length of the tiles along a side, and where each begins: as few as there can be, all of one length."""
    count = max(1, math.ceil((side - OVERLAPPING) / (TILE - OVERLAPPING)))
    length = min(side, 32 * math.ceil((side + (count - 1) * OVERLAPPING) / count / 32))  # the network works in 32s
    return length, [(side - length) * index // max(1, count - 1) for index in range(count)]


def _merge(rows: Float32[np.ndarray, "n 15"]) -> Float32[np.ndarray, "k 15"]:
    """Non-maximum suppression over the scans, the most confident first."""
    if not len(rows):
        return rows
    indices = cv2.dnn.NMSBoxes(rows[:, :4].astype(np.float64).tolist(), rows[:, 14].tolist(), 0.0, OVERLAP)
    return rows[np.asarray(indices, int).reshape(-1)]


def _rivals(faces: list[Face], turned: list[Face]) -> list[Face]:
    """Both lists, without those in whose place the other list has a face of higher score."""

    def beaten(face: Face, rivals: list[Face]) -> bool:
        middle = face.box[:2] + face.box[2:] / 2
        return any(
            rival.score > face.score
            and bool((abs(rival.box[:2] + rival.box[2:] / 2 - middle) < rival.box[2:] / 2).all())
            for rival in rivals
        )

    return [f for f in faces if not beaten(f, turned)] + [f for f in turned if not beaten(f, faces)]


def _turn_back(face: Face, quarters: int, size: tuple[int, int]) -> Face:
    """A face found on np.rot90(photo, quarters), in pixels of the photo of `size` (height, width)."""
    height, width = size
    x, y = face.landmarks[:, 0], face.landmarks[:, 1]
    left, top, wide, high = face.box
    if quarters == 1:
        points, box = (width - 1 - y, x), (width - top - high, left, high, wide)
    elif quarters == 2:
        points, box = (width - 1 - x, height - 1 - y), (width - left - wide, height - top - high, wide, high)
    else:
        points, box = (y, height - 1 - x), (top, height - left - wide, high, wide)
    return Face(np.array(box, np.float32), np.stack(points, 1).astype(np.float32), face.score)
