"""A photo is read once, and what is known of it is of that reading."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import photo as photos
from engine.bulk import trouble
from engine.bulk.inputs import Item
from engine.bulk.plan import Task
from engine.bulk.prepare import digest, prepare, still
from engine.types import Face, Photo, PhotoError, UnsettledError


class Nobody:
    """A detector that finds no face."""

    def detect(self, pixels: np.ndarray) -> list[Face]:
        del pixels
        return []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(path)
    return path


def task(path: Path, *, size: int = 100, modified: int = 5) -> Task:
    return Task(Item(path, path.name), size, modified, "0" * 64, "key")


def test_hash_and_pixels_are_of_one_reading(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(picture)
    reads = []
    load = photos.load

    def changed_after(path: Path) -> bytes:
        reads.append(path)
        data = load(path)
        Image.fromarray(np.full((40, 30, 3), 200, np.uint8)).save(path)
        return data

    monkeypatch.setattr(photos, "load", changed_after)
    prepared = prepare(picture, Nobody())
    assert reads == [picture]
    assert prepared.sha256 == before
    assert int(prepared.photo.pixels.max()) == 90


def test_a_photo_that_is_another_than_was_planned_is_not_taken_for_it(picture: Path) -> None:
    known = digest(picture)
    assert prepare(picture, Nobody(), sha256=known).sha256 == known
    Image.fromarray(np.full((40, 30, 3), 200, np.uint8)).save(picture)
    with pytest.raises(UnsettledError, match="changed during the run"):
        prepare(picture, Nobody(), sha256=known)
    picture.write_bytes(b"damaged")
    with pytest.raises(UnsettledError, match="changed during the run"):
        prepare(picture, Nobody(), sha256=known)
    picture.unlink()
    with pytest.raises(UnsettledError, match="no such file"):
        prepare(picture, Nobody(), sha256=known)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UnsettledError("It was changed."), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (PhotoError("It is damaged."), False),
    ],
)
def test_only_what_a_photo_itself_is_at_fault_for_is_final(error: Exception, again: bool, picture: Path) -> None:
    row = trouble.row(task(picture), error, out=None)
    assert row.status == "failed"
    assert (row.key == "") == again


def test_what_could_not_be_read_when_the_run_was_planned_is_not_tried_for_ever(picture: Path) -> None:
    unseen = replace(task(picture), size=0, modified=0)
    assert trouble.row(unseen, UnsettledError("There is no such file."), out=None).key == "key"


def test_pictures_that_show_different_things_are_different_photos() -> None:
    """The hash is of what is seen: upright, with the palette's colours, and with what is transparent."""
    upright = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 30, 3))
    turned, buffers = upright.transpose(Image.Transpose.ROTATE_90), []
    for orientation in (1, 6):
        buffers.append(io.BytesIO())
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned.save(buffers[-1], "PNG", exif=exif)
    indices = np.arange(1200, dtype=np.uint32).astype(np.uint8).reshape(40, 30)
    palettes = [Image.fromarray(indices, "P") for _ in range(2)]
    for palette, step in zip(palettes, (1, 3), strict=True):
        palette.putpalette([value * step % 256 for value in range(256) for _ in range(3)])
    clear = upright.copy()
    clear.putalpha(90)
    different = [
        turned,
        Image.open(buffers[1]),
        *palettes,
        clear,
        np.asarray(upright)[..., 0],
        np.zeros((40, 30), np.uint8),
    ]
    assert len({digest(picture) for picture in different}) == len(different)
    assert digest(Image.open(buffers[0])) == digest(np.asarray(turned)) == digest(still(turned))
    for picture in different:
        assert prepare(picture, Nobody()).sha256 == digest(picture) == digest(still(picture))


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray])
def test_a_still_photo_stays_what_it_was(kind: Callable[[np.ndarray], np.ndarray | Image.Image]) -> None:
    pixels = np.full((40, 30, 3), 90, np.uint8)
    picture = kind(pixels)
    kept = still(picture)
    pixels[:] = 7
    if isinstance(picture, Image.Image):
        picture.paste((7, 7, 7), (0, 0, 30, 40))
    assert int(prepare(kept, Nobody()).photo.pixels.max()) == 90
    assert int(prepare(picture, Nobody()).photo.pixels.max()) == 7
    shared = Photo(pixels, "PNG", alpha=pixels[..., 0])
    copied = still(shared)
    pixels[:] = 90
    assert isinstance(copied, Photo)
    assert copied.alpha is not None
    assert {*np.unique(copied.pixels), *np.unique(copied.alpha)} == {7}


def test_what_cannot_be_kept_still_says_so_when_its_turn_comes() -> None:
    for bad in (np.zeros((4, 4, 3)), Image.new("F", (20, 20))):
        assert still(bad) is bad
        with pytest.raises(PhotoError):
            prepare(bad, Nobody())
