"""Preset "adaptive": a tracker whose trainer has this very engine, and has taught an extractor what its cloaks do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from engine.evaluate import figures
from engine.evaluate.adapting import ADAPTING, Frozen, adapt
from engine.evaluate.canvases import Canvases
from engine.evaluate.descent import Schedule
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.protocol import measure
from engine.evaluate.study import Cloaks, Study
from engine.evaluate.trackers import EmbeddingTracker
from engine.extractors import load

HEADS = ("linear head", "1-NN")
SECONDS = 0.2
"""About what one photo costs in one step of training, on one core. A rough estimate, not measured."""


def run(study: Study, *, networks: Sequence[str] | None = None, schedule: Schedule = ADAPTING) -> Findings:
    """A row for every network, plain and adapted, and head.

    networks: to adapt, by default every one that took part in the cloaks. Raises ValueError if the study has no
    public people to practise on.
    """
    cloaks = study.cloaks(study.wanted())
    practice = study.cloaks(study.wanted(people=study.people.public))
    canvases = Canvases.of_study(study)
    clean, cloaked, labels = examples(study, canvases, practice)
    users, others = study.people.users, study.people.others
    rows: list[dict[str, Value]] = []
    networks = study.recipe.names if networks is None else networks
    for network in networks:
        plain = load(network)
        adapted, loss = adapt(plain, clean, cloaked, labels, schedule=schedule, seed=study.seed)
        study.say(f"adaptive: {network} adapted on {len(labels)} photos, loss {loss[0]:.2f} to {loss[-1]:.2f}")
        for version, extractor in (("plain", plain), ("adapted", adapted)):
            name = network if version == "plain" else f"{network}, adapted"
            recogniser = Frozen(name, (network,), extractor, canvases)
            for head in HEADS:
                measured = measure(
                    EmbeddingTracker(recogniser, head),
                    users,
                    others,
                    cloaked=cloaks.files,
                    made_with=cloaks.made_with,
                )
                columns = {"network": network, "version": version, "head": head, "practice_photos": len(labels)}
                rows.append({**columns, **measured.row(), **cloaks.quality()})
    return Findings(rows, _figure(rows), _said(rows), _deviations(study, len(labels), schedule, networks))


def examples(study: Study, canvases: Canvases, practice: Cloaks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean and cloaked canvases (n, c, c, 3) of the public's photos that have a face in both, and whose they are."""
    photos = [
        (photo, file, label)
        for label, person in enumerate(study.people.public)
        for photo in person.scraped
        if (file := practice.files[photo]) is not None
    ]
    clean = canvases.cut([photo for photo, _, _ in photos])
    cloaked = canvases.cut([file for _, file, _ in photos])
    with_faces = [
        (before, after, label)
        for before, after, (_, _, label) in zip(clean, cloaked, photos, strict=True)
        if before is not None and after is not None
    ]
    if not with_faces:
        raise ValueError(
            "an adaptive tracker practises on cloaked photos of public people, and there is none with a face: choose "
            "people with more of the public"
        )
    _, labels = np.unique([label for _, _, label in with_faces], return_inverse=True)
    return np.stack([before for before, _, _ in with_faces]), np.stack([after for _, after, _ in with_faces]), labels


def _said(rows: Sequence[dict[str, Value]]) -> list[str]:
    said = []
    for row in rows:
        if row["version"] != "adapted":
            continue
        before = next(
            candidate
            for candidate in rows
            if all(candidate[k] == row[k] for k in ("network", "head")) and candidate is not row
        )
        said.append(
            f"{row['head']} on {row['network']}: protection {float(before['protection']):.0%} (floor "
            f"{float(before['floor']):.0%}) against the plain network, {float(row['protection']):.0%} (95 % interval "
            f"{float(row['protection_low']):.0%} to {float(row['protection_high']):.0%}, floor "
            f"{float(row['floor']):.0%}) once it has practised on {row['practice_photos']} cloaked photos of other "
            f"people; its accuracy on everybody else is {float(row['others']):.0%}, the plain network's "
            f"{float(before['others']):.0%}."
        )
    return said


def _deviations(study: Study, photos: int, schedule: Schedule, networks: Sequence[str]) -> list[str]:
    public = len({person.name for person in study.people.public})
    return [
        f"Practice: {photos} photos of {public} people, none of them a user or another label; the critics have all of "
        "FaceScrub (530 people, tens of photos each), and the other people's photos are in both trainings.",
        "Cloaks of this engine's recipe alone; the critics mix Fawkes 0.3, Fawkes 1.0 and LowKey.",
        f"Training: {schedule.epochs} epochs of {schedule.batch} a step by AdamW, crops jittered and mirrored; the "
        "critics 10 epochs of 500 steps of 32 photos, mirrored only.",
        "Beside the cross-entropy on people, both versions of a photo are drawn to the plain network's embedding of "
        "the clean one; the critics use cross-entropy alone. Which of the two teaches more was not compared.",
        "All users cloak at once; the critics test one protected person at a time, on 30 % of that person's photos.",
        f"Adapted: {', '.join(networks)}; the critics adapt the network of Fawkes 0.3.",
    ]


def _figure(rows: Sequence[dict[str, Value]]) -> Figure:
    lines = list(dict.fromkeys((str(row["network"]), str(row["head"])) for row in rows))
    figure = figures.new(width=7.0, height=1.6 + 0.55 * len(lines))
    axes = figure.subplots()
    for index, (version, shift) in enumerate((("plain", -0.15), ("adapted", 0.15))):
        for place, line in enumerate(lines):
            (row,) = (r for r in rows if (r["network"], r["head"], r["version"]) == (*line, version))
            low, value, high = (float(row[key]) for key in ("protection_low", "protection", "protection_high"))
            colour, y = figures.COLOURS[index], place + shift
            axes.plot([low, high], [y, y], color=colour, lw=1.5)
            axes.plot(
                value, y, color=colour, marker=figures.MARKERS[index], ls="", label=version if not place else None
            )
            floor = "floor: no cloak" if not place and not index else None
            axes.plot(float(row["floor"]), y, color="#767676", marker="|", ms=9, mew=2, ls="", label=floor)
    axes.set_yticks(range(len(lines)), [f"{head}\non {network}" for network, head in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("protection: clean photos of users not named as them")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def seconds(study: Study) -> float:
    """The trainings, and the adapted networks' embeddings of everybody's photos."""
    people = study.people
    practice = sum(len(person.scraped) for person in people.public)
    shown = sum(len(person.scraped) + len(person.tests) for person in (*people.users, *people.others))
    shown += sum(len(person.scraped) for person in people.users)
    steps = max(ADAPTING.epochs * 2 * practice, ADAPTING.least * ADAPTING.batch)
    return len(study.recipe.names) * SECONDS * (steps + 2 * shown / 3)


PRESET = Preset(
    name="adaptive",
    title="A tracker that has practised on cloaks",
    source="Radiya-Dixit, Hong, Carlini and Tramèr (ICLR 2022), adaptive trainers",
    question="Do cloaks protect against somebody who has this engine and trains a network on its cloaks?",
    cloaks=lambda study: [study.wanted(), study.wanted(people=study.people.public)],
    embeddings=lambda study: 0,
    seconds=seconds,
    run=run,
)
