"""Preset "oblivious": a tracker that knows nothing of cloaks and has a network that no cloak was made on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from engine.evaluate import figures
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import apart, each_tracker, percent, rates, setting, where
from engine.evaluate.protocol import measure
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Study
from engine.extractors import registry

UNKNOWN = "not known"
GREY = "#767676"


def auc(rows: Float[np.ndarray, "n d"], persons: Int[np.ndarray, "n"]) -> float:
    """How well distances tell people apart: the chance that two photos of one person are nearer to each other than
    two of different people, over all pairs (area under the ROC curve, as Mann and Whitney's U). NaN without such pairs.
    """
    first, second = np.triu_indices(len(rows), 1)
    squared = (rows**2).sum(1)
    distance = squared[first] + squared[second] - 2 * (rows @ rows.T)[first, second]
    same = persons[first] == persons[second]
    if not same.any() or same.all():
        return float("nan")
    different = np.sort(distance[~same])
    farther = (
        len(different)
        - (np.searchsorted(different, distance[same], "left") + np.searchsorted(different, distance[same], "right")) / 2
    )  # a tie counts half
    return float(farther.mean() / len(different))


def accuracy(recogniser: Recogniser, study: Study) -> float:
    """`auc` on the clean photos of this evaluation: the same for those that come with a card and those that do not."""
    everybody = (*study.people.users, *study.people.others)
    photos = [(photo, label) for label, one in enumerate(everybody) for photo in (*one.scraped, *one.tests)]
    found = recogniser.embed([photo for photo, _ in photos])
    kept = [(row, label) for row, (_, label) in zip(found, photos, strict=True) if row is not None]
    if not kept:
        return float("nan")
    return auc(np.stack([row for row, _ in kept]), np.array([label for _, label in kept]))


def run(study: Study) -> Findings:
    """A row for every held-out recogniser and head, the least accurate recogniser first."""
    cloaks = study.cloaks(study.wanted())
    users, others = study.people.users, study.people.others
    held_out = apart(study.recognisers, cloaks.made_with)["held-out"]
    here = {one.name: accuracy(one, study) for one in held_out}
    rows: list[dict[str, Value]] = []
    for columns, tracker in each_tracker(sorted(held_out, key=lambda one: here[one.name])):
        measured = measure(tracker, users, others, cloaked=cloaks.files, made_with=cloaks.made_with)
        known = {"auc": here[str(columns["recogniser"])], "lfw_pairs_auc": _card(tracker.extractors)}
        rows.append({**columns, **known, **measured.row(), **cloaks.quality()})
    deviations = [
        *setting(study, cloaks),
        "The critics' newer networks (Fawkes 1.0's, MagFace, CLIP) are not here; these are the held-out recognisers "
        "that are installed, and how accurate each is on this evaluation's clean photos stands for how new.",
        "The critics replace one user's photos by cloaked ones at a time and keep 70 % for training, 30 % for tests.",
    ]
    if not rows:
        return Findings(
            [], None, ["Every installed recogniser took part in the cloaks: nothing is held out."], deviations
        )
    most = max(rows, key=lambda row: float(row["protection"]) - float(row["floor"]))
    last = str(rows[-1]["recogniser"])
    sentences = [
        f"Against {len(held_out)} recognisers that no cloak was made on, a user only has to be scraped once: "
        f"{rates(rows)}.",
        f"The most accurate of them ({last}, AUC {here[last]:.4f} on clean photos here): "
        f"{rates(where(rows, recogniser=last))}.",
        f"The cloaks do most against {most['tracker']}: {percent(float(most['protection']))}, floor "
        f"{percent(float(most['floor']))}.",
    ]
    return Findings(rows, _figure(rows), sentences, deviations)


def _card(extractors: Sequence[str]) -> float | str:
    for name in extractors:
        if "lfw_pairs_auc" in (metric := registry.about(name).get("metric", {})):
            return float(metric["lfw_pairs_auc"])
    return UNKNOWN


def _figure(rows: Sequence[dict[str, Value]]) -> Figure:
    figure = figures.new(height=4.2)
    axes = figure.subplots()
    heads = list(dict.fromkeys(str(row["head"]) for row in rows))
    for index, head in enumerate(heads):
        own = where(rows, head=head)
        error = [float(row["auc"]) for row in own]
        value, low, high = (
            np.array([float(row[key]) for row in own]) for key in ("protection", "protection_low", "protection_high")
        )
        axes.errorbar(
            error,
            value,
            yerr=np.maximum([value - low, high - value], 0),
            ls="",
            marker=figures.MARKERS[index],
            color=figures.COLOURS[index],
            mfc="white",
            capsize=2,
            label=head,
        )
    axes.plot(
        [float(row["auc"]) for row in rows],
        [float(row["floor"]) for row in rows],
        ls="",
        marker="_",
        ms=9,
        mew=2,
        color=GREY,
        label="floor: no cloak",
    )
    for name in dict.fromkeys(str(row["recogniser"]) for row in rows):
        own = where(rows, recogniser=name)
        top = max(float(row["protection_high"]) for row in own)
        at = (float(own[0]["auc"]), top)
        axes.annotate(name, at, xytext=(0, 6), textcoords="offset points", rotation=45, fontsize="small")
    axes.set_xlabel("accuracy on clean photos (AUC of pairs), held-out recognisers")
    axes.set_ylabel("protection")
    axes.set_ylim(-0.02, 1.02)
    axes.margins(x=0.1)
    axes.yaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small", frameon=False)
    return figure


PRESET = Preset(
    name="oblivious",
    title="A network that no cloak knew",
    source="Radiya-Dixit, Hong, Carlini and Tramèr (ICLR 2022), oblivious trainers",
    question="Does a tracker need to know anything of cloaks, or is another network enough?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 0,
    seconds=lambda study: 8.0 * len(apart(study.recognisers, study.recipe.names)["held-out"]),
    run=run,
    default=False,
)
