"""engine.robust.data and store: who is trained on, the same batches however one comes to them, faces aligned once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_robust

from engine.dataset import photos_of
from engine.robust import data, store
from engine.robust.data import Augmentation
from engine.robust.store import NO_FACE, Store

WINDOW = (32.0, 144.0)


def rows(people: int = 8, photos: int = 3) -> dict[str, list[int]]:
    return {f"person-{n}": list(range(n * photos, (n + 1) * photos)) for n in range(people)}


def stream(first: int = 0, share: tuple[int, int] = (0, 1), count: int = 5, **changes: object) -> list:
    part = data.split(rows(), held_out=2, seed=1)
    canvases = np.stack([tiny_robust.face(row // 3, row % 3) for row in range(24)])
    anchors = np.eye(24, dtype=np.float32)
    settings: dict[str, Any] = {"window": WINDOW, "augmentation": Augmentation(), "size": 4, "seed": 3, **changes}
    iterator = data.batches(canvases, anchors, part, first=first, share=share, **settings)
    return [next(iterator) for _ in range(count)]


def assert_equal(values: Iterable[Any], expected_values: Iterable[Any]) -> None:
    for value, expected in zip(values, expected_values, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_nobody_is_both_trained_on_and_held_out() -> None:
    part = data.split(rows(), held_out=3, seed=5)
    owner = {row: name for name, person_rows in rows().items() for row in person_rows}
    trained = {owner[row] for row in part.rows.tolist()}
    held = [owner[row] for row in part.probes.tolist()]
    assert [owner[row] for row in part.gallery.tolist()] == held
    assert len(trained) == part.people == 5
    assert not trained & set(held)
    assert (part.gallery != part.probes).all()
    photos = [f"{row:064x}" for row in range(24)]
    assert data.split(rows(), held_out=3, seed=5).sha256(photos) == part.sha256(photos)
    assert data.split(rows(), held_out=3, seed=6).sha256(photos) != part.sha256(photos)


def prepared(folder: Path) -> tuple[str, list]:
    """The hash of a training's faces, and its first batches; folder: with `people` and `faces` of `tiny_robust`."""
    faces = Store(folder / "faces")
    photos = photos_of(folder / "people")
    aligned = {name: faces.align(paths).tolist() for name, paths in photos.items()}
    part = data.split(aligned, held_out=2, seed=1)
    anchors = faces.embeddings(tiny.extractor())
    stream = data.batches(faces.canvases(), anchors, part, window=WINDOW, augmentation=Augmentation(), size=4, seed=3)
    return part.sha256(faces.photos()), [next(stream) for _ in range(5)]


def test_a_training_is_told_by_its_photos_not_by_rows_of_the_store(tmp_path: Path) -> None:
    for name, first, backwards in (("one", 0, False), ("turned", 0, True), ("other", 50, False)):
        tiny_robust.people(
            tmp_path / name / "people", tmp_path / name / "faces", count=6, first=first, backwards=backwards
        )
    one, turned, other = (prepared(tmp_path / name) for name in ("one", "turned", "other"))
    assert Store(tmp_path / "turned" / "faces").photos() == Store(tmp_path / "one" / "faces").photos()[::-1]
    assert one[0] == turned[0] != other[0]
    for batch, same in zip(one[1], turned[1], strict=True):
        assert_equal(batch._replace(anchor=0), same._replace(anchor=0))
        np.testing.assert_allclose(batch.anchor, same.anchor, atol=1e-6)


def test_photos_without_a_face_are_left_out() -> None:
    part = data.split({**rows(), "faceless": [NO_FACE], "one": [24, NO_FACE]}, held_out=2, seed=0)
    assert NO_FACE not in part.rows
    assert 24 in part.rows
    assert part.labels.max() == part.people - 1 == 6


def test_copies_of_photos_are_split_as_if_they_were_not_there() -> None:
    copies = {name: [person_rows[0], *person_rows] for name, person_rows in rows().items()}
    assert_equal(data.split(copies, held_out=4, seed=1), data.split(rows(), held_out=4, seed=1))


