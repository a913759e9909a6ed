"""Preset "space": where cloaks move embeddings, in networks that took part, that did not, and in robust ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from engine.evaluate import figures
from engine.evaluate.dataset import Person
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import apart, mean, robust, setting, where
from engine.evaluate.protocol import part
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Cloaks, Study
from engine.evaluate.tables import percent

SHOWN = 3
"""Users in the figure: more colours are hard to tell apart in so many dots."""
GREY = "#9a9a9a"

Rows = Float[np.ndarray, "n d"]


@dataclass(frozen=True)
class Embedded:
    """One user in one recogniser. scraped, cloaked: the same photos before and after. tests: the clean ones beside."""

    scraped: Rows
    cloaked: Rows
    tests: Rows


def embedded(recogniser: Recogniser, user: Person, cloaks: Cloaks) -> Embedded | None:
    """A user's embeddings; None if none of the photos, or of the tests, has a face before and after the cloak."""
    pairs = [(photo, file) for photo in user.scraped if (file := cloaks.files.get(photo)) is not None]
    clean = recogniser.embed([photo for photo, _ in pairs])
    cloaked = recogniser.embed([file for _, file in pairs])
    both = [(a, b) for a, b in zip(clean, cloaked, strict=True) if a is not None and b is not None]
    tests = _embeddings(recogniser, user.tests)
    if not both or not len(tests):
        return None
    return Embedded(np.stack([a for a, _ in both]), np.stack([b for _, b in both]), tests)


def moved(users: Sequence[Embedded], others: Sequence[Rows]) -> dict[str, Value]:
    """How far cloaks move embeddings, against the distance between people.

    others: the embeddings of each other person. A person is their clean centroid: of a user that of the tests,
    so that no photo is compared with itself.
    """
    shift = np.concatenate([np.linalg.norm(user.cloaked - user.scraped, axis=1) for user in users])
    user_centroids = np.stack([user.tests.mean(0) for user in users])
    centroids = np.concatenate([user_centroids, *[rows.mean(0)[None] for rows in others]])
    between = np.linalg.norm(user_centroids[:, None] - centroids[None], axis=2)
    between[np.arange(len(user_centroids)), np.arange(len(user_centroids))] = np.nan

    def astray(rows: Sequence[Rows]) -> float:
        nearest = [np.linalg.norm(person_rows[:, None] - centroids[None], axis=2).argmin(1) for person_rows in rows]
        return float(np.concatenate([neighbours != user for user, neighbours in enumerate(nearest)]).mean())

    return {
        "photos": len(shift),
        "shift_mean": float(shift.mean()),
        "between_people": float(np.nanmean(between)),
        "shift_relative": float(shift.mean() / np.nanmean(between)),
        "astray": astray([user.cloaked for user in users]),
        "astray_floor": astray([user.scraped for user in users]),
    }


def axes_of(rows: Rows) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d 2"]]:
    """Mean and the two principal axes (PCA by singular value decomposition); a flat cloud's second axis is zero."""
    middle = rows.mean(0)
    _, values, axes = np.linalg.svd(rows - middle, full_matrices=False)
    axes = np.where(values[:, None] > 1e-9, axes, 0)[:2].T
    return middle, np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))


