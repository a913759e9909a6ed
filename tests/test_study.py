"""engine.evaluate.study: sets of cloaked files are found again however their folder is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_cloak
from PIL import Image

from engine.config import Recipe
from engine.evaluate.dataset import People, Person
from engine.evaluate.study import CloakSet, Study, linked


def test_a_set_is_found_again_by_another_spelling_of_its_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by a relative path, found by an absolute one, through a link, with dots, and in a copy of the folder."""
    tiny_cloak.provide(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    people = People((Person("ada", (photos / "obama.jpg",), ()),), (), ())
    recipe = Recipe(extractors=("tiny",), steps=1)

    def made(out: Path) -> tuple[int, dict[str, int]]:
        study = Study(people, out, recipe)
        wanted = study.wanted()
        missing = study.missing(wanted)
        cloaks = study.cloaks(wanted)
        return missing, {str(file.relative_to(out)): file.stat().st_mtime_ns for file in cloaks.files.values() if file}

    missing, first = made(Path("out"))
    assert missing == 1
    assert len(first) == 1
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for out in (tmp_path / "out", Path("tiny/../out"), tmp_path / "link", Path("out")):
        assert made(out) == (0, first), out
    shutil.copytree(tmp_path / "out", tmp_path / "copy", symlinks=True)
    missing, copied = made(tmp_path / "copy")
    assert (missing, copied.keys()) == (0, first.keys())


def test_a_link_follows_a_photo_that_has_moved(tmp_path: Path) -> None:
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(name.encode())
        linked(tmp_path / "link", tmp_path / name)
        linked(tmp_path / "link", tmp_path / name)
        assert (tmp_path / "link").read_bytes() == name.encode()


@pytest.fixture
def shots(photos: Path, tmp_path: Path) -> list[Path]:
    """The same person at three sizes, and the tiny network."""
    tiny_cloak.provide(tmp_path / "tiny")
    made = []
    with Image.open(photos / "obama.jpg") as image:
        for width in (300, 320, 340):
            made.append(tmp_path / "faces" / f"{width}.png")
            made[-1].parent.mkdir(exist_ok=True)
            image.convert("RGB").resize((width, width * image.height // image.width)).save(made[-1])
    return made


def test_cloaks_depend_on_the_call_and_not_on_what_was_cloaked_before(shots: list[Path], tmp_path: Path) -> None:
    """Two photos of a person go another way than one with two more of the person beside them."""
    recipe = Recipe(extractors=("tiny",), steps=6)

    def cloaks(out: str, used: list[Path]) -> dict[str, bytes]:
        study = Study(People((Person("ada", tuple(used), ()),), (), ()), tmp_path / out, recipe)
        made = study.cloaks(study.wanted())
        assert study.missing(study.wanted()) == 0
        return {photo.name: file.read_bytes() for photo, file in made.files.items() if file}

    fresh = cloaks("fresh", shots[:2])
    more = cloaks("used", shots)
    assert more["300.png"] != fresh["300.png"], "this test would prove nothing"
    assert cloaks("used", shots[:2]) == fresh
    assert cloaks("used", shots) == more


def test_sets_of_other_people_or_photos_have_other_folders(tmp_path: Path) -> None:
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    one, two = tmp_path / "one.jpg", tmp_path / "two.jpg"
    groups = [((), ()), ((one,), ()), ((one, two), ()), ((one,), (two,))]
    people = [tuple(Person(f"p{number}", photos, ()) for number, photos in enumerate(group)) for group in groups]
    labels = [CloakSet(Recipe(), group).label for group in people]
    one.write_bytes(b"another photo")
    assert len({*labels, CloakSet(Recipe(), people[1]).label}) == 5


def test_a_label_is_a_name_for_every_file_system() -> None:
    """Two lists of networks that differ only at their ends."""
    names = [f"network-number-{number}" for number in range(40)]
    labels = {CloakSet(Recipe(extractors=(*names, last), turn=None), ()).label for last in ("a", "b")}
    assert len(labels) == 2
    assert all(len(label.encode()) < 255 for label in labels)
