"""An evaluation: presets one after the other, each kept as soon as it is done, and the report after each."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from engine import files, sharding
from engine.config import Output, Recipe
from engine.evaluate import figures, report
from engine.evaluate.dataset import People, Person, choose
from engine.evaluate.presets import Findings, Preset
from engine.evaluate.recognisers import DetectedOnce, Remembered, in_threads, recogniser
from engine.evaluate.services import check
from engine.evaluate.study import Study
from engine.extractors import registry
from engine.photo import read
from engine.types import PhotoError

PEOPLE = "people.json"
DONE = "findings"
"""Folder of what is kept of each preset."""


def evaluate(
    study: Study,
    presets: Sequence[Preset],
    *,
    restart: bool = False,
    started: Callable[[Preset], None] = lambda preset: None,
) -> dict[Preset, Findings]:
    """Run the presets and write report.html, results.json, tables and figures into the study's folder, after each.

    Its people are written to people.json there before anything else, if the folder of all faces is known.

    What an earlier call with the same settings finished is not done again. restart: forget it first, so that a later
    call without goes on where this one ended. Raises what a preset raises; those before it are kept.
    """
    places = {preset: study.out / DONE / f"{preset.name}.json" for preset in presets}
    for place in places.values() if restart else ():
        place.unlink(missing_ok=True)
    about = report.about(study)
    study.out.mkdir(mode=0o700, parents=True, exist_ok=True)  # faces and embeddings of people lie there
    if study.faces is not None:
        study.people.save(study.out / PEOPLE, study.faces)
    results: dict[Preset, Findings] = {}
    for preset, place in places.items():
        key = _key(about, preset)
        findings = _recalled(place, key)
        if findings is None:
            started(preset)
            _keep(place, key, preset.run(study))
            findings = _recalled(place, key)  # as it is read back, so that a resumed report is the same
            assert findings is not None
        results[preset] = findings
        report.write(results, about, study.out)
    return results


def _key(about: Mapping[str, Any], preset: Preset) -> str:
    """Findings do not outlive the module of their preset, nor anything that `report.about` tells."""
    module = inspect.getsource(sys.modules[preset.run.__module__])
    return hashlib.sha256(json.dumps([about, preset.name, module], sort_keys=True).encode()).hexdigest()


def _keep(place: Path, key: str, findings: Findings) -> None:
    if isinstance(findings.figure, Figure):
        findings = replace(findings, figure=figures.svg(findings.figure))
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(place, json.dumps({"key": key, "findings": asdict(findings)}, default=_number).encode())


def _recalled(place: Path, key: str) -> Findings | None:
    """Value kept under this key; None if there is none, or none that can be used: it is found again."""
    try:
        record = json.loads(place.read_text())
        if record["key"] != key:
            return None
        findings = Findings(**record["findings"])
        if findings.figure:
            figures.checked(str(findings.figure))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return findings


def _number(value: object) -> float | int:
    assert isinstance(value, np.generic)
    return value.item()


def _readable(people: People, warn: Callable[[str], None]) -> People:
    """The people without photos that cannot be read, and without whoever has none left to learn from.

    warn: gets a line for each. Raises ValueError, which names them, for such photos of users.
    """
    photos = people.photos()
    faults = {photo: fault for photo, fault in zip(photos, in_threads(_fault, photos), strict=True) if fault}
    users = [
        f"{photo}: {faults[photo]}"
        for user in people.users
        for photo in (*user.scraped, *user.tests)
        if photo in faults
    ]
    if users:
        raise ValueError("\n".join(["photos of users cannot be read: replace them or take them away", *users]))
    for photo, fault in faults.items():
        warn(f"{photo} is left out: {fault}")

    def kept(members: Sequence[Person]) -> tuple[Person, ...]:
        whole = [
            Person(person.name, *(tuple(p for p in half if p not in faults) for half in (person.scraped, person.tests)))
            for person in members
        ]
        for person in whole:
            if not person.scraped:
                warn(f"{person.name} is left out: there is no photo to learn from")
        return tuple(person for person in whole if person.scraped)

    return replace(people, others=kept(people.others), public=kept(people.public))


def _fault(photo: Path) -> str:
    try:
        read(photo)
    except PhotoError as error:
        return str(error)
    return ""


def study_of(
    dataset: Path,
    out: Path,
    *,
    recipe: Recipe,
    output: Output,
    people: Path | None,
    counts: Mapping[str, int],
    practised: bool = True,
    recognisers: Sequence[str] | None = None,
    consent: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda label, done, all: None,
) -> Study:
    """The study of a call: its people chosen, or read from a list. Nothing is written.

    counts, practised: as `dataset.choose` takes them; a list goes without counts. recognisers: as
    `recognisers.recogniser` takes them, by default all extractors, and dlib if it is installed. consent: the services
    that may be sent photos. warn: gets a line for each photo of the dataset that is left out, a copy or one that cannot
    be read. Raises ValueError for settings that make no sense and photos of users that cannot be read. Raises
    CheckpointError for an extractor whose weights are damaged or not installed.
    """
    if people is not None and counts:
        raise ValueError(
            f"--people {people} already says who takes part, with which photos: leave out "
            f"{', '.join(f'--{name}' for name in counts)}, or --people"
        )
    sharding.configure()
    sharding.devices_here()
    for name in recipe.names:
        registry.loadable(name)
    chosen = (
        choose(dataset, seed=recipe.seed, practised=practised, warn=warn, **counts)  # type: ignore[bad-argument-type]
        if people is None
        else People.load(people, dataset)
    )
    names = [*registry.available(), *(["dlib"] if find_spec("dlib") else [])] if recognisers is None else recognisers
    detector = DetectedOnce()
    known = tuple(Remembered(recogniser(name, detector), out / "cache", progress) for name in dict.fromkeys(names))
    return Study(
        people=_readable(chosen, warn),
        out=out,
        recipe=recipe,
        output=output,
        recognisers=known,
        consent=check(consent),
        faces=dataset,
        seed=recipe.seed,
        say=say,
        progress=progress,
    )
