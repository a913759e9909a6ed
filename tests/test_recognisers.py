"""engine.evaluate.recognisers: photos to embeddings, each computed once."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import tiny
from there import all_there, there

from engine import checkpoint, extractors, photo
from engine.config import TEMPLATE, Detection
from engine.detect import YuNet
from engine.evaluate.recognisers import (
    BATCH,
    CHUNK,
    DetectedOnce,
    ExtractorRecogniser,
    Remembered,
    available,
    in_threads,
    recogniser,
)
from engine.extractors import Entry, registry
from engine.faces import central, cut
from engine.types import Face

SIDE = 240


def face(left: float, top: float, *, scale: float = 0.5) -> Face:
    """A face whose canvas is the square of side CANVAS * scale at (left, top)."""
    landmarks = np.array(TEMPLATE, np.float32) * scale + np.array([left, top], np.float32)
    box = np.array([left + 50 * scale, top + 50 * scale, 76 * scale, 90 * scale], np.float32)
    return Face(box, landmarks, 0.9)


CORNER, MIDDLE = face(2, 2), face(76, 76)


class Detects(YuNet):
    """Two faces, the larger one in a corner, on everything that is not black."""

    def __init__(self) -> None:
        super().__init__(checkpoint.detector())

    def detect(self, pixels: np.ndarray) -> list[Face]:
        return [CORNER, MIDDLE] if pixels.any() else []


def photos_in(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), tiny.texture_pixels(number, SIDE, SIDE))
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photos_in(tmp_path_factory.mktemp("photos"), BATCH + 3)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A photo without a face, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("odd")
    cv2.imwrite(str(folder / "black.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    (folder / "text.jpg").write_text("no photo")
    return [folder / "black.png", folder / "text.jpg"]


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny extractor's name in the registry."""
    network = tiny.extractor()
    checkpoint.save(tmp_path / "tiny", network.params)
    entry = Entry(lambda *, rngs: tiny.Net(seed=0), network.spec, network.dim, tmp_path / "tiny")
    monkeypatch.setitem(registry._registered, "tiny-recogniser", entry)
    return "tiny-recogniser"


@pytest.mark.parametrize(
    ("boxes", "size", "expected"),
    [
        ([(0, 0, 10, 10)], (100, 100), 0),
        ([(0, 0, 10, 10), (45, 45, 10, 10)], (100, 100), 1),
        ([(0, 0, 90, 90), (49, 49, 2, 2)], (100, 100), 1),  # the middle of the box counts, not its corner or size
        ([(190, 40, 10, 10), (90, 80, 20, 20)], (100, 200), 1),  # of width 200
        ([(90, 190, 10, 10), (40, 90, 20, 20)], (200, 100), 1),  # of height 200
        ([(-50, -50, 10, 10), (-10, -10, 10, 10)], (20, 20), 1),
    ],
)
def test_the_central_face_is_the_one_nearest_to_the_middle(boxes, size, expected):
    assert central([np.array(box, np.float32) for box in boxes], size) == expected


def test_work_in_threads_comes_in_order_and_not_far_ahead():
    begun, lock = [], threading.Lock()

    def work(number: int) -> int:
        with lock:
            begun.append(number)
        return -number

    results = in_threads(work, range(30), ahead=4)
    assert next(results) == 0
    assert len(begun) <= 5
    assert [0, *results] == [-number for number in range(30)]


