"""Preset "detection": can somebody who has this engine tell cloaked photos from clean ones?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from engine import files
from engine import photo as photos
from engine.bulk.prepare import digest
from engine.evaluate import figures
from engine.evaluate.canvases import Canvases, stack
from engine.evaluate.dataset import Person
from engine.evaluate.forensics import Curve, curve, discriminant, interval, noise, squeezing
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.protocol import part, part_of
from engine.evaluate.study import Cloaks, Study
from engine.extractors import load

NOISE = "noise"
ALARMS = 0.05
SECONDS = 0.15
"""About what one photo costs one network, in four versions, on one core."""


class Sides(NamedTuple):
    """Photos of some people twice, clean and cloaked, written in the same way. measured: by what was asked, NOISE or a
    network's name, the measurements (n, d) of the clean and of the cloaked ones. people (n,): whose.
    """

    measured: Mapping[str, tuple[np.ndarray, np.ndarray]]
    people: Int[np.ndarray, "n"]

    def of(self, asked: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The measurements side by side, of the clean and of the cloaked photos."""
        clean, cloaked = (np.concatenate([self.measured[name][side] for name in asked], axis=1) for side in (0, 1))
        return clean, cloaked


class Tested(NamedTuple):
    """One detector on people it did not learn from. curve: cloaked against clean. floor: clean against clean."""

    curve: Curve
    interval: tuple[float, float]
    floor: Curve
    floor_interval: tuple[float, float]


def run(study: Study) -> Findings:
    """A row for each detector. Raises ValueError if the study has no public people to learn from."""
    if not study.people.public:
        raise ValueError("a detector of cloaks learns from public people; choose people with some of the public")
    asked = detectors(study)
    networks = sorted({name for names in asked.values() for name in names} - {NOISE})
    cloaks = study.cloaks(study.wanted())
    learnt = sides(study, study.people.public, study.cloaks(study.wanted(people=study.people.public)), networks)
    shown = sides(study, study.people.users, cloaks, networks)
    rows: list[dict[str, Value]] = []
    curves: list[tuple[str, Tested]] = []
    for title, names in asked.items():
        tested = judge(learnt.of(names), shown.of(names), shown.people, seed=study.seed)
        curves.append((title, tested))
        hits = tested.curve.at(ALARMS)
        rows.append(
            {
                "detector": title,
                "part": "no network" if NOISE in names else part_of(names, cloaks.made_with),
                "auc": tested.curve.area,
                "auc_low": tested.interval[0],
                "auc_high": tested.interval[1],
                "found_at_5": hits,
                "accuracy_at_5": (hits + 1 - ALARMS) / 2,
                "floor_auc": tested.floor.area,
                "floor_auc_low": tested.floor_interval[0],
                "floor_auc_high": tested.floor_interval[1],
                "people_learnt": len(np.unique(learnt.people)),
                "photos_learnt": 2 * len(learnt.people),
                "users": len(np.unique(shown.people)),
                "tests": 2 * len(shown.people),
                **cloaks.quality(),
            }
        )
        study.say(f"detection, {title}: AUC {tested.curve.area:.3f}")
    return Findings(rows, _figure(curves), _said(rows), _deviations(study))


def detectors(study: Study) -> dict[str, tuple[str, ...]]:
    """Networks that each asks: noise alone; each network of the recipe, and all of them; one that took no part."""
    known = study.recipe.names
    held_out = [
        recogniser.extractors
        for recogniser in study.recognisers
        if recogniser.extractors and part(recogniser, known) == "held-out"
    ]
    asked = [(name,) for name in known] + ([known] if len(known) > 1 else []) + [names[:1] for names in held_out[:1]]
    return {"noise": (NOISE,), **{f"squeezing on {' and '.join(names)}": names for names in asked}}


def sides(study: Study, people: Sequence[Person], cloaks: Cloaks, networks: Sequence[str]) -> Sides:
    """Measurements of every scraped photo that was cloaked and has a face in both files.

    Raises ValueError if there is none.
    """
    scraped = [(photo, label) for label, person in enumerate(people) for photo in person.scraped if cloaks.files[photo]]
    canvases = Canvases.of_study(study)
    files = [rewritten(study, photo) for photo, _ in scraped], [cloaks.files[photo] for photo, _ in scraped]
    cut, faces, there = [], [], np.ones(len(scraped), bool)
    for side in files:
        cut_faces = canvases.cut([file for file in side if file is not None])
        there &= stack(cut_faces)[1]
        cut.append(cut_faces)
        faces.append(canvases.faces([file for file in side if file is not None]))
    if not there.any():
        raise ValueError(f"none of the photos of {len(people)} people has a face in the clean and the cloaked file")

    def both(measure: Callable[[list[np.ndarray]], np.ndarray], sides: list[list[np.ndarray | None]]):
        clean, cloaked = (
            measure([crop for crop, has in zip(side, there, strict=True) if has and crop is not None]) for side in sides
        )
        return clean, cloaked

    measured = {NOISE: both(lambda crops: np.stack([noise(face) for face in crops]), faces)}
    for name in networks:
        extractor = load(name)
        measured[name] = both(lambda crops, extractor=extractor: squeezing(extractor, np.stack(crops)), cut)
    return Sides(measured, np.array([label for _, label in scraped])[there])


