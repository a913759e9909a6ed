"""Base of the presets: the people, sets of cloaked files, recognisers with their caches, and the price of it all.

Everything lies under one folder and is made once. Cloaked photos are under cloaks/LABEL (by `bulk.run`, which resumes),
embeddings under cache/, and changed copies of photos under copies/.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from engine import checkpoint
from engine.bulk import run as bulk
from engine.bulk.cloaker import Cloaker
from engine.bulk.manifest import Row, Survey
from engine.bulk.prepare import prepare
from engine.bulk.watch import Counting
from engine.config import Detection, Output, Recipe
from engine.detect import YuNet
from engine.dssim import dssim_pixels
from engine.evaluate.dataset import People, Person, contents
from engine.evaluate.recognisers import Recogniser
from engine.faces import central
from engine.photo import read
from engine.types import PhotoError

BATCH = 8
READABLE = 150
"""Most bytes of a label that tell its settings; with a hash behind them it is a folder's name on every file system."""


@dataclass(frozen=True)
class CloakSet:
    """Photos to cloak in one way. people: whose scraped photos."""

    recipe: Recipe
    people: tuple[Person, ...]
    output: Output = field(default_factory=Output)

    @property
    def label(self) -> str:
        """A folder's name of at most 167 bytes: the settings, and a hash of them and of whose photos they are.

        What a cloak is depends on all photos of a set, so sets of other people or photos never share a folder. Raises
        OSError and PhotoError for a photo that cannot be read.
        """
        recipe = self.recipe
        parts = ["+".join(recipe.extractors).replace(":", "="), f"rho{_number(recipe.rho)}", recipe.objective]
        named = ("extractors", "rho", "objective")
        for field_ in fields(Recipe):
            value = getattr(recipe, field_.name)
            if field_.name not in named and value != field_.default:
                parts.append(field_.name + (_number(value) if isinstance(value, (int, float)) else f"-{value}"))
        parts += [self.output.format] if self.output.format != "keep" else []
        parts += [f"q{self.output.quality}"] if self.output.quality is not None else []
        settings = "_".join(parts)
        people = [(person.name, contents(person.scraped)) for person in self.people]
        hashed = hashlib.sha256(json.dumps([settings, people]).encode()).hexdigest()[:16]
        return f"{settings.encode()[:READABLE].decode(errors='ignore')}_{hashed}"


def _number(value: float) -> str:
    return f"{value:d}" if isinstance(value, int) else f"{value:.12g}"


@dataclass(frozen=True)
class Cloaks:
    """The files of a CloakSet. files: by original the cloaked file, None if none was written (no face was found, so
    nothing may be published). dssim: of the central face's region, measured on the files.
    """

    recipe: Recipe
    files: Mapping[Path, Path | None]
    dssim: Mapping[Path, float]

    @property
    def made_with(self) -> tuple[str, ...]:
        """The networks that took part."""
        return self.recipe.names

    def quality(self) -> dict[str, float | int]:
        """Figures for tables: how many photos, and their DSSIM."""
        values = list(self.dssim.values())
        return {
            "cloaked": len(values),
            "dssim_mean": float(np.mean(values)) if values else float("nan"),
            "dssim_max": float(np.max(values)) if values else float("nan"),
        }


