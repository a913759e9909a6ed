"""Preset "protection": the headline. Every recogniser, every head, the cloaks that are judged."""

from __future__ import annotations

from engine.evaluate.presets import Findings, Preset
from engine.evaluate.presets.common import by_part, each_tracker, photos_cloaked, setting, where
from engine.evaluate.presets.plots import dots
from engine.evaluate.protocol import measure
from engine.evaluate.study import Study


def run(study: Study) -> Findings:
    """A row for every tracker: those with a network that took part first."""
    cloaks = study.cloaks(study.wanted())
    users, others = study.people.users, study.people.others
    rows = []
    for columns, tracker in each_tracker(study.recognisers):
        measured = measure(tracker, users, others, cloaked=cloaks.files, made_with=cloaks.made_with)
        rows.append({**columns, **measured.row(), **cloaks.quality()})
        study.say(f"{tracker.name}: protection {measured.protection.value:.1%}, floor {measured.floor.value:.1%}")
    rows = [*where(rows, part="in"), *where(rows, part="held-out")]
    quality = cloaks.quality()
    unpublished = sum(file is None for file in cloaks.files.values())
    sentences = [
        "Share of users' clean photos that a tracker, trained on their cloaked photos, does not name as the user: mean "
        "over trackers, in brackets the least and the most; the floor is the same share with no cloak.",
        *by_part(rows),
        f"DSSIM of the face regions in the {quality['cloaked']} cloaked files: mean {quality['dssim_mean']:.4f}, "
        f"largest {quality['dssim_max']:.4f}, budget {cloaks.recipe.rho:g}.",
    ]
    if unpublished:
        sentences.append(f"{unpublished} scraped photos had no face that was found, so they were not published.")
    figure = dots(rows, by="recogniser", colour="head")
    return Findings(rows, figure, sentences, setting(study, cloaks))


PRESET = Preset(
    name="protection",
    title="Does it protect?",
    source="Fawkes (Shan et al., USENIX Security 2020), sections 5.2 and 5.3",
    question="How many clean photos of a user does a tracker not name, after it was trained on cloaked ones?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: photos_cloaked(study.people.users),
    seconds=lambda study: 8.0 * len(study.recognisers),
    run=run,
    default=True,
)