def rewritten(study: Study, photo: Path) -> Path:
    """The clean photo as the engine would write it, decoded and encoded like the cloaked one.

    What differs then is the cloak and not the encoding.
    """
    source, output = photos.read(photo), study.output
    suffix = photos.suffix(source, output.format) or photo.suffix
    folder = study.out / "copies" / "rewritten"
    path = folder / f"{digest(photo)}_{output.format}_{output.quality}{suffix}"
    if not path.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = photos.encode(source, source.pixels, format=output.format, quality=output.quality)
        files.write(path, data)
    return path


def judge(
    learnt: tuple[np.ndarray, np.ndarray],
    shown: tuple[np.ndarray, np.ndarray],
    people: Int[np.ndarray, "n"],
    *,
    seed: int,
) -> Tested:
    """Learn from measurements of clean and cloaked photos, look at others. people: whose the latter are, of one half.

    The floor is the same with clean photos alone, every second one called cloaked.
    """
    both = [np.concatenate(pair) for pair in (learnt, shown)]
    truth = [np.repeat([False, True], len(pair[0])) for pair in (learnt, shown)]
    scores = discriminant(both[0], truth[0]).score(both[1])
    fiction = [np.arange(len(pair[0])) % 2 == 1 for pair in (learnt, shown)]
    made_up = discriminant(learnt[0], fiction[0]).score(shown[0])
    return Tested(
        curve(scores, truth[1]),
        interval(scores, truth[1], np.tile(people, 2), seed=seed),
        curve(made_up, fiction[1]),
        interval(made_up, fiction[1], people, seed=seed),
    )


def _said(rows: Sequence[dict[str, Value]]) -> list[str]:
    best = max(rows, key=lambda row: float(row["auc"]))
    said = [
        f"The best of {len(rows)} detectors ({best['detector']}) tells cloaked from clean photos of people it never "
        f"saw with an AUC of {float(best['auc']):.3f} (95 % interval {float(best['auc_low']):.3f} to "
        f"{float(best['auc_high']):.3f}); at {ALARMS:.0%} false alarms it finds {float(best['found_at_5']):.0%} of the "
        f"cloaked photos. It learnt from {best['photos_learnt']} photos of {best['people_learnt']} people.",
        f"The same detector asked to tell clean photos from clean ones: AUC {float(best['floor_auc']):.3f} "
        f"({float(best['floor_auc_low']):.3f} to {float(best['floor_auc_high']):.3f}); .5 is chance.",
    ]
    said += [
        f"{row['detector']}: AUC {float(row['auc']):.3f}, {float(row['found_at_5']):.0%} found."
        for row in rows
        if row is not best
    ]
    return said


def _deviations(study: Study) -> list[str]:
    return [
        "Clean photos are decoded and encoded again exactly as the cloaked ones are "
        f"(format {study.output.format}, quality {study.output.quality or 'of the source'}), so that no detector "
        "can learn the encoding.",
        "The critics' published code (FaceCure) has nothing for detection: learning from public people and testing on "
        "users is this evaluation's own protocol.",
        "A linear discriminant of measurements; a network trained on pixels was not tried and may find more.",
    ]


def _figure(curves: Sequence[tuple[str, Tested]]) -> Figure:
    figure = figures.new(width=7.0, height=6.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#767676", ls=":", label="chance")
    for index, (name, tested) in enumerate(curves):
        colour = figures.COLOURS[index % len(figures.COLOURS)]
        marker = figures.MARKERS[index % len(figures.MARKERS)]
        label = f"{name}: AUC {tested.curve.area:.2f}, floor {tested.floor.area:.2f}"
        axes.plot(tested.curve.alarms, tested.curve.found, color=colour, drawstyle="steps-post", label=label)
        axes.plot(ALARMS, tested.curve.at(ALARMS), color=colour, marker=marker, ls="")
        axes.plot(
            tested.floor.alarms, tested.floor.found, color=colour, lw=0.8, alpha=0.5, ls="--", drawstyle="steps-post"
        )
    axes.axvline(ALARMS, color="#767676", lw=0.8)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("clean photos called cloaked")
    axes.set_ylabel("cloaked photos found")
    axes.plot([], [], color="#767676", lw=0.8, ls="--", label="dashed: clean against clean, the floor")
    figure.legend(loc="outside upper center", ncols=1, fontsize="small", frameon=False)
    return figure


def seconds(study: Study) -> float:
    """Decoding, and every network's look at four versions of both kinds of every photo."""
    count = 2 * sum(len(person.scraped) for person in (*study.people.users, *study.people.public))
    return count * (0.1 + SECONDS * (len(study.recipe.names) + 1))


PRESET = Preset(
    name="detection",
    title="Telling cloaked photos from clean ones",
    source="Radiya-Dixit, Hong, Carlini and Tramèr (ICLR 2022): detection",
    question="Can a tracker find out which of its photos are cloaked?",
    cloaks=lambda study: [study.wanted(), study.wanted(people=study.people.public)],
    embeddings=lambda study: 0,
    seconds=seconds,
    run=run,
)