def test_what_fails_in_a_thread_is_raised_where_its_result_is_asked_for():
    results = in_threads(lambda number: 1 // (2 - number), range(9), ahead=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_same_pixels_are_looked_at_once(monkeypatch):
    looks = []
    monkeypatch.setattr(YuNet, "detect", lambda self, pixels: looks.append(pixels.shape) or [MIDDLE])
    detector = DetectedOnce()
    pixels = tiny.texture_pixels(0, 40, 60)
    assert detector.detect(pixels) == detector.detect(pixels.copy()) == [MIDDLE]
    detector.detect(pixels.reshape(60, 40, 3))
    detector.detect(pixels + 1)
    assert looks == [(40, 60, 3), (60, 40, 3), (40, 60, 3)]


def test_the_detector_that_remembers_finds_the_same_faces(photos):
    pixels = photo.read(photos / "obama.jpg").pixels
    plain = YuNet(checkpoint.detector()).detect(pixels)
    detector = DetectedOnce()
    for faces in (detector.detect(pixels), detector.detect(pixels)):
        assert [seen_face.box.tolist() for seen_face in faces] == [seen_face.box.tolist() for seen_face in plain]


def test_an_extractor_embeds_the_canvas_of_the_central_face(registered, paths):
    rows = all_there(ExtractorRecogniser(registered, Detects()).embed(paths))
    assert len(rows) == len(paths)
    batch = np.stack([cut(photo.read(path).pixels, MIDDLE).canvas for path in paths])
    expected = np.asarray(extractors.embed_batch(extractors.load(registered), batch))
    np.testing.assert_allclose(np.stack(rows), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_neighbours_and_their_number_do_not_matter(registered, paths, odd):
    embedder = ExtractorRecogniser(registered, Detects())
    together = embedder.embed([odd[0], *paths[::-1], odd[1]])
    assert together[0] is together[-1] is None
    for index in (0, 5, len(paths) - 1):
        (alone,) = embedder.embed([paths[index]])
        np.testing.assert_allclose(there(together[len(paths) - index]), there(alone), atol=1e-6)
    assert embedder.embed([]) == []
    assert embedder.embed(odd) == [None, None]


def test_no_number_of_photos_compiles_anything_new(registered, paths, odd):
    embedder = ExtractorRecogniser(registered, Detects())
    embedder.embed(paths[:2])
    compiled = extractors.embed_batch._cache_size()  # type: ignore[missing-attribute]  # what jax.jit returns has it
    for some in (paths[:1], paths[:BATCH], paths, [*odd, *paths]):
        embedder.embed(some)
    assert extractors.embed_batch._cache_size() == compiled  # type: ignore[missing-attribute]


def test_a_photo_that_is_not_there_is_an_error(registered, tmp_path):
    with pytest.raises(FileNotFoundError):
        ExtractorRecogniser(registered, Detects()).embed([tmp_path / "gone.jpg"])


def test_an_extractor_says_what_it_is(registered):
    embedder = ExtractorRecogniser(registered, Detects())
    assert (embedder.name, embedder.extractors) == (registered, (registered,))
    assert extractors.load(registered).weights_sha256 in embedder.version
    shipped = ExtractorRecogniser("sface", DetectedOnce())
    assert shipped.version != ExtractorRecogniser("sface", DetectedOnce(Detection(min_score=0.7))).version
    assert shipped.version != ExtractorRecogniser("faceres", DetectedOnce()).version


class Counts:
    """A recogniser whose embedding is the first bytes of the file, None for an empty one; counts what it is asked."""

    extractors: tuple[str, ...] = ("tiny",)

    def __init__(self, name: str = "counts", version: str = "1") -> None:
        self.name, self.version = name, version
        self.asked: list[str] = []

    def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
        self.asked += [path.name for path in photos]
        return [np.frombuffer(path.read_bytes()[:4], np.uint8) / np.float32(255) if path.stat().st_size else None
                for path in photos]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "files").mkdir()
    made = [tmp_path / "files" / name for name in ("a", "b", "none", "a-again")]
    for path, data in zip(made, (b"aaaa", b"bbbb", b"", b"aaaa"), strict=True):
        path.write_bytes(data)
    return made


def test_each_content_is_embedded_once_ever_and_no_face_is_remembered_too(tmp_path, files):
    first = Counts()
    rows = Remembered(first, tmp_path).embed(files)
    assert first.asked == ["a", "b", "none"]
    np.testing.assert_array_equal(rows[0], np.full(4, ord("a"), np.float32) / np.float32(255))
    assert rows[2] is None
    np.testing.assert_array_equal(rows[3], rows[0])
    later = Counts()
    shutil.copy(files[1], tmp_path / "moved")
    again = Remembered(later, tmp_path).embed([*files, tmp_path / "moved"])
    assert later.asked == []
    assert [None if row is None else (row.dtype, row.tolist()) for row in again] == [
        None if row is None else (np.float32, row.tolist()) for row in [*rows, rows[1]]
    ]


@pytest.mark.parametrize("other", [{"name": "another"}, {"version": "2"}])
def test_another_recogniser_or_version_shares_nothing(tmp_path, files, other):
    Remembered(Counts(), tmp_path).embed(files)
    anew = Counts(**other)
    Remembered(anew, tmp_path).embed(files)
    assert anew.asked == ["a", "b", "none"]


def test_a_file_that_has_changed_is_embedded_again(tmp_path, files):
    counts = Counts()
    remembered = Remembered(counts, tmp_path)
    remembered.embed(files)
    files[1].write_bytes(b"other")
    (row,) = remembered.embed([files[1]])
    assert counts.asked[3:] == ["b"]
    np.testing.assert_array_equal(row, np.frombuffer(b"othe", np.uint8) / np.float32(255))


def test_it_is_the_recogniser_to_everybody_else(tmp_path):
    remembered = Remembered(Counts(version="7"), tmp_path)
    assert (remembered.name, remembered.extractors, remembered.version) == ("counts", ("tiny",), "7")


def test_missing_counts_contents_and_progress_tells_of_what_is_new(tmp_path, files):
    told = []
    remembered = Remembered(Counts(), tmp_path, lambda *step: told.append(step))
    assert remembered.missing(files) == 3
    remembered.embed(files[:1])
    assert remembered.missing(files) == 2
    remembered.embed(files)
    assert remembered.missing(files) == 0
    assert told == [("embeddings of counts", 1, 1), ("embeddings of counts", 2, 2)]


def test_nothing_is_written_before_there_is_something_to_remember(tmp_path, files):
    remembered = Remembered(Counts(), tmp_path / "cache")
    assert remembered.missing(files) == 3
    assert remembered.embed([]) == []
    assert not (tmp_path / "cache").exists()


def test_a_photo_that_is_not_there_is_not_remembered_as_faceless(tmp_path):
    with pytest.raises(FileNotFoundError):
        Remembered(Counts(), tmp_path).embed([tmp_path / "gone.jpg"])


def test_what_is_no_database_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "embeddings.sqlite").write_text("something else altogether, and long enough for a header of SQLite")
    with pytest.raises(ValueError, match="delete it"):
        Remembered(Counts(), tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.evaluate.recognisers import Remembered
sys.path.insert(0, {tests!r})
from test_recognisers import Counts

class Dies(Counts):
    def embed(self, photos):
        if self.asked:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(photos)

folder = Path(sys.argv[1])
Remembered(Dies(), folder).embed(sorted((folder / "many").iterdir()))
"""


def test_a_killed_run_has_lost_one_chunk_at_most(tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(CHUNK + 5):
        (tmp_path / "many" / f"{number:03}").write_bytes(number.to_bytes(4, "big"))
    script = KILLED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    counts = Counts()
    remembered = Remembered(counts, tmp_path)
    many = sorted((tmp_path / "many").iterdir())
    assert remembered.missing(many) == 5
    rows = remembered.embed(many)
    assert counts.asked == [path.name for path in many[CHUNK:]]
    np.testing.assert_array_equal(rows[3], np.array([0, 0, 0, 3], np.float32) / np.float32(255))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    (tmp_path / "first").write_bytes(b"first")
    Remembered(Counts(), tmp_path).embed([tmp_path / "first"])
    connection = sqlite3.connect(tmp_path / "embeddings.sqlite", isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_two_processes_take_turns(tmp_path, files, writer):
    writer.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, writer.execute, ["COMMIT"]).start()
    assert len(Remembered(Counts(), tmp_path).embed(files)) == 4


def test_recognisers_are_found_by_name(registered, tmp_path):
    detector = DetectedOnce()
    assert {registered, "sface", "dlib", "opencv-sface=FILE", "human=FOLDER"} <= set(available())
    assert isinstance(recogniser(registered, detector), ExtractorRecogniser)
    assert recogniser("dlib", detector).name == "dlib"
    for wanted, message in {
        "facenet": "no recogniser is called 'facenet'; there are .*sface.*dlib.*human=FOLDER",
        "dlib=x": "no recogniser is called",
        "opencv-sface": "opencv-sface=FILE.onnx",
        "human=": "human=FOLDER",
        f"opencv-sface={tmp_path / 'gone.onnx'}": "gone.onnx is not there",
        f"human={tmp_path}": "npm install --prefix",
    }.items():
        with pytest.raises(ValueError, match=message):
            recogniser(wanted, detector)


@pytest.mark.slow
def test_networks_that_share_a_detector_tell_people_apart(faces_folder):
    people = sorted(p for p in (faces_folder / "lfw").iterdir() if len(list(p.iterdir())) >= 20)[:2]
    paths = [path for person in people for path in sorted(person.iterdir())[:2]]
    detector = DetectedOnce()
    for name in ("mobilefacenet-192", "sface"):
        with jax.default_matmul_precision("highest"):
            rows = np.stack(all_there(recogniser(name, detector).embed(paths)))
        similarity = rows @ rows.T
        assert min(similarity[0, 1], similarity[2, 3]) > similarity[:2, 2:].max() + 0.2
