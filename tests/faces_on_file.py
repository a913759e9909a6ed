"""Photos that a detector for tests finds faces on: 176 pixels, a texture for each person, faces in the middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tiny
from PIL import Image

from engine.config import CANVAS, TEMPLATE, Detection, Recipe
from engine.evaluate.canvases import Canvases
from engine.evaluate.dataset import People, Person
from engine.evaluate.study import Cloaks, CloakSet, Study
from engine.types import Face


class Middle:
    """Finds a face where the canvas is the photo itself; none on a uniform photo. looked: how many photos it saw."""

    def __init__(self) -> None:
        self.looked = 0

    def detect(self, pixels: np.ndarray) -> list[Face]:
        self.looked += 1
        if pixels.std() < 1:
            return []
        return [Face(np.array([38, 38, 100, 100], np.float32), np.array(TEMPLATE, np.float32), 0.99)]


def save(path: Path, person: int, shot: int) -> Path:
    """A shot of a person: the same texture under other noise."""
    noise = np.random.default_rng((person, shot)).normal(0, 0.02, (CANVAS, CANVAS, 3))
    pixels = (tiny.texture(person, CANVAS, CANVAS, sigma=9) + noise).clip(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(path)
    return path


def blank(path: Path) -> Path:
    """A photo without a face."""
    Image.new("RGB", (CANVAS, CANVAS), (90, 90, 90)).save(path)
    return path


def canvases(folder: Path | None = None) -> Canvases:
    """Of those photos."""
    return Canvases(Middle(), Detection(), folder)


def person(folder: Path, index: int, scraped: int, tests: int) -> Person:
    """With photos on disk."""
    photos = [save(folder / f"person {index}" / f"{shot}.png", index, shot) for shot in range(scraped + tests)]
    return Person(f"person {index}", tuple(photos[:scraped]), tuple(photos[scraped:]))


class FakeStudy(Study):
    """A study whose cloaks are what `change` makes of the pixels; nothing is solved."""

    change: Callable[[np.ndarray], np.ndarray]

    def cloaks(self, wanted: CloakSet) -> Cloaks:
        files: dict[Path, Path | None] = {}
        for user in wanted.people:
            for photo in user.scraped:
                files[photo] = file = self.out / "cloaks" / user.name / photo.name
                file.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(photo) as image:
                    Image.fromarray(self.change(np.asarray(image))).save(file)
        return Cloaks(wanted.recipe, files, dict.fromkeys(files, 0.004))


def study(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], *, public: int = 3, networks: Sequence[str] = ("tiny",)
) -> FakeStudy:
    """Two users, two other people and some of the public, with cloaks said to be made on `networks`."""
    numbers = iter(range(100))
    people = People(
        users=tuple(person(folder / "people", next(numbers), 3, 2) for _ in range(2)),
        others=tuple(person(folder / "people", next(numbers), 3, 1) for _ in range(2)),
        public=tuple(person(folder / "people", next(numbers), 3, 1) for _ in range(public)),
    )
    made = FakeStudy(people, folder / "out", Recipe(extractors=tuple(networks)))
    made.change, made.detector = change, Middle()  # type: ignore[assignment]
    return made
