"""An evaluation: presets one after the other, each kept as soon as it is done, and the report after each."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import __version__
from engine.bulk.run import fingerprint
from engine.evaluate import figures, report
from engine.evaluate.presets import Findings, Preset
from engine.evaluate.study import Study

PEOPLE = "people.json"
DONE = "findings"
"""Folder of what is kept of each preset."""


def evaluate(
    study: Study, presets: Sequence[Preset], *, restart: bool = False, started: Callable[[Preset], None] = lambda one: None
) -> dict[str, Findings]:
    """Run the presets and write report.html, results.json, tables and figures into the study's folder.

    What an earlier call with the same settings finished is not done again, unless `restart`. Raises what a preset
    raises; those before it are kept.
    """
    about = meta(study)
    found: dict[str, Findings] = {}
    for preset in presets:
        place, key = study.out / DONE / f"{preset.name}.json", _key(about, preset)
        kept = None if restart else _kept(place, key)
        if kept is None:
            started(preset)
            begun = time.perf_counter()
            kept = preset.run(study)
            _keep(place, key, kept, seconds=time.perf_counter() - begun)
            kept = _kept(place, key)
            assert kept is not None
        found[preset.name] = kept
        report.write({one.name: (one, found[one.name]) for one in presets if one.name in found}, about, study.out)
    return found


def meta(study: Study) -> dict[str, Any]:
    """All on which the figures of a study depend."""
    people = study.people
    names = {kind: [one.name for one in getattr(people, kind)] for kind in ("users", "others", "public")}
    counted = [
        [one.name, [p.name for p in one.scraped], [p.name for p in one.tests]]
        for one in (*people.users, *people.others, *people.public)
    ]
    return {
        "version": __version__,
        "settings": json.loads(fingerprint(study.recipe, study.detection, study.output, None)),
        "recognisers": {one.name: one.version for one in study.recognisers},
        "people": {kind: len(own) for kind, own in names.items()},
        "photos_of_a_user": max(len(one.scraped) + len(one.tests) for one in people.users),
        "people_sha256": hashlib.sha256(json.dumps(counted).encode()).hexdigest(),
        "seed": study.seed,
    }


def _key(about: dict[str, Any], preset: Preset) -> str:
    return hashlib.sha256(json.dumps([about, preset.name], sort_keys=True).encode()).hexdigest()


def _keep(place: Path, key: str, findings: Findings, *, seconds: float) -> None:
    figure = None if findings.figure is None else figures.svg(findings.figure)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "seconds": seconds, **asdict(findings), "figure": figure}))
    os.replace(part, place)


def _kept(place: Path, key: str) -> Findings | None:
    if not place.exists():
        return None
    kept = json.loads(place.read_text())
    if kept.pop("key") != key:
        return None
    kept.pop("seconds")
    return Findings(**kept)


def study_of(
    dataset: Path,
    out: Path,
    *,
    recipe: Recipe,
    output: Output,
    people: Path | None,
    counts: Mapping[str, int],
    recognisers: Sequence[str] | None = None,
    consent: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda what, done, all: None,
) -> Study:
    """The study of a call: its people chosen, or read from a list, and written to OUT/people.json.

    counts: as `dataset.choose` takes them. recognisers: as `recognisers.recogniser` takes them, by default all
    extractors, and dlib where it is installed. consent: the services that may be sent photos. Raises ValueError for
    settings that make no sense.
    """
    sharding.configure()
    for name in recipe.names:
        registry.find(name)
    chosen = choose(dataset, seed=recipe.seed, **counts) if people is None else People.load(people, dataset)
    names = [*registry.available(), *(["dlib"] if find_spec("dlib") else [])] if recognisers is None else recognisers
    detector = DetectedOnce()
    known = tuple(Remembered(recogniser(name, detector), out / "cache", progress) for name in dict.fromkeys(names))
    chosen.save(out / PEOPLE, dataset)
    return Study(
        people=chosen,
        out=out,
        recipe=recipe,
        output=output,
        recognisers=known,
        consent=check(consent),
        seed=recipe.seed,
        say=say,
        progress=progress,
    )
