"""People who take part: users, everybody else and the public, chosen once by a seed and kept in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from engine import files
from engine.bulk.prepare import digest
from engine.dataset import photos_of
from engine.types import PhotoError

SMALLEST = 3
"""Fewest photos of one of the others: two for the tracker to learn from and one to test it."""


@dataclass(frozen=True)
class Person:
    """name: of the folder. scraped: what the tracker learns from. tests: clean photos that it never saw."""

    name: str
    scraped: tuple[Path, ...]
    tests: tuple[Path, ...]


@dataclass(frozen=True)
class People:
    """users: cloak the photos they publish. others: do not, and are the tracker's other labels. public: people whom a
    tracker can practise on (adaptive trackers, detectors of cloaks), none of them a user or one of the others.
    """

    users: tuple[Person, ...]
    others: tuple[Person, ...]
    public: tuple[Person, ...]

    def save(self, path: Path, root: Path) -> None:
        """Write the lists as JSON, paths relative to `root`."""
        lists = {
            kind: {
                person.name: {
                    "scraped": [p.relative_to(root).as_posix() for p in person.scraped],
                    "tests": [p.relative_to(root).as_posix() for p in person.tests],
                }
                for person in getattr(self, kind)
            }
            for kind in ("users", "others", "public")
        }
        files.write(path, (json.dumps(lists, indent=0) + "\n").encode())

    @classmethod
    def load(cls, path: Path, root: Path) -> People:
        """The lists of `save`.

        Raises ValueError for a file that is not one, photos that are not there, and people or photos listed twice.
        """
        try:
            lists = json.loads(path.read_text())
            kinds = {
                kind: tuple(
                    Person(name, *(tuple(root / photo for photo in half[part]) for part in ("scraped", "tests")))
                    for name, half in lists[kind].items()
                )
                for kind in ("users", "others", "public")
            }
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no list of people as `cloak evaluate` writes it: {error!r}") from None
        people = cls(**kinds)
        missing = [photo for photo in people.photos() if not photo.is_file()]
        if missing:
            raise ValueError(f"{path} names {len(missing)} photos that are not in {root}, the first {missing[0]}")
        people._listed_once(path)
        return people

    def _listed_once(self, path: Path) -> None:
        everybody = (*self.users, *self.others, *self.public)
        name, count = Counter(person.name for person in everybody).most_common(1)[0] if everybody else ("", 0)
        if count > 1:
            raise ValueError(f"{path} has {name} more than once among users, others and public: keep one of them")
        places = [
            f"{photo} ({part} of {person.name})"
            for person in everybody
            for part in ("scraped", "tests")
            for photo in getattr(person, part)
        ]
        for place, before in zip(places, copies(self.photos()), strict=True):
            if before is not None:
                raise ValueError(
                    f"{path} has one photo twice: {places[before]} is the same as {place}. A tracker must not be "
                    "tested on what it has learnt: keep one of them"
                )

    def photos(self) -> list[Path]:
        """All of them."""
        everybody = (*self.users, *self.others, *self.public)
        return [photo for person in everybody for photo in (*person.scraped, *person.tests)]


def content(photo: Path) -> str:
    """SHA-256 of a photo's file in hex, read once for as long as the file has the same size and time.

    Raises OSError for a file that is not there, and PhotoError, which names it, for one that cannot be read.
    """
    status = photo.stat()
    try:
        return _digest(photo, status.st_size, status.st_mtime_ns)
    except PhotoError as error:
        raise PhotoError(f"{photo}: {error}") from error


@lru_cache(maxsize=1 << 16)
def _digest(photo: Path, size: int, modified: int) -> str:
    return digest(photo)


def contents(photos: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and `content` of each photo: the same wherever they lie, others if one is exchanged."""
    return [(photo.name, content(photo)) for photo in photos]


def copies(photos: Sequence[Path]) -> list[int | None]:
    """Index, for each photo, of the first one before it of the same content; None for a new one.

    Only files of one size are read. Of a file that cannot be read nothing is known.
    """
    sizes = [photo.stat().st_size for photo in photos]
    alike, seen = Counter(sizes), {}
    found: list[int | None] = []
    for index, (photo, size) in enumerate(zip(photos, sizes, strict=True)):
        first = index
        if alike[size] > 1:
            with suppress(PhotoError):
                first = seen.setdefault(content(photo), index)
        found.append(first if first < index else None)
    return found


def _distinct(by_name: Mapping[str, Sequence[Path]], warn: Callable[[str], None]) -> dict[str, list[Path]]:
    """The photos without copies of an earlier one. warn: gets a line for each of these."""
    owned = [(name, photo) for name, photos in by_name.items() for photo in photos]
    kept: dict[str, list[Path]] = {name: [] for name in by_name}
    for (name, photo), first in zip(owned, copies([photo for _, photo in owned]), strict=True):
        if first is None:
            kept[name].append(photo)
        else:
            wrong = "" if owned[first][0] == name else ", so one of the two people is wrong"
            warn(f"{photo} is left out: it is the same file as {owned[first][1]}{wrong}")
    return kept


def choose(
    root: Path,
    *,
    users: int = 20,
    photos: int = 10,
    others: int = 100,
    public: int = 40,
    practised: bool = True,
    seed: int = 0,
    warn: Callable[[str], None] = lambda line: None,
) -> People:
    """Users with at least twice `photos` photos if there are enough, else `photos`; then the others and the public.

    photos: of a user, every second one scraped, the rest tests. The others have up to six photos, the last the test;
    the public up to four. practised: whether anybody practises on the public, which may else be smaller. A photo of
    which there are copies is taken once; warn: gets a line for each copy. Raises ValueError, which names
    the options, if the folder has too few people with enough photos.
    """
    if users < 2 or photos < 4 or others < 1 or public < 0:
        raise ValueError(
            "an evaluation needs at least 2 users with 4 photos each and 1 other person (--users, --photos, --others); "
            f"got {users} users, {photos} photos, {others} others, {public} public"
        )
    by_name = _distinct(photos_of(root), warn)
    random = np.random.default_rng(seed)

    def draw(eligible: Sequence[str], count: int, role: str, options: str) -> list[str]:
        if len(eligible) < count:
            raise ValueError(
                f"{root} has {len(eligible)} people who can be {role}; {count} were asked for: lower {options}, or "
                "bring photos of more people, a folder for each"
            )
        return sorted(str(name) for name in random.choice(eligible, count, replace=False))

    rich = [name for name, paths in by_name.items() if len(paths) >= 2 * photos]
    rich = rich if len(rich) >= users else [name for name, paths in by_name.items() if len(paths) >= photos]
    chosen = draw(rich, users, f"users (with {photos} photos)", "--users or --photos")
    candidates = [name for name, paths in by_name.items() if name not in chosen and len(paths) >= SMALLEST]
    rest = draw(candidates, others, f"others (with {SMALLEST} photos)", "--others")
    candidates = [name for name in candidates if name not in rest]
    public = public if practised else min(public, len(candidates))
    practice = draw(candidates, public, f"the public (with {SMALLEST} photos)", "--public")
    return People(
        users=tuple(Person(n, tuple(by_name[n][:photos][0::2]), tuple(by_name[n][:photos][1::2])) for n in chosen),
        others=tuple(Person(n, tuple(by_name[n][:6][:-1]), tuple(by_name[n][:6][-1:])) for n in rest),
        public=tuple(Person(n, tuple(by_name[n][:4][:-1]), tuple(by_name[n][:4][-1:])) for n in practice),
    )
