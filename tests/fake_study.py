"""A study without networks or people: a photo is a texture of its person's, an embedding what is left of it."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tiny
from PIL import Image

from engine.config import Recipe
from engine.evaluate.dataset import People, Person
from engine.evaluate.presets import Findings
from engine.evaluate.study import Cloaks, CloakSet, Study

SIDE = 64


@dataclass(frozen=True)
class Seer:
    """A recogniser that sees a photo at a few pixels, and nobody on a uniform one. noise: how badly it sees."""

    name: str
    extractors: tuple[str, ...] = ()
    side: int = 6
    noise: float = 0.0
    version: str = "1"

    def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
        return [_seen(self, photo, photo.stat().st_mtime_ns) for photo in photos]


@functools.cache
def _seen(seer: Seer, photo: Path, modified: int) -> np.ndarray | None:
    del modified
    with Image.open(photo) as image:
        data, pixels = image.tobytes(), np.asarray(image.convert("RGB"), np.float32) / 255
    if pixels.std() < 0.01:
        return None
    seen = cv2.resize(pixels, (seer.side, seer.side), interpolation=cv2.INTER_AREA).ravel() - 0.5
    return seen + seer.noise * np.random.default_rng(zlib.crc32(data)).standard_normal(len(seen)).astype(np.float32)


def picture(person: int, shot: int) -> np.ndarray:
    """A shot of a person: the same texture under other noise."""
    noise = np.random.default_rng((person, shot)).normal(0, 0.03, (SIDE, SIDE, 3))
    return np.rint((tiny.texture(person, SIDE, SIDE, sigma=6) + noise).clip(0, 1) * 255).astype(np.uint8)


def people(folder: Path, *, users: int = 3, others: int = 6, public: int = 3) -> People:
    """People on disk with six, three and four photos each; names as unpleasant as file names may be."""
    number = iter(range(1000))

    def person(kind: str, scraped: int, tests: int) -> Person:
        index = next(number)
        place = folder / f"{kind} <b>{index}"
        place.mkdir(parents=True)
        photos = [place / f"{shot}.png" for shot in range(scraped + tests)]
        for shot, photo in enumerate(photos):
            Image.fromarray(picture(index, shot)).save(photo)
        return Person(place.name, tuple(photos[:scraped]), tuple(photos[scraped:]))

    return People(
        users=tuple(person("user", 3, 3) for _ in range(users)),
        others=tuple(person("other", 2, 1) for _ in range(others)),
        public=tuple(person("public", 3, 1) for _ in range(public)),
    )


class FakeStudy(Study):
    """A study whose cloaks are what `change` makes of the pixels; nothing is solved. made: labels in order."""

    change: Callable[[np.ndarray, CloakSet], np.ndarray]
    made: list[str]

    def cloaks(self, wanted: CloakSet) -> Cloaks:
        self.made.append(wanted.label)
        files: dict[Path, Path | None] = {}
        for person in wanted.people:
            folder = self.out / "cloaks" / wanted.label / person.name
            folder.mkdir(parents=True, exist_ok=True)
            for photo in person.scraped:
                with Image.open(photo) as image:
                    Image.fromarray(self.change(np.asarray(image), wanted)).save(folder / photo.name)
                files[photo] = folder / photo.name
        return Cloaks(wanted.recipe, files, dict.fromkeys(files, wanted.recipe.rho / 2))


def mirrored(pixels: np.ndarray, wanted: CloakSet) -> np.ndarray:
    """A cloak as no cloak may be: the photo of somebody else, whatever the recipe."""
    return np.ascontiguousarray(255 - pixels[::-1])


def study(
    folder: Path,
    *,
    change: Callable[[np.ndarray, CloakSet], np.ndarray] = mirrored,
    recognisers: Sequence[Seer] = (Seer("alpha", ("alpha",)), Seer("beta", ("beta",), 8), Seer("installed", (), 4)),
    **counts: int,
) -> FakeStudy:
    """A study in `folder`, of cloaks said to be made on alpha."""
    made = FakeStudy(
        people(folder / "people", **counts),
        folder / "out",
        Recipe(extractors=("alpha",), steps=3),
        recognisers=tuple(recognisers),
    )
    made.change, made.made = change, []
    return made


def rows_of(findings: Findings) -> Sequence[dict[str, Any]]:
    """The table. What a value is (a figure or a text) is known from its column."""
    return findings.rows


ABOUT: Mapping[str, dict] = {
    "alpha": {"robust": False, "metric": {"lfw_pairs_auc": 0.99}},
    "beta": {"robust": False, "metric": {"lfw_pairs_auc": 0.98}},
    "sturdy": {"robust": True, "metric": {}},
}
