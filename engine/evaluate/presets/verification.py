"""Preset "verification": do the two extractors of `cloak evaluate-extractor` still tell people apart?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from scipy.stats import rankdata

from engine.evaluate import figures
from engine.evaluate.dataset import Person
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Study

FALSE_ACCEPTS = (1e-2, 1e-3)
"""False accept rates at which the true accept rate is told."""


class Pairs(NamedTuple):
    """Distances between all photos of `people` people, of which `photos` had a face."""

    people: int
    photos: int
    same: Float[np.ndarray, "p"]
    different: Float[np.ndarray, "q"]

    @property
    def auc(self) -> float:
        """The chance that two photos of one person are nearer to each other than two of different people.

        It is the area under the ROC curve as Mann and Whitney's U, a tie counting half. NaN without such pairs.
        """
        if not len(self.same) or not len(self.different):
            return float("nan")
        ranks = rankdata(np.concatenate([self.same, self.different]))[: len(self.same)].sum()
        above = ranks - len(self.same) * (len(self.same) + 1) / 2
        return float(1 - above / (len(self.same) * len(self.different)))

    def true_accepts(self, rate: float) -> float:
        """Share of the same pairs that are nearer than a threshold which so many of the different ones pass."""
        if not len(self.same) or not len(self.different):
            return float("nan")
        return float(np.mean(self.same < np.quantile(self.different, rate, method="lower")))


def pairs(rows: Float[np.ndarray, "n d"], persons: Int[np.ndarray, "n"]) -> Pairs:
    """All pairs of the embeddings of so many photos."""
    first, second = np.triu_indices(len(rows), 1)
    squared = (rows**2).sum(1)
    distance = squared[first] + squared[second] - 2 * (rows @ rows.T)[first, second]
    same = persons[first] == persons[second]
    return Pairs(len(set(persons.tolist())), len(rows), distance[same], distance[~same])


def of_photos(recogniser: Recogniser, people: tuple[Person, ...]) -> Pairs | None:
    """All pairs of the clean photos of these people, None if no face was found in any."""
    photos = [(photo, label) for label, person in enumerate(people) for photo in (*person.scraped, *person.tests)]
    rows = recogniser.embed([photo for photo, _ in photos])
    labelled = [(row, label) for row, (_, label) in zip(rows, photos, strict=True) if row is not None]
    if not labelled:
        return None
    return pairs(np.stack([row for row, _ in labelled]), np.array([label for _, label in labelled]))


def everybody(study: Study) -> tuple[Person, ...]:
    """All people of the study: an extractor that is judged was trained on none of them, or the figures are void."""
    people = study.people
    return (*people.users, *people.others, *people.public)


def run(study: Study) -> Findings:
    """A row for every recogniser of the study, the two extractors first."""
    subject, reference = study.recipe.names
    order = sorted(study.recognisers, key=lambda recogniser: (recogniser.name != subject, recogniser.name != reference))
    rows: list[dict[str, Value]] = []
    curves: dict[str, Pairs] = {}
    for recogniser in order:
        distances = of_photos(recogniser, everybody(study))
        if distances is None:
            continue
        curves[recogniser.name] = distances
        rates = {f"tar_far_{rate:g}": distances.true_accepts(rate) for rate in FALSE_ACCEPTS}
        counts = {"people": distances.people, "photos": distances.photos}
        sizes = {"same": len(distances.same), "different": len(distances.different)}
        rows.append({"recogniser": recogniser.name, "auc": distances.auc, **rates, **counts, **sizes})
        study.say(f"{recogniser.name}: AUC {distances.auc:.4f}")
    known = {str(row["recogniser"]): row for row in rows}
    sentences = [
        f"{name}: area under the ROC curve {float(known[name]['auc']):.4f}, true accept rate "
        f"{float(known[name]['tar_far_0.001']):.3f} at a false accept rate of 0.001, over {known[name]['same']} same "
        f"and {known[name]['different']} different pairs of {known[name]['photos']} clean photos."
        for name in (subject, reference)
        if name in known
    ]
    sentences.append("That nobody of these people was trained on is for whoever calls this to see to (`--people`).")
    shown = {name: curves[name] for name in (subject, reference) if name in curves}
    return Findings(rows, _figure(shown), sentences)


def _figure(curves: dict[str, Pairs]) -> Figure:
    figure = figures.new()
    axes = figure.subplots()
    rates = np.logspace(-4, 0, 60)
    for name, marker, curve in zip(curves, figures.MARKERS, curves.values(), strict=False):
        accepts = [curve.true_accepts(rate) for rate in rates]
        axes.plot(rates, accepts, label=f"{name}, AUC {curve.auc:.4f}", marker=marker, markevery=10)
    axes.set_xscale("log")
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate")
    axes.legend(loc="lower right", fontsize="small")
    return figure


PRESET = Preset(
    name="verification",
    title="Does it tell people apart?",
    source="verification of pairs, as of Labeled Faces in the Wild (Huang et al. 2007)",
    question="Are two clean photos of one person nearer to each other than two of different people?",
    cloaks=lambda study: [],
    embeddings=lambda study: sum(len(person.scraped) + len(person.tests) for person in study.people.public),
    seconds=lambda study: 5.0,
    run=run,
)
