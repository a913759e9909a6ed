"""Which files a run is about, and where each of them goes: every file that was found is accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import Format
from engine.photo import SUFFIXES

NEW_SUFFIX: dict[str, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
OWN_FOLDER = ".cloak"
"""Where a run keeps its manifest and half-written files, inside its output folder."""


class InputError(ValueError):
    """The paths of a call do not make sense: a mistake in the command, not in a photo."""


@dataclass(frozen=True)
class Item:
    """One file of a run. source: where it is. target: where its cloaked version goes, relative to the output folder.

    skip: why it is passed by (not a photo). fault: why it cannot even be opened (a link that leads back to itself).
    """

    source: Path
    target: str
    skip: str = ""
    fault: str = ""


def collect(paths: Sequence[Path], *, out: Path, format: Format = "keep") -> list[Item]:
    """All files under the paths, sorted, folders walked recursively and mirrored.

    One folder lies directly in the output folder; of several paths each folder keeps its own name, as with `cp -r`.
    Raises InputError for a path that does not exist, and where an output would fall on an original or two on one name.
    """
    if not paths:
        raise InputError("no photos given: name files or folders")
    items: list[Item] = []
    for path in paths:
        if path.is_dir():
            prefix = Path() if len(paths) == 1 else Path(path.resolve().name)
            items += _walk(path, prefix, out.resolve())
        elif path.exists() or path.is_symlink():
            items.append(_item(path, Path(path.name)))
        else:
            raise InputError(f"{path}: there is no such file or folder")
    return _renamed(sorted(items, key=lambda item: item.target), out=out, format=format)


def _item(path: Path, target: Path) -> Item:
    name = path.name
    if name.startswith("._") or path.suffix.lower() not in SUFFIXES:
        return Item(path, str(target), skip=f"not a photo: {path.suffix or name}")
    return Item(path, str(target))


def _walk(root: Path, prefix: Path, out: Path) -> Iterator[Item]:
    ancestors: dict[Path, tuple[Path, ...]] = {root: (root.resolve(),)}
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        above = ancestors.pop(here)
        for name in sorted(folders):
            child = here / name
            real = child.resolve()
            if real == out:
                folders.remove(name)
            elif real in above:
                folders.remove(name)
                fault = f"a symbolic link that leads back to {real.name or real}: remove it"
                yield Item(child, str(prefix / child.relative_to(root)), fault=fault)
            else:
                ancestors[child] = (*above, real)
        for name in files:
            yield _item(here / name, prefix / (here / name).relative_to(root))


def _renamed(items: list[Item], *, out: Path, format: Format) -> list[Item]:
    """The items with the suffix of the wanted format, and with a clear error where two outputs would collide."""
    if format != "keep":
        stems = [str(Path(item.target).with_suffix("")) for item in items if not item.skip]
        twice = {stem for stem in stems if stems.count(stem) > 1} if len(stems) != len(set(stems)) else set()
        items = [
            item
            if item.skip
            else Item(
                item.source, _target(item.target, NEW_SUFFIX[format], keep_old=_stem(item) in twice), fault=item.fault
            )
            for item in items
        ]
    seen: dict[str, Path] = {}
    for item in items:
        if item.target in seen:
            raise InputError(
                f"{seen[item.target]} and {item.source} would both be written to {item.target}: run them apart"
            )
        seen[item.target] = item.source
        written = out / item.target
        if not item.skip and written.exists() and item.source.exists() and written.samefile(item.source):
            raise InputError(f"{item.source} would be overwritten by its own cloaked version: choose another --out")
    return items


def _stem(item: Item) -> str:
    return str(Path(item.target).with_suffix(""))


def _target(target: str, suffix: str, *, keep_old: bool) -> str:
    path = Path(target)
    if path.suffix.lower() == suffix:
        return target
    return str(path.with_name(path.name + suffix)) if keep_old else str(path.with_suffix(suffix))
