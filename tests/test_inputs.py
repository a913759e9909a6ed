"""Which files a run is about, and where they go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.bulk import kinds
from engine.bulk.inputs import InputError, collect
from engine.bulk.kinds import LOOKS


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_one_folder_is_mirrored_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.JPG", "deep/er/b.png", "notes.txt", "._a.JPG", "c")
    items = {item.target: item.skip for item in collect([tmp_path / "in"], out=tmp_path / "out")}
    assert items == {
        "._a.JPG": "not a photo: .JPG",
        "a.JPG": "",
        "c": "not a photo: c",
        "deep/er/b.png": "",
        "notes.txt": "not a photo: .txt",
    }


def test_several_folders_keep_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.jpg", "two/a.jpg", "single.jpg")
    items = collect([tmp_path / "one", tmp_path / "two", tmp_path / "single.jpg"], out=tmp_path / "out")
    assert [item.target for item in items] == ["one/a.jpg", "single.jpg", "two/a.jpg"]


def test_the_output_folder_inside_the_input_is_not_an_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/a.jpg", "out/.cloak/x.part")
    assert [item.target for item in collect([tmp_path], out=tmp_path / "out")] == ["a.jpg"]


def test_a_link_that_leads_back_is_a_fault_and_the_rest_is_found(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "sub/b.jpg")
    (tmp_path / "in/sub/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "else").mkdir()
    touch(tmp_path / "else", "c.jpg")
    (tmp_path / "in/other").symlink_to(tmp_path / "else", target_is_directory=True)
    items = {item.target: item.fault for item in collect([tmp_path / "in"], out=tmp_path / "out")}
    assert items.pop("sub/loop").startswith("a symbolic link that leads back")
    assert items == {"a.jpg": "", "sub/b.jpg": "", "other/c.jpg": ""}


@pytest.mark.parametrize(
    ("names", "format", "targets"),
    [
        (["a.jpg", "b.heic"], "png", ["a.jpg.png", "b.heic.png"]),
        (["a.png", "a.heic"], "png", ["a.heic.png", "a.png"]),
        (["a.JPEG", "b.png"], "jpeg", ["a.JPEG", "b.png.jpg"]),
        (["a.jpg"], "jpeg", ["a.jpg"]),
        (["a.v1.jpg"], "webp", ["a.v1.jpg.webp"]),
    ],
)
def test_a_new_format_adds_its_suffix_whatever_the_neighbours_are_called(
    tmp_path: Path, names: list[str], format: str, targets: list[str]
) -> None:
    touch(tmp_path / "in", *names)
    items = collect([tmp_path / "in"], out=tmp_path / "out", format=format)  # type: ignore[arg-type]
    assert sorted(item.target for item in items) == targets


@pytest.mark.parametrize(
    ("files", "targets"),
    [
        ({"a.gif": b"GIF89a", "b.jpg": b""}, ["a.gif.png", "b.jpg"]),
        ({"a.GIF": b"", "a.jpg": b""}, ["a.GIF.png", "a.jpg"]),
        ({"a.gif": b"GIF89a", "a.PNG": b""}, ["a.PNG", "a.gif.png"]),
        ({"a.gif": b"\xff\xd8\xff\xe0"}, ["a.gif"]),
    ],
)
def test_a_gif_is_written_as_png_under_a_name_that_no_neighbour_changes(
    tmp_path: Path, files: dict[str, bytes], targets: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    items = collect([tmp_path / "in"], out=tmp_path / "out")
    assert sorted(item.target for item in items) == targets
    assert sorted(item.source.name for item in items) == sorted(files)


def test_mistakes_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "y/x/a.jpg")
    with pytest.raises(InputError, match="no photos given"):
        collect([], out=tmp_path / "out")
    with pytest.raises(InputError, match="nowhere"):
        collect([tmp_path / "nowhere"], out=tmp_path / "out")
    with pytest.raises(InputError, match=r"both be written to x/a\.jpg"):
        collect([tmp_path / "x", tmp_path / "y/x"], out=tmp_path / "out")
    for format in ("keep", "png"):
        with pytest.raises(InputError, match=r"is --out itself: choose another"):
            collect([tmp_path / "x"], out=tmp_path / "x", format=format)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="overwritten by its own cloaked version"):
        collect([tmp_path / "x/a.jpg"], out=tmp_path / "x")


def test_a_photo_is_known_by_its_content_and_what_looks_like_one_is_said(tmp_path: Path) -> None:
    jpeg = b"\xff\xd8\xff\xe0"
    files = {"bare": jpeg, "a.jpg_original": jpeg, "x.dng": b"II*\0", "x.jxl": b"\xff\x0a", "Thumbs.db": b"\xd0\xcf",
             "x.mov": b"\0\0\0\x14ftypqt  ", "layers": b"8BPS"}  # fmt: skip
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "2019").symlink_to("away")
    items = {item.target: item for item in collect([tmp_path / "in"], out=tmp_path / "out")}
    assert sorted(name for name, item in items.items() if not (item.skip or item.fault)) == ["a.jpg_original", "bare"]
    assert [name for name, item in sorted(items.items()) if item.skip.startswith(LOOKS)] == ["layers", "x.dng", "x.jxl"]
    assert "to nothing" in items["2019"].fault
    assert "named pipe" in items["pipe"].skip


def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in", "a.jpg", "shut/b.jpg")
    listed = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    items = {item.target: item.fault for item in collect([tmp_path / "in"], out=tmp_path / "out")}
    assert items.pop("shut").startswith("This folder cannot be read (Permission denied)")
    assert items == {"a.jpg": ""}


def test_what_cannot_be_read_may_be_a_photo_and_is_not_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "in", "IMG_0001", "notes.txt")
    (tmp_path / "in" / "lock.txt").symlink_to("nothing")

    def opened(path: Path) -> object:
        raise OSError(5, "Input/output error", path) if path.exists() else FileNotFoundError(2, "No such file", path)

    monkeypatch.setattr(kinds.files, "opened", opened)
    items = {item.target: item for item in collect([tmp_path / "in"], out=tmp_path / "out")}
    assert [name for name, item in sorted(items.items()) if not (item.skip or item.fault)] == ["IMG_0001", "notes.txt"]
    assert items["lock.txt"].skip == "not a photo: .txt (a link to nothing, or gone since)"