def test_a_photo_of_several_people_is_nobodys() -> None:
    shared = {name: [*person_rows, 24] for name, person_rows in rows().items()}
    assert_equal(data.split(shared, held_out=4, seed=1), data.split(rows(), held_out=4, seed=1))
    for seed in range(20):
        part = data.split({**rows(4), "a": [0, 12], "b": [12, 3, 13, 13]}, held_out=3, seed=seed)
        held = {*part.gallery.tolist(), *part.probes.tolist()}
        assert len(held) == 6
        assert not held & set(part.rows.tolist())
        assert not {0, 3, 12} & {*held, *part.rows.tolist()}
    with pytest.raises(ValueError, match="3 people have a photo with a face that nobody else has, 1 of them two or"):
        data.split({"a": [0, 0], "b": [1, 1], "c": [0, 0, 2], "d": [3, 4]}, held_out=2, seed=0)


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ValueError, match="3 of them two or more: too few to hold out 4"):
        data.split(rows(3), held_out=4, seed=0)
    with pytest.raises(ValueError, match="at least 2 people"):
        data.split(rows(), held_out=1, seed=0)


def test_people_of_an_evaluation_are_kept_out(tmp_path: Path) -> None:
    for name in ("ann", "bob", "eve", "joe", "kim"):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        (tmp_path / "lfw" / name / "0.jpg").touch()
    half = {"scraped": ["0.jpg"], "tests": []}
    lists = {"users": {"ann": half}, "others": {"bob": half}, "public": {"eve": half}}
    (tmp_path / "people.json").write_text(json.dumps(lists))
    without = data.names_in(tmp_path / "people.json")
    assert set(photos_of(tmp_path / "lfw", without=without)) == {"joe", "kim"}
    assert set(photos_of(tmp_path / "lfw")) == {"ann", "bob", "eve", "joe", "kim"}
    with pytest.raises(ValueError, match="nobody is left"):
        photos_of(tmp_path / "lfw", without=frozenset({"ann", "bob", "eve", "joe", "kim"}))


@pytest.mark.parametrize("content", ["{}", "[", '{"users": {}, "others": {}, "public": {}}', '["ann"]'])
def test_what_is_no_list_of_people_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "people.json").write_text(content)
    with pytest.raises(ValueError, match=r"people\.json"):
        data.names_in(tmp_path / "people.json")


def test_a_batch_is_the_same_however_one_came_to_it() -> None:
    for late, early in zip(stream(first=3, count=2), stream()[3:], strict=True):
        assert_equal(late, early)


def test_an_epoch_has_every_face_once_and_the_next_in_another_order() -> None:
    labels = [
        np.concatenate([batch.anchor.argmax(axis=1) for batch in stream(size=6, count=6)[n : n + 3]]) for n in (0, 3)
    ]
    part = data.split(rows(), held_out=2, seed=1)
    assert sorted(labels[0]) == sorted(labels[1]) == sorted(part.rows)
    assert (labels[0] != labels[1]).any()


def test_processes_share_a_batch() -> None:
    whole = stream(count=2)
    for n, batch in enumerate(whole):
        shares = [stream(first=n, count=1, share=(index, 2))[0] for index in range(2)]
        assert_equal(
            batch, [np.stack(pair, axis=1).reshape(-1, *pair[0].shape[1:]) for pair in zip(*shares, strict=True)]
        )
    with pytest.raises(ValueError, match="cannot be split over 3"):
        stream(share=(0, 3))


