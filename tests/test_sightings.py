"""engine.bulk.sightings: nothing is looked at twice, and nothing of another detector, setting or network is used."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import tiny_cloak
from PIL import Image

from engine import Cloaker, Recipe, checkpoint, cli
from engine.bulk.prepare import digest, prepare
from engine.bulk.sightings import NAME, Sightings
from engine.config import Detection
from engine.detect import YuNet
from engine.types import Face, UnsettledError

PHOTO = "0" * 64
FACES = [
    Face(np.array([1.5, 2, 30, 40], np.float32), np.arange(10, dtype=np.float32).reshape(5, 2) / 3, 0.75),
    Face(np.array([-4, 90, 31, 20], np.float32), np.ones((5, 2), np.float32), float(np.float32(0.9))),
]


class Blind:
    """A detector that finds nothing, with a key of its own or none."""

    def __init__(self, key: str | None = "blind") -> None:
        if key is not None:
            self.key = key

    def detect(self, pixels: np.ndarray) -> list[Face]:
        del pixels
        return []


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the photos that the shipped detector searches from now on."""
    shapes: list[tuple[int, ...]] = []
    detect = YuNet.detect

    def counted(self: YuNet, pixels: np.ndarray) -> list[Face]:
        shapes.append(pixels.shape)
        return detect(self, pixels)

    monkeypatch.setattr(YuNet, "detect", counted)
    return shapes


