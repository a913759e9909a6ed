"""A folder of people: root/NAME/ has the photos of the person NAME."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

from engine.photo import SUFFIXES


def photos_of(root: Path, *, without: Collection[str] = ()) -> dict[str, list[Path]]:
    """The photos of each person, people and photos in the order of their names, but for the people `without`.

    What has a photo's name and is no file (a folder, a pipe, a link to nothing) is passed by with a warning. Raises
    ValueError if there is no such folder, or nobody in it.
    """
    if not root.is_dir():
        raise ValueError(f"{root} must be a folder with a folder of photos for each person; it is no folder")
    people = {
        folder.name: _photos(folder)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in without
    }
    people = {name: photos for name, photos in people.items() if photos}
    if not people:
        reason = "nobody is left" if without else "it has none"
        raise ValueError(f"{root} must have a folder of photos for each person; {reason}")
    return people


def _photos(folder: Path) -> list[Path]:
    named = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    photos = sorted(path for path in named if path.is_file())
    for path in sorted(set(named) - set(photos)):
        warnings.warn(f"{path} is passed by: it has the name of a photo and is no file", stacklevel=3)
    return photos
