"""Preset "leaked": some of what the tracker scraped of a user is clean."""

from __future__ import annotations

import numpy as np

from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import (
    MAIN_HEADS,
    each_tracker,
    leaked,
    mean,
    pooled,
    rates,
    setting,
    unpublished,
    where,
)
from engine.evaluate.presets.plots import curves
from engine.evaluate.protocol import classify, judged
from engine.evaluate.study import Study
from engine.evaluate.tables import percent

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
DRAWS = 3
"""Draws of the photos that leak, where there is a choice."""


def run(study: Study) -> Findings:
    """A row for every share of clean photos and tracker."""
    cloaks = study.cloaks(study.wanted())
    users, others = study.people.users, study.people.others
    published = sum(file is not None for file in cloaks.files.values())
    rows: list[dict[str, Value]] = []
    for columns, tracker in each_tracker(study.recognisers, MAIN_HEADS):
        floor = classify(tracker, users, others, shown=unpublished(cloaks))
        for share in SHARES:
            random = np.random.default_rng((study.seed, round(1000 * share)))
            drawn = [leaked(users, cloaks.files, share, random) for _ in range(DRAWS if 0 < share < 1 else 1)]
            clean = np.mean([published - sum(file is not None for file in shown.values()) for shown in drawn])
            measured = judged(
                tracker,
                cloaks.made_with,
                with_cloaks=pooled([classify(tracker, users, others, shown=shown) for shown in drawn]),
                without=floor,
                users=users,
                scraped=published,
                other_people=len(others),
            )
            actual = {"leaked": share, "leaked_measured": float(clean / max(published, 1))}
            rows.append({**actual, **columns, **measured.row(), **cloaks.quality()})
        study.say(f"{tracker.name}: clean photos leaked at {len(SHARES)} shares")
    sentences = [
        f"With {percent(share)} of the scraped photos clean: recognisers that took part in the cloaks "
        f"{rates(where(rows, leaked=share, part='in'))}; held-out {rates(where(rows, leaked=share, part='held-out'))}."
        for share in SHARES
    ]
    quarter, none = (mean(where(rows, leaked=share, part="in", head="1-NN")) for share in (0.25, 0.0))
    if np.isfinite(none):
        sentences.append(
            f"A nearest neighbour of a network that took part: {percent(none)} while all photos are cloaked, "
            f"{percent(quarter)} once a quarter of them is clean."
        )
    deviations = [
        *setting(study, cloaks),
        "Which photos leak is drawn by chance, several times, for all users at once.",
    ]
    figure = curves(
        rows, x="leaked", line="recogniser", panel="head", label="clean among the scraped photos", percent=True
    )
    return Findings(rows, figure, sentences, deviations)


PRESET = Preset(
    name="leaked",
    title="When clean photos leak",
    source="Fawkes (Shan et al., USENIX Security 2020), section 7",
    question="How much protection is left when some of what a tracker scraped is not cloaked?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 0,
    seconds=lambda study: 2.0 * len(MAIN_HEADS) * len(study.recognisers) * (3 + DRAWS * (len(SHARES) - 2)),
    run=run,
)