def test_a_record_keeps_its_face_its_label_and_its_anchor() -> None:
    plain = Augmentation(flip=0, scale=0, shift=0, jpeg=0, blur=0)
    part = data.split(rows(), held_out=2, seed=1)
    label_of = dict(zip(part.rows.tolist(), part.labels.tolist(), strict=True))
    for batch in stream(augmentation=plain, count=2):
        for canvas, label, anchor, window in zip(batch.canvas, batch.label, batch.anchor, batch.window, strict=True):
            row = int(anchor.argmax())
            np.testing.assert_array_equal(canvas, tiny_robust.face(row // 3, row % 3))
            assert label == label_of[row]
            np.testing.assert_array_equal(window, [WINDOW, WINDOW])


def test_augmentation_stays_in_its_ranges_and_changes_every_photo() -> None:
    draw = np.random.default_rng(0)
    settings = Augmentation(flip=0.5, scale=0.1, shift=0.05)
    windows = np.stack([data.jittered(WINDOW, settings, draw) for _ in range(400)])
    sides = np.abs(windows[:, :, 1] - windows[:, :, 0])
    assert 112 * 0.9 <= sides.min() < 103
    assert 121 < sides.max() <= 112 * 1.1 + 1e-3
    assert np.abs(windows.mean(axis=2) - 88).max() <= 112 * 0.05 + 1e-3
    assert (windows[:, 0, 0] < windows[:, 0, 1]).all()
    assert 150 < (windows[:, 1, 0] > windows[:, 1, 1]).sum() < 250
    face = tiny.texture_pixels(1, 176, 176)
    spoilt = data.degraded(face, Augmentation(jpeg=1, qualities=(30, 30), blur=1, sigmas=(1.5, 1.5)), draw)
    assert 1 < np.abs(spoilt.astype(int) - face).mean() < 30
    np.testing.assert_array_equal(data.degraded(face, Augmentation(jpeg=0, blur=0), draw), face)


@pytest.mark.parametrize("values", [{"flip": 2.0}, {"scale": 0.5}, {"qualities": (90, 50)}, {"sigmas": (0.0, 1.0)}])
def test_augmentation_that_cannot_be_is_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Augmentation(**values)


def test_faces_are_aligned_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    paths = [photos / "obama.jpg", tmp_path / "broken.jpg", photos / "biden.jpg"]
    faces = Store(tmp_path / "faces")
    assert faces.align(paths[:1]).tolist() == [0]
    aligned = faces.align(paths)
    assert aligned.tolist() == [0, NO_FACE, 1]
    canvases = faces.canvases()
    assert canvases.shape == (2, 176, 176, 3)
    assert isinstance(canvases, np.memmap)
    assert canvases.std(axis=(1, 2, 3)).min() > 20
    rows = faces.embeddings(tiny.extractor())
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)

    def no_detector(*_: object) -> None:
        raise AssertionError("a face was looked for again")

    monkeypatch.setattr(store, "_canvas", no_detector)
    assert Store(tmp_path / "faces").align(paths[::-1]).tolist() == [1, NO_FACE, 0]


def test_what_a_killed_process_left_behind_does_no_harm(tmp_path: Path) -> None:
    tiny_robust.people(tmp_path / "people", tmp_path / "faces", count=2)
    paths = sorted((tmp_path / "people").rglob("*.jpg"))
    with (tmp_path / "faces" / "index.jsonl").open("a") as file:
        file.write('{"sha256": "00')
    with (tmp_path / "faces" / "canvases.u8").open("ab") as file:
        file.write(b"half a canvas")
    aligned = Store(tmp_path / "faces").align([*paths, _not_a_photo(tmp_path)])
    assert aligned.tolist() == [0, 1, 2, 3, 4, 5, NO_FACE]
    assert len(Store(tmp_path / "faces").canvases()) == 6
    assert Store(tmp_path / "faces").align([tmp_path / "new.jpg"]).tolist() == [NO_FACE]


def _not_a_photo(folder: Path) -> Path:
    (folder / "new.jpg").write_bytes(b"new")
    return folder / "new.jpg"


def test_a_window_that_lies_lower_is_jittered_round_where_it_lies() -> None:
    draw = np.random.default_rng(0)
    rows = ((48.0, 160.0), (32.0, 144.0))
    windows = np.stack([data.jittered(rows, Augmentation(flip=0, scale=0.1, shift=0.05), draw) for _ in range(400)])
    np.testing.assert_allclose(windows.mean(axis=(0, 2)), [104.0, 88.0], atol=1)
    still = data.jittered(rows, Augmentation(flip=0, scale=0, shift=0), draw)
    np.testing.assert_array_equal(still, np.array(rows, np.float32))
