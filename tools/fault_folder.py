"""Folders as people have them, for tools/faults.py: bundled photos, some of ../shared/wild, and made-up troubles."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
PHOTOS = REPOSITORY / "tests" / "photos"
WILD = REPOSITORY.parent / "shared" / "wild"

FACES = {"astronaut": (100, 20, 340, 260), "biden": None, "obama": None}
"""The bundled photos, and the part of them that is taken."""
FEW_WILD = (
    "pillow/hopper_orientation_5.webp",
    "pillow/hopper_gray.jpg",
    "pillow/hopper.gif",
    "pillow/dispose_op_background.png",
    "pillow/16bit.cropped.tif",
    "pillow/broken_exif_dpi.jpg",
)
"""Small ones: with and without a face, of kinds that can be written back and that cannot."""
WHEN = 1_700_000_000
SIDE = 160


def good(folder: Path) -> Path:
    """Small photos with a face that can all be cloaked, and one file that is no photo."""
    (folder / "album" / "summer").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    _face("astronaut").save(folder / "album" / "summer" / "astronaut.png")
    _face("obama").save(folder / "album" / "obama.jpg", quality=95)
    _face("biden").rotate(90, expand=True).save(folder / "biden.jpg", exif=exif, quality=97, subsampling=0)
    _face("obama").save(folder / "every version as long.tif")
    (folder / "notes.txt").write_text("hello")
    return _dated(folder)


def troubles(folder: Path) -> Path:
    """The same among what else lies in folders: broken photos, odd names, links, and photos of others."""
    good(folder)
    data = (folder / "album" / "summer" / "astronaut.png").read_bytes()
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:
        file.write(data)
    shutil.copy(folder / "album" / "obama.jpg", folder / "obama again.jpg")
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "._biden.jpg").write_bytes(b"\0\5\x16\7")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (folder / "album" / "back").symlink_to("..")
    Image.fromarray(np.full((90, 120, 3), 90, np.uint8)).save(folder / "wall.png")
    if WILD.is_dir():
        (folder / "wild").mkdir()
        for name in FEW_WILD:
            shutil.copy(WILD / name, folder / "wild")
    return _dated(folder)


def another_photo(path: Path) -> Path:
    """Another photo than that of the same name in `good`, to be put in its place."""
    image = _face("astronaut").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    options: dict[str, Any] = {"quality": 95} if path.suffix == ".jpg" else {}
    image.save(path, **options)
    os.utime(path, (WHEN + 60, WHEN + 60))
    return path


def _face(name: str) -> Image.Image:
    path = next(PHOTOS.glob(f"{name}.*"))
    with Image.open(path) as image:
        image = image.convert("RGB").crop(FACES[name] or (0, 0, *image.size))
    image.thumbnail((SIDE, SIDE))
    return image


def _dated(folder: Path) -> Path:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (WHEN, WHEN))
    return folder