@pytest.fixture
def embeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many faces are embedded to know whose they are, call by call, from now on."""
    counts: list[int] = []
    identify = Cloaker.identify

    def counted(self: Cloaker, canvases: list[np.ndarray], *more: object) -> list[np.ndarray]:
        counts.append(len(canvases))
        return identify(self, canvases, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Cloaker, "identify", counted)
    return counts


@pytest.fixture
def album(photos: Path, tmp_path: Path) -> Path:
    """Three small photos of two people and one of nobody."""
    folder = tmp_path / "album"
    folder.mkdir()
    with Image.open(photos / "obama.jpg") as image:
        face = image.convert("RGB").crop((200, 0, 800, 700)).resize((300, 350))
    face.save(folder / "a.png")
    face.resize((240, 280)).save(folder / "b.png")
    with Image.open(photos / "astronaut.png") as image:
        image.convert("RGB").resize((300, 300)).save(folder / "c.png")
    Image.new("RGB", (200, 150), (90, 120, 60)).save(folder / "d.png")
    return folder


def call(tmp_path: Path, *arguments: object) -> int:
    tiny_cloak.provide(tmp_path / "tiny")
    settings = ["--extractors", "tiny", "--steps", "1", "--batch", "2", "--no-report"]
    return cli.main(["run", *map(str, arguments), *settings])


def same(actual: list[Face] | None, expected: list[Face]) -> None:
    assert actual is not None
    assert len(actual) == len(expected)
    for face, right in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(face.box, right.box)
        np.testing.assert_array_equal(face.landmarks, right.landmarks)
        assert face.score == right.score


@pytest.mark.parametrize("faces", [FACES, []], ids=["faces", "none"])
@pytest.mark.parametrize("kept", [True, False], ids=["folder", "memory"])
def test_faces_come_back_as_they_were(faces: list[Face], kept: bool, tmp_path: Path) -> None:
    seen = Sightings(Blind(), tmp_path if kept else None)
    assert seen.faces(PHOTO) is None
    seen.keep_faces(PHOTO, faces)
    same(seen.faces(PHOTO), faces)
    assert seen.faces("1" * 64) is None
    later = Sightings(Blind(), tmp_path)
    if kept:
        same(later.faces(PHOTO), faces)
    else:
        assert later.faces(PHOTO) is None


@pytest.mark.parametrize("other", [Blind("other"), Blind(None)], ids=["other", "unknown"])
def test_another_detector_finds_nothing(other: Blind, tmp_path: Path) -> None:
    seen = Sightings(Blind(), tmp_path)
    seen.keep_faces(PHOTO, FACES)
    seen.keep_embeddings(PHOTO, {"net": np.ones((2, 3), np.float32)})
    again = Sightings(other, tmp_path)
    assert again.faces(PHOTO) is None
    assert again.embeddings(PHOTO, ["net"]) is None
    again.keep_faces(PHOTO, [])
    same(seen.faces(PHOTO), FACES)


def test_the_key_of_the_detector_is_its_weights_and_settings(tmp_path: Path) -> None:
    path = checkpoint.detector()
    assert YuNet(path).key == YuNet(path, Detection()).key
    others = {YuNet(path, Detection(min_score=0.61)).key, YuNet(path, Detection(min_size=25)).key}
    (tmp_path / "other.onnx").write_bytes(path.read_bytes() + b"\x12\x00")  # a field that says nothing
    others.add(YuNet(tmp_path / "other.onnx").key)
    assert len(others | {YuNet(path).key}) == 4


def test_embeddings_are_known_if_all_networks_are(tmp_path: Path) -> None:
    seen = Sightings(Blind(), tmp_path)
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.float32).reshape(2, 2)
    seen.keep_embeddings(PHOTO, {"one": first})
    assert seen.embeddings(PHOTO, ["one", "two"]) is None
    seen.keep_embeddings(PHOTO, {"two": second})
    embeddings = Sightings(Blind(), tmp_path).embeddings(PHOTO, ["two", "one"])
    assert embeddings is not None
    np.testing.assert_array_equal(embeddings[0], second)
    np.testing.assert_array_equal(embeddings[1], first)
    seen.keep_embeddings(PHOTO, {"two": np.full((2, 2), np.nan, np.float32), "three": second})
    assert seen.embeddings(PHOTO, ["three"]) is None


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        Sightings(Blind(), tmp_path / ".cloak").keep_faces(PHOTO, FACES)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / ".cloak").stat().st_mode) == 0o700
    for file in (tmp_path / ".cloak").glob(NAME + "*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def text(path: Path) -> None:
    path.write_text("no database, but long enough to be taken for one " * 100)


def cut_off(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 100])


def other_form(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE seen (photo TEXT, wrong TEXT)")
    database.close()


def later_form(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize("damage", [text, cut_off, other_form, later_form])
def test_a_damaged_file_is_made_anew(damage: Callable[[Path], None], tmp_path: Path) -> None:
    seen = Sightings(Blind(), tmp_path)
    for index in range(40):
        seen.keep_faces(f"{index:064d}", FACES * 40)
    seen._database.close()
    damage(tmp_path / NAME)
    again = Sightings(Blind(), tmp_path)
    assert again.faces(f"{1:064d}") is None
    again.keep_faces(PHOTO, FACES)
    same(Sightings(Blind(), tmp_path).faces(PHOTO), FACES)


@pytest.mark.parametrize(
    "values", [(2, b"123"), (2, b"1" * 28), (0, b"\0" * 4), ("x", b""), (1, None), (-1, b"\0" * 60)]
)
def test_a_row_that_is_no_faces_is_not_believed(values: tuple[object, object], tmp_path: Path) -> None:
    seen = Sightings(Blind(), tmp_path)
    seen.keep_faces(PHOTO, FACES)
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("UPDATE seen SET faces = ?, data = ?", values)
    database.close()
    faces = seen.faces(PHOTO)
    assert faces is None


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_value_that_changed_is_not_believed(place: int, tmp_path: Path) -> None:
    """SQLite has no checksum for values: an embedding would be NaN, or of another length."""
    seen = Sightings(Blind(), tmp_path)
    seen.keep_faces(PHOTO, FACES)
    seen.keep_embeddings(PHOTO, {"one": np.ones((2, 3), np.float32)})
    with sqlite3.connect(tmp_path / NAME) as database:
        for by, data in database.execute("SELECT by, data FROM seen").fetchall():
            changed = bytearray(data)
            changed[place] ^= 64
            database.execute("UPDATE seen SET data = ? WHERE by = ?", (bytes(changed), by))
    database.close()
    assert seen.faces(PHOTO) is None
    assert seen.embeddings(PHOTO, ["one"]) is None


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    Sightings(Blind(), tmp_path).keep_faces(PHOTO, FACES)
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_threads_and_objects_share_a_folder(tmp_path: Path) -> None:
    stores = [Sightings(Blind(), tmp_path) for _ in range(2)]

    def keep(part: int) -> None:
        for index in range(20):
            stores[part % 2].keep_faces(f"{part}-{index}", FACES[: index % 3])

    threads = [Thread(target=keep, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part in range(4):
        for index in range(20):
            same(stores[0].faces(f"{part}-{index}"), FACES[: index % 3])


def test_a_photo_is_not_searched_again_unless_it_has_changed(
    album: Path, looks: list[tuple[int, ...]], tmp_path: Path
) -> None:
    detector = YuNet(checkpoint.detector())
    seen = Sightings(detector, tmp_path / "kept")
    first = prepare(album / "a.png", detector, sightings=seen)
    again = prepare(album / "a.png", detector, sha256=first.sha256, sightings=seen)
    same(list(again.faces), list(first.faces))
    np.testing.assert_array_equal(again.cuts[0].canvas, first.cuts[0].canvas)
    assert len(looks) == 1
    # What was seen before must not be used on the pixels of now.
    (album / "a.png").write_bytes((album / "d.png").read_bytes())
    with pytest.raises(UnsettledError, match="changed during the run"):
        prepare(album / "a.png", detector, sha256=first.sha256, sightings=seen)
    assert prepare(album / "a.png", detector, sightings=seen).cuts == ()
    assert len(looks) == 2


def test_one_call_of_the_api_detects_every_photo_once(
    album: Path, looks: list[tuple[int, ...]], embeds: list[int], tmp_path: Path
) -> None:
    tiny_cloak.provide(tmp_path / "tiny")
    cloaker = Cloaker(recipe=Recipe(extractors=("tiny",), steps=1), batch=2, workers=2)
    with Image.open(album / "a.png") as image:
        array = np.asarray(image)
    results = cloaker.cloak([*sorted(album.iterdir()), array])
    assert [result.status for result in results] == ["cloaked"] * 3 + ["no_face", "cloaked"]
    assert len(looks) == 5
    assert sum(embeds) == 4


def test_the_next_call_and_other_shards_detect_nothing_again(
    album: Path, looks: list[tuple[int, ...]], embeds: list[int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call(tmp_path, album, "--out", out, "--shard", "0/2") == cli.OK
    assert (len(looks), sum(embeds)) == (4, 3)
    assert call(tmp_path, album, "--out", out, "--shard", "1/2") == cli.OK
    assert call(tmp_path, album, "--out", out, "--rho", "0.01") == cli.OK
    assert (len(looks), sum(embeds)) == (4, 3)
    Image.open(album / "b.png").resize((260, 300)).save(album / "e.png")
    assert call(tmp_path, album, "--out", out) == cli.OK
    assert (len(looks), sum(embeds)) == (5, 4)
    assert call(tmp_path, album, "--out", out, "--min-size", "30") == cli.OK
    assert (len(looks), sum(embeds)) == (10, 8)


def test_what_is_kept_changes_no_file(album: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert call(tmp_path, album, "--out", tmp_path / name) == cli.OK
    text(tmp_path / "two" / ".cloak" / NAME)
    assert call(tmp_path, album, "--out", tmp_path / "two", "--restart") == cli.OK
    assert call(tmp_path, album, "--out", tmp_path / "two", "--restart") == cli.OK
    for path in sorted(album.iterdir())[:3]:
        assert (tmp_path / "one" / path.name).read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_person_of_a_reference_photo_is_known_again(
    album: Path, looks: list[tuple[int, ...]], embeds: list[int], tmp_path: Path
) -> None:
    out, only = tmp_path / "out", album / "a.png"
    call(tmp_path, album, "--out", out, "--only", only)
    assert sorted(path.name for path in out.glob("*.png")) == ["a.png", "b.png"]
    before = len(looks), sum(embeds)
    assert before == (5, 4)  # the reference photo is looked at for itself
    call(tmp_path, album, "--out", out, "--only", only, "--rho", "0.01")
    assert (len(looks), sum(embeds)) == (6, 5)


def test_hash_of_an_array_is_that_of_its_pixels(album: Path) -> None:
    with Image.open(album / "a.png") as image:
        array = np.asarray(image)
    detector = YuNet(checkpoint.detector())
    seen = Sightings(detector)
    assert prepare(array, detector, sightings=seen).sha256 == digest(array)
