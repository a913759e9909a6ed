"""Files of a run, and where each of them goes: every file that was found is accounted for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.bulk.kinds import kept, passed_by
from engine.config import Format
from engine.photo.formats import OPTIONS, STEAD

OWN_FOLDER = ".cloak"
"""Folder of a run's manifest and half-written files, inside its output folder."""


class InputError(ValueError):
    """The paths of a call do not make sense: a mistake in the command, not in a photo."""


@dataclass(frozen=True)
class Item:
    """One file of a run. source: where it is. target: where its cloaked version goes, relative to the output folder.

    skip: why it is passed by (not a photo). fault: why it cannot even be opened (a link that leads back to itself).
    named: whether the call names this very file and not a folder around it.
    """

    source: Path
    target: str
    skip: str = ""
    fault: str = ""
    named: bool = False


def collect(paths: Sequence[Path], *, out: Path, format: Format = "keep") -> list[Item]:
    """All files under the paths, sorted, folders walked recursively and mirrored.

    One folder lies directly in the output folder; of several paths each folder keeps its own name, as with `cp -r`.
    Folders inside them that are output folders, or that cannot be read, are items too. Raises InputError for a path
    that does not exist, for an output that would fall on its original, and for two folders of one name. Two files
    may have the same target, if both are named or one has the other's name but for a suffix: `places` decides.
    """
    if not paths:
        raise InputError("no photos given: name files or folders")
    items: list[Item] = []
    real_out = os.path.realpath(out)
    for path in paths:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            if not path.is_symlink():
                raise InputError(f"{path}: there is no such file or folder") from None
            items.append(_item(path, Path(path.name), named=True))
        except (OSError, ValueError) as error:
            items.append(Item(path, path.name, fault=_away(error, "It"), named=True))
        else:
            if stat.S_ISDIR(status.st_mode):
                if os.path.realpath(path) == real_out:
                    raise InputError(f"{path} is --out itself: choose another --out, so that originals stay apart")
                prefix = Path() if len(paths) == 1 else Path(os.path.basename(os.path.realpath(path)))
                items += _walk(path, prefix, real_out)
            else:
                items.append(_item(path, Path(path.name), named=True))
    items = _single(sorted(items, key=lambda item: item.target))
    return _renamed(items, out=out, format=format)


def _item(path: Path, target: Path, *, named: bool = False) -> Item:
    if skip := passed_by(path, named=named):
        # A folder on a disk that is away looks like this: all its photos are missing.
        if not path.suffix and os.path.islink(path) and not os.path.exists(path):
            fault = "a symbolic link to nothing: bring back what it leads to, or remove it"
            return Item(path, str(target), fault=fault, named=named)
        return Item(path, str(target), skip=skip, named=named)
    return Item(path, str(target), named=named)


def _away(error: OSError | ValueError, subject: str) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{subject} cannot be read ({reason}), and nothing in it is protected: see to its name and permissions."


def _walk(root: Path, prefix: Path, real_out: str) -> Iterator[Item]:
    ancestors: dict[str, tuple[str, ...]] = {str(root): (os.path.realpath(root),)}
    unread: list[OSError] = []

    def target(path: str) -> Path:
        return prefix / os.path.relpath(path, root)

    for folder, folders, names in os.walk(root, followlinks=True, onerror=unread.append):
        above = ancestors.pop(folder)
        for name in sorted(folders):
            child = os.path.join(folder, name)
            real = os.path.realpath(child)
            if real == real_out:
                folders.remove(name)
            elif name == OWN_FOLDER or os.path.lexists(os.path.join(child, OWN_FOLDER)):
                folders.remove(name)
                if name != OWN_FOLDER:
                    skip = "an output folder of this tool: name it, or the originals in it, to have them cloaked"
                    yield Item(Path(child), str(target(child)), skip=skip)
            elif real in above:
                folders.remove(name)
                fault = f"a symbolic link that leads back to {os.path.basename(real) or real}: remove it"
                yield Item(Path(child), str(target(child)), fault=fault)
            else:
                ancestors[child] = (*above, real)
        for name in names:
            child = os.path.join(folder, name)
            yield _item(Path(child), target(child))
        yield from _unread(unread, root, prefix)
    yield from _unread(unread, root, prefix)


def _unread(errors: list[OSError], root: Path, prefix: Path) -> Iterator[Item]:
    """The folders that could not be listed since the last time."""
    for error in errors:
        path = Path(os.fsdecode(error.filename or root))
        yield Item(path, str(prefix / os.path.relpath(path, root)), fault=_away(error, "This folder"))
    errors.clear()


def _single(items: list[Item]) -> list[Item]:
    """The items without a file that was found twice. Raises InputError if two folders would fill one."""
    by_target: dict[str, Item] = {}
    result = []
    for item in items:
        first = by_target.setdefault(item.target, item)
        if first is item:
            result.append(item)
        elif _same(first.source, item.source):
            continue
        elif item.skip or first.skip or item.named or first.named:
            result.append(item)
        else:
            raise InputError(
                f"{first.source} and {item.source} would both be written to {item.target}: "
                "give one of the two folders an --out of its own"
            )
    return result


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.abspath(first) == os.path.abspath(second) or os.path.samefile(first, second)
    except (OSError, ValueError):
        return False


def _renamed(items: list[Item], *, out: Path, format: Format) -> list[Item]:
    """The items with the suffix of the format that they get. Raises InputError if one would fall on its original."""
    # Beside its own suffix: the name must be the same whatever else comes into the collection or leaves it.
    items = [item if item.skip else replace(item, target=item.target + _more(item, format)) for item in items]
    for item in items:
        if not (item.skip or item.fault) and _same(out / item.target, item.source):
            raise InputError(f"{item.source} would be overwritten by its own cloaked version: choose another --out")
    return items


def _more(item: Item, format: Format) -> str:
    """Suffix that the name of an item's cloaked version has beyond its own, "" if that is right already."""
    if format == "keep":
        return "" if kept(item.source) else STEAD.suffixes[0]
    suffixes = OPTIONS[format].suffixes
    return "" if os.path.splitext(item.target)[1].lower() in suffixes else suffixes[0]
