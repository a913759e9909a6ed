"""Preset "oblivious": a tracker that knows nothing of cloaks and has a network that no cloak was made on."""

from __future__ import annotations

from collections.abc import Sequence

from engine.evaluate.presets import Findings, Preset, Value, verification
from engine.evaluate.presets.common import apart, each_tracker, rates, setting, where
from engine.evaluate.presets.plots import dots
from engine.evaluate.protocol import measure
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Study
from engine.evaluate.tables import percent
from engine.extractors import registry

UNKNOWN = "not known"


def accuracy(recogniser: Recogniser, study: Study) -> float:
    """AUC on the clean photos of this evaluation: the same for those that come with a card and those that do not."""
    pairs = verification.of_photos(recogniser, (*study.people.users, *study.people.others))
    return float("nan") if pairs is None else pairs.auc


def run(study: Study) -> Findings:
    """A row for every held-out recogniser and head, the least accurate recogniser first."""
    cloaks = study.cloaks(study.wanted())
    users, others = study.people.users, study.people.others
    held_out = apart(study.recognisers, cloaks.made_with)["held-out"]
    here = {recogniser.name: accuracy(recogniser, study) for recogniser in held_out}
    rows: list[dict[str, Value]] = []
    for columns, tracker in each_tracker(sorted(held_out, key=lambda recogniser: here[recogniser.name])):
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
        f"Against the {len(held_out)} recognisers that no cloak was made on "
        f"({', '.join(recogniser.name for recogniser in held_out)}): {rates(rows)}.",
        f"The most accurate of them ({last}, AUC {here[last]:.4f} on clean photos here): "
        f"{rates(where(rows, recogniser=last))}.",
        f"The cloaks do most against {most['tracker']}: {percent(float(most['protection']))}, floor "
        f"{percent(float(most['floor']))}.",
    ]
    labelled = [{**row, "label": f"{row['recogniser']}\nAUC {float(row['auc']):.4f}"} for row in rows]
    figure = dots(labelled, by="label", colour="head", note="best network below")
    return Findings(rows, figure, sentences, deviations)


def _card(extractors: Sequence[str]) -> float | str:
    for name in extractors:
        if "lfw_pairs_auc" in (metric := registry.about(name).get("metric", {})):
            return float(metric["lfw_pairs_auc"])
    return UNKNOWN


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
