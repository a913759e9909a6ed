"""People who take part: users, everybody else and the public, chosen once by a seed and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from engine import files
from engine.bulk.prepare import digest
from engine.dataset import photos_of

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
        """The lists of `save`. Raises ValueError for a file that is not one, or photos that are not there."""
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
        return people

    def photos(self) -> list[Path]:
        """All of them."""
        everybody = (*self.users, *self.others, *self.public)
        return [photo for person in everybody for photo in (*person.scraped, *person.tests)]


def content(photo: Path) -> str:
    """SHA-256 of a photo's file in hex, read once for as long as the file has the same size and time.

    Raises OSError for a file that is not there, and PhotoError for one that cannot be read.
    """
    status = photo.stat()
    return _digest(photo, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _digest(photo: Path, size: int, modified: int) -> str:
    return digest(photo)


def contents(photos: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and `content` of each photo: the same wherever they lie, others if one is exchanged."""
    return [(photo.name, content(photo)) for photo in photos]


def choose(
    root: Path,
    *,
    users: int = 20,
    photos: int = 10,
    others: int = 100,
    public: int = 40,
    practised: bool = True,
    seed: int = 0,
) -> People:
    """Users with at least twice `photos` photos if there are enough, else `photos`; then the others and the public.

    photos: of a user, every second one scraped, the rest tests. The others have up to six photos, the last the test;
    the public up to four. practised: whether anybody practises on the public, which may else be smaller. Raises
    ValueError, which names the options, if the folder has too few people with enough photos.
    """
    if users < 2 or photos < 4 or others < 1 or public < 0:
        raise ValueError(
            "an evaluation needs at least 2 users with 4 photos each and 1 other person (--users, --photos, --others); "
            f"got {users} users, {photos} photos, {others} others, {public} public"
        )
    by_name = photos_of(root)
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