@dataclass
class Study:
    """One evaluation. out: its folder. recipe: of the cloaks that are judged. consent: names of the services
    (`engine.evaluate.services`) that photos may be sent to; none unless somebody says so. faces: the folder that the
    people were chosen from, which may have others. say: gets a line of progress.
    """

    people: People
    out: Path
    recipe: Recipe
    output: Output = field(default_factory=Output)
    detection: Detection = field(default_factory=Detection)
    recognisers: tuple[Recogniser, ...] = ()
    seed: int = 0
    consent: tuple[str, ...] = ()
    faces: Path | None = None
    say: Callable[[str], None] = lambda line: None
    progress: Callable[[str, int, int], None] = lambda label, done, all: None
    _measured: dict[tuple[Path, Path, int], float] = field(default_factory=dict, repr=False)

    @cached_property
    def detector(self) -> YuNet:
        """The engine's detector."""
        return YuNet(checkpoint.detector(), self.detection)

    def wanted(self, people: Sequence[Person] | None = None, **changes: object) -> CloakSet:
        """The cloak set of the study's recipe with some fields changed; of the users if nobody is named."""
        recipe = replace(self.recipe, **changes)  # type: ignore[arg-type]
        return CloakSet(recipe, tuple(self.people.users if people is None else people), self.output)

    def cloaks(self, wanted: CloakSet) -> Cloaks:
        """The cloaked files of a set; those that are not there yet are made now. Raises PhotoError if any failed."""
        label, folder = wanted.label, self.folder(wanted)
        originals: dict[str, Path] = {}
        for person in wanted.people:
            (folder / "scraped" / person.name).mkdir(parents=True, exist_ok=True)
            for photo in person.scraped:
                linked(folder / "scraped" / person.name / photo.name, photo)
                originals[f"{person.name}/{photo.name}"] = photo
        watch = Counting(lambda made: self.progress(f"cloaks {label}", made, len(originals)))
        begun = time.perf_counter()
        bulk.run(
            lambda photos: Cloaker(recipe=wanted.recipe, detection=self.detection, batch=BATCH),
            [folder / "scraped"],
            folder / "cloaked",
            settings=bulk.fingerprint(wanted.recipe, self.detection, wanted.output),
            options=bulk.Options(wanted.output),
            watch=watch,
        )
        if watch.done:
            self.say(f"cloaks {label}: {watch.done} photos in {time.perf_counter() - begun:.0f} s")
        with Survey(folder / "cloaked") as survey:
            rows = {_key(row): row for row in survey.rows()}
        failed = {originals[key]: row for key, row in rows.items() if key in originals and row.status == "failed"}
        for photo, row in failed.items():
            raise PhotoError(f"{len(failed)} photos could not be cloaked, the first {photo}: {row.reason}")
        files = {
            photo: folder / "cloaked" / rows[key].target if rows[key].status == "cloaked" else None
            for key, photo in originals.items()
        }
        dssim = {photo: self.dssim(photo, file) for photo, file in files.items() if file is not None}
        return Cloaks(wanted.recipe, files, dssim)

    def folder(self, wanted: CloakSet) -> Path:
        """Folder of a set's files: scraped/ has links to the originals, cloaked/ what `bulk.run` wrote."""
        return self.out / "cloaks" / wanted.label

    def missing(self, wanted: CloakSet) -> int:
        """How many photos of a set are yet to be cloaked."""
        folder = self.folder(wanted)
        with Survey(folder / "cloaked") as survey:
            there = {_key(row) for row in survey.rows()}
        return sum(f"{person.name}/{photo.name}" not in there for person in wanted.people for photo in person.scraped)

    def dssim(self, original: Path, changed: Path) -> float:
        """DSSIM between two files around the face nearest to the middle of the original, measured once."""
        key = original, changed, changed.stat().st_mtime_ns
        if key not in self._measured:
            self._measured[key] = self._measure(original, changed)
        return self._measured[key]

    def _measure(self, original: Path, changed: Path) -> float:
        before = prepare(original, self.detector)
        top, left, bottom, right = before.regions[central([face.box for face in before.faces], before.photo.size)]
        return dssim_pixels(before.photo.pixels[top:bottom, left:right], read(changed).pixels[top:bottom, left:right])


def linked(link: Path, photo: Path) -> None:
    """A symbolic link to a photo; one that leads elsewhere, since either has moved, is made anew."""
    target = photo.resolve()
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()
    link.symlink_to(target)


def _key(row: Row) -> str:
    """PERSON/PHOTO of a row of a set: its source is spelled as --out was when it was made, which may be elsewhere."""
    return "/".join(Path(row.source).parts[-2:])