def run(study: Study) -> Findings:
    """A row for every recogniser, a panel for one that took part, one held out and each robust one."""
    cloaks = study.cloaks(study.wanted())
    rows: list[dict[str, Value]] = []
    drawn: dict[str, tuple[list[Embedded], list[Rows]]] = {}
    for recogniser in study.recognisers:
        users = [
            embedded_user
            for user in study.people.users
            if (embedded_user := embedded(recogniser, user, cloaks)) is not None
        ]
        others = [_embeddings(recogniser, (*person.scraped, *person.tests)) for person in study.people.others]
        others = [person_rows for person_rows in others if len(person_rows)]
        if not users:
            study.say(f"{recogniser.name} finds no face on the users' photos: left out")
            continue
        drawn[recogniser.name] = users, others
        columns = {"recogniser": recogniser.name, "part": part(recogniser, cloaks.made_with), "users": len(users)}
        rows.append({**columns, **moved(users, others), **cloaks.quality()})
    sturdy = robust(study.recognisers)
    groups = apart(study.recognisers, cloaks.made_with)
    panels = [
        recogniser.name
        for recogniser in (*groups["in"][:1], *groups["held-out"][:1], *sturdy[:1])
        if recogniser.name in drawn
    ]
    titles = {name: f"{name} ({where(rows, recogniser=name)[0]['part']})" for name in dict.fromkeys(panels)}
    sentences = [sentence for kind in ("in", "held-out") if (sentence := _sentence(rows, kind))]
    if sturdy:
        names = [recogniser.name for recogniser in sturdy]
        robust_rows = [row for row in rows if row["recogniser"] in names]
        sentences.append(
            f"Robust extractors ({', '.join(names)}): shift {mean(robust_rows, 'shift_relative'):.2f} of the distance "
            f"between two people, {percent(mean(robust_rows, 'astray'))} nearer to somebody else, "
            f"{percent(mean(robust_rows, 'astray_floor'))} with no cloak."
        )
    else:
        sentences.append(
            "No robust extractor is installed, so nothing is said of one (`cloak train-robust` makes one)."
        )
    deviations = [
        *setting(study, cloaks),
        "The paper's figures have the user, the target and other people; only objective target has a target.",
        "The plane is fitted to clean embeddings alone, so that the cloaks do not choose it.",
    ]
    figure = _figure({title: drawn[name] for name, title in titles.items()}) if titles else None
    return Findings(rows, figure, sentences, deviations)


def _embeddings(recogniser: Recogniser, photos: Sequence[Path]) -> Rows:
    rows = [row for row in recogniser.embed(photos) if row is not None]
    return np.stack(rows) if rows else np.empty((0, 0))


def _sentence(rows: Sequence[dict[str, Value]], kind: str) -> str:
    shown = where(rows, part=kind)
    who = {"in": "that took part in making the cloaks", "held-out": "that took no part"}[kind]
    if not shown:
        return ""
    return (
        f"In recognisers {who} ({', '.join(str(row['recogniser']) for row in shown)}) a cloak moves an embedding by "
        f"{mean(shown, 'shift_relative'):.2f} of the distance between two people, and {percent(mean(shown, 'astray'))} "
        f"of the cloaked photos lie nearer to somebody else's clean photos than to the person's own; "
        f"{percent(mean(shown, 'astray_floor'))} do with no cloak."
    )


def _figure(panels: dict[str, tuple[list[Embedded], list[Rows]]]) -> Figure:
    figure = figures.new(height=3.6)
    for axes, (title, (users, others)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _panel(axes, users[:SHOWN], others)
        axes.set_title(title)
    handles = [
        Line2D([], [], color="black", marker="o", ls="", label="a user, clean"),
        Line2D([], [], color="black", marker="X", mfc="white", ls="", label="the same, cloaked"),
        Line2D([], [], color=GREY, marker=".", ls="", label="other people"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def _panel(axes: Axes, users: Sequence[Embedded], others: Sequence[Rows]) -> None:
    middle, plane = axes_of(np.concatenate([*[np.concatenate([user.scraped, user.tests]) for user in users], *others]))
    background = (np.concatenate(others) - middle) @ plane if others else np.empty((0, 2))
    axes.plot(*background.T, ls="", marker=".", ms=3, color=GREY, alpha=0.6)
    for user, colour in zip(users, figures.COLOURS, strict=False):
        clean = (np.concatenate([user.scraped, user.tests]) - middle) @ plane
        cloaked = (user.cloaked - middle) @ plane
        axes.plot(*clean.T, ls="", marker="o", ms=5, color=colour)
        axes.plot(*cloaked.T, ls="", marker="X", ms=7, color=colour, mfc="white", mew=1.3)
    axes.set_xlabel("first principal axis")
    axes.set_ylabel("second")
    axes.set_xticks([])
    axes.set_yticks([])


PRESET = Preset(
    name="space",
    title="Where cloaks move embeddings",
    source="Fawkes (Shan et al., USENIX Security 2020), figures 3, 7 and 8",
    question="Do cloaked photos leave the person's place in the embeddings of this and of other networks?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 0,
    seconds=lambda study: 2.0 * len(study.recognisers),
    run=run,
    default=True,
)
