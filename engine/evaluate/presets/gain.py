"""Preset "gain": cloaks made on the two extractors of `cloak evaluate-extractor`, judged by those that took no part."""

from __future__ import annotations

from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import MAIN_HEADS, by_set, mean, photos_cloaked, rates, setting, where
from engine.evaluate.presets.plots import dots
from engine.evaluate.study import CloakSet, Study
from engine.evaluate.tables import percent


def sets(study: Study) -> dict[str, CloakSet]:
    """Cloaks made on each extractor alone, by its name: the same budget, the same steps."""
    return {name: study.wanted(extractors=(name,)) for name in study.recipe.names}


def run(study: Study) -> Findings:
    """A row for both extractors and every tracker."""
    subject, reference = study.recipe.names
    made = by_set(study, sets(study), study.people.users)
    rows: list[dict[str, Value]] = [
        {"made_on": name, "steps": cloaks.recipe.steps, **row}
        for name, (cloaks, set_rows) in made.items()
        for row in set_rows
    ]
    held = where(rows, part="held-out")
    sentences = [
        f"Cloaks made on {name} alone, held-out trackers: {rates(where(held, made_on=name))}." for name in made
    ]
    for head in MAIN_HEADS:
        mine, theirs = (mean(where(held, made_on=name, head=head)) for name in (subject, reference))
        if held:
            sentences.append(
                f"Transfer gain, {head}: {percent(mine - theirs)} of users' photos, from {percent(theirs)} to "
                f"{percent(mine)}, mean over the held-out trackers."
            )
    if not held:
        sentences.append("No recogniser was held out: nothing is said about transfer.")
    sentences.append(
        "A tracker on either extractor, or on another that was trained from one of them, counts as having taken part."
    )
    labelled = [{**row, "label": f"{row['recogniser']}\nmade on {row['made_on']}"} for row in held or rows]
    labelled.sort(key=lambda row: str(row["recogniser"]))
    figure = dots(labelled, by="label", colour="head")
    return Findings(rows, figure, sentences, setting(study, made[subject][0]))


PRESET = Preset(
    name="gain",
    title="Transfer gain",
    source="Fawkes (Shan et al., USENIX Security 2020), section 5.3",
    question="Do cloaks made on it carry further to networks that took no part than those made on the other?",
    cloaks=lambda study: list(sets(study).values()),
    embeddings=lambda study: len(sets(study)) * photos_cloaked(study.people.users),
    seconds=lambda study: 4.0 * len(study.recognisers) * (1 + len(sets(study))),
    run=run,
)
