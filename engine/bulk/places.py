"""Places of cloaked photos: the one module that decides whose a name in the output folder is.

A name belongs to the photo whose cloaked version lies there, whichever call, shard or process wrote it. A free name
belongs to the photo that comes first. So no photo replaces another's, no file of the user's, and never an original.
"""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.bulk.inputs import OWN_FOLDER, InputError, Item
from engine.bulk.manifest import Row
from engine.bulk.records import Known, Records

PROBE = "Prob\u00e9"
"""Name of an empty file in a run's own folder, by which the disk shows what it does with names."""


@dataclass(frozen=True)
class Disk:
    """Names that a file system takes for one. case: those that differ in capitals. forms: those in Unicode's form."""

    case: bool = False
    forms: bool = False

    def fold(self, name: str) -> str:
        """A form of the name that is the same for all names of one file."""
        if self.forms:
            name = unicodedata.normalize("NFC", name)
        # Letter by letter: for a disk "ss" is not the capital of the German sharp s.
        return "".join(map(_small, name)) if self.case else name


def _small(letter: str) -> str:
    upper = letter.upper()
    lower = upper.lower() if len(upper) == 1 else letter
    return lower if len(lower) == 1 else letter


def probe(out: Path, *, write: bool = True) -> Disk:
    """Behaviour of the disk of an output folder. write: try it with a file there, else look at what is there."""
    if write:
        with suppress(OSError, UnicodeError):
            return _tried(out / OWN_FOLDER)
    for path in (out / OWN_FOLDER, *(Path(os.path.abspath(out)) / "x").parents):
        swapped = path.with_name(path.name.swapcase())
        if path.name != swapped.name and path.exists():
            return Disk(case=_is_same(path, swapped))
    return Disk()


def _tried(folder: Path) -> Disk:
    # The file stays, as lock files do. A call that ends or fails in between leaves nothing that was not to be there.
    path = folder / PROBE
    path.touch(0o600)
    case = _is_same(path, folder / PROBE.swapcase())
    return Disk(case=case, forms=_is_same(path, folder / unicodedata.normalize("NFD", PROBE)))


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


@dataclass(frozen=True)
class Place:
    """Decision on a photo's place. target: where it goes, relative to the output folder.

    known: what is known of that name, of this very photo. refusal: why nothing may be written, "" if it may. other:
    whether `known` is another photo's, whose row must stay. twin: the photo whose cloaked version is this one's too.
    """

    target: str
    known: Known | None = None
    refusal: str = ""
    other: bool = False
    twin: str = ""


class Places:
    """The names of one output folder during one call."""

    def __init__(self, records: Records, originals: Mapping[tuple[int, int], Path]) -> None:
        """originals: the photos of the call by device and inode."""
        self._records, self._originals = records, originals
        self._out = os.path.realpath(records.out)
        self._claimed: dict[str, tuple[str, str, str]] = {}
        self._homes: dict[str, tuple[tuple[str, Records], ...]] = {}
        self._real: dict[str, str] = {}

    def claim(self, item: Item, sha256: str) -> Place:
        """The place of a photo with this content. Raises OSError if what lies there cannot be looked at."""
        records, source = self._records, os.path.abspath(item.source)
        known = records.known(item.target)
        name = records.fold(item.target)
        first = self._claimed.get(name)
        if first is not None and first[1] == sha256:
            return Place(item.target, known, other=True, twin=first[0])
        if first is not None:
            return Place(item.target, known, _taken(item, first[0], first[2]), other=True)
        if known is not None and known.holder is not None and not is_of(known.holder, source, sha256):
            return Place(item.target, known, _held(item, known.holder), other=True)
        self._claimed[name] = source, sha256, item.target
        target = item.target if known is None or known.holder is None else known.holder.target
        return Place(target, known, self._blocked(target, known))

    def holder(self, item: Item) -> Row | None:
        """The row of another photo whose cloaked version has the name of this one, which is not even read."""
        known = self._records.known(item.target)
        if known is None or known.holder is None or is_of(known.holder, os.path.abspath(item.source), ""):
            return None
        return known.holder

    def _blocked(self, target: str, known: Known | None) -> str:
        """Why a name that nobody else claims cannot be written, "" if it can."""
        path = self._records.out / target
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return ""
        except NotADirectoryError:
            return f"A file lies where the folder of {target} has to be: move it or choose another --out."
        original = self._originals.get((status.st_dev, status.st_ino))
        if original is not None:
            return f"Its cloaked version would be written over the original {original}: choose another --out."
        if known is None or known.holder is None:
            return (
                "A file that is not this tool's lies where its cloaked version goes: move it or choose another --out."
            )
        return ""

    def output(self, path: Path, sha256: str) -> str:
        """The photo whose cloaked version a file is, as far as a manifest at hand knows; "" if of none."""
        folder, name = os.path.split(os.path.abspath(path))
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = self._real[folder]
        for root, records in self._above(real):
            known = records.known(os.path.relpath(os.path.join(real, name), root))
            if known is not None and known.holder is not None and known.intact:
                return known.holder.named
        row = self._records.output(sha256)
        return "" if row is None else row.named

    def _above(self, folder: str) -> tuple[tuple[str, Records], ...]:
        """The output folders in which a folder is."""
        if folder not in self._homes:
            above = os.path.dirname(folder)
            homes = () if above == folder else self._above(above)
            if folder == self._out:
                homes = (*homes, (folder, self._records))
            elif os.path.isdir(os.path.join(folder, OWN_FOLDER)):
                try:
                    homes = (*homes, (folder, Records(Path(folder), untouched=True)))
                except (OSError, sqlite3.Error) as error:
                    raise InputError(
                        f"{folder} is an output folder whose manifest cannot be read ({error}): leave it out"
                    ) from error
            self._homes[folder] = homes
        return self._homes[folder]


def is_of(row: Row, source: str, sha256: str) -> bool:
    """Whether a row is of the photo at an absolute path: by its content, else by its path, however that is spelled."""
    if (sha256 and row.sha256 == sha256) or row.at == source:
        return True
    return bool(row.at) and os.path.realpath(row.at) == os.path.realpath(source)


def aside(item: Item) -> str:
    """The name of a row whose photo has no place in the output folder: it stands for no file."""
    return f"{item.target} of {os.path.abspath(item.source)}"


def _held(item: Item, holder: Row) -> str:
    note = "" if holder.target == item.target else f" ({holder.target}: its disk takes both names for one)"
    return (
        f"Another photo of that name has been cloaked into this folder{note}: {holder.named}. Choose another --out for "
        f"this one, or name both folders in one call, or delete the file there if it is not needed."
    )


def _taken(item: Item, claimant: str, target: str) -> str:
    note = "" if target == item.target else ", which the output folder's disk takes for the same name"
    return f"{claimant} goes to {target}{note}: rename one of the two, or choose another --out for this one."
