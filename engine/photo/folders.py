"""A folder with a folder of photos for each person, as evaluations and trainings take it."""

from __future__ import annotations

from pathlib import Path

from engine.photo import SUFFIXES


def photos_of(root: Path, *, without: frozenset[str] = frozenset()) -> dict[str, list[Path]]:
    """The photos of each person under root/NAME/, in the order of their names, except the people `without`.

    Hidden files and folders are none. Raises ValueError if there are no photos.
    """
    if not root.is_dir():
        raise ValueError(f"{root} must be a folder with a folder of photos for each person; it is no folder")
    found = {
        folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in without
    }
    found = {name: photos for name, photos in found.items() if photos}
    if not found:
        raise ValueError(
            f"{root} must have a folder of photos for each person; {'none is left' if without else 'it has none'}"
        )
    return found
