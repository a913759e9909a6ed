"""Preset "labels": protection against how many people the tracker knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.evaluate.dataset import Person
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import (
    MAIN_HEADS,
    each_tracker,
    few,
    pooled,
    rates,
    setting,
    unpublished,
    where,
)
from engine.evaluate.presets.plots import curves
from engine.evaluate.protocol import Answers, classify, judged
from engine.evaluate.study import Study

LABELS = tuple(range(2, 11))
DRAWS = 2
"""Draws of other people for every user and number of labels."""


def draws(study: Study, labels: int) -> list[tuple[Person, tuple[Person, ...]]]:
    """A user and labels - 1 others, DRAWS times for every user; the same for every tracker."""
    random = np.random.default_rng((study.seed, labels))
    others = study.people.others

    def some() -> tuple[Person, ...]:
        return tuple(others[index] for index in random.choice(len(others), labels - 1, replace=False))

    return [(user, some()) for _ in range(DRAWS) for user in study.people.users]


def run(study: Study) -> Findings:
    """A row for every number of labels and tracker; each tracker is trained anew for every user and draw."""
    cloaks = study.cloaks(study.wanted())
    users = study.people.users
    possible = [labels for labels in LABELS if labels <= 1 + len(study.people.others)]
    rows: list[dict[str, Value]] = []
    for columns, tracker in each_tracker(few(study.recognisers, cloaks.made_with), MAIN_HEADS):
        for labels in possible:
            drawn = draws(study, labels)
            measured = judged(
                tracker,
                cloaks.made_with,
                with_cloaks=_by_user(
                    [classify(tracker, (user,), others, shown=cloaks.files) for user, others in drawn], len(users)
                ),
                without=_by_user(
                    [classify(tracker, (user,), others, shown=unpublished(cloaks)) for user, others in drawn],
                    len(users),
                ),
                users=users,
                scraped=sum(file is not None for file in cloaks.files.values()),
                other_people=labels - 1,
            )
            rows.append({"labels": labels, **columns, **measured.row(), **cloaks.quality()})
        study.say(f"{tracker.name}: trained with {possible[0]} to {possible[-1]} labels")
    sentences = [
        f"With {labels} labels: recognisers that took part in the cloaks "
        f"{rates(where(rows, labels=labels, part='in'))}; held-out "
        f"{rates(where(rows, labels=labels, part='held-out'))}."
        for labels in sorted({possible[0], possible[len(possible) // 2], possible[-1]})
    ]
    deviations = [
        *setting(study, cloaks),
        f"One user with others drawn at random, {DRAWS} draws for each of {len(users)} users, which takes the "
        "place of the paper's subsets of its data sets; trackers are heads on frozen networks.",
        "Of the recognisers, at most two that took part in the cloaks and one held-out.",
    ]
    figure = curves(rows, x="labels", line="recogniser", panel="head", label="labels the tracker knows")
    return Findings(rows, figure, sentences, deviations)


def _by_user(named: Sequence[Answers], users: int) -> Answers:
    """Trainings of one user each, in rounds through all users, as one: a user's tests of all rounds together."""
    rounds = [named[first : first + users] for first in range(0, len(named), users)]
    return pooled(
        [
            Answers(
                tuple(answers.missed[0] for answers in trainings),
                float(np.nanmean([answers.others for answers in trainings])),
            )
            for trainings in rounds
        ]
    )


PRESET = Preset(
    name="labels",
    title="Protection against the number of labels",
    source="Fawkes (Shan et al., USENIX Security 2020), figure 6",
    question="Does a tracker that knows few people recognise a cloaked user more easily?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 0,
    seconds=lambda study: 0.1 * 3 * len(LABELS) * DRAWS * 2 * len(study.people.users),
    run=run,
)
