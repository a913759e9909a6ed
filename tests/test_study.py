"""engine.evaluate.study: sets of cloaked files are found again however their folder is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_cloak

from engine.config import Recipe
from engine.evaluate.dataset import People, Person
from engine.evaluate.study import Study, linked


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
