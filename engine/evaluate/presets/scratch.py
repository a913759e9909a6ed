"""Preset "scratch": a tracker that trains a network of its own, from random weights or from an extractor's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from engine.evaluate import figures
from engine.evaluate.canvases import Canvases
from engine.evaluate.descent import History
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.protocol import classify, measure
from engine.evaluate.study import Study
from engine.evaluate.training import FINE_TUNING, FROM_SCRATCH, FineTuned, FromScratch

FINE_TUNED = "mobilefacenet-192"
"""The quickest of the accurate extractors: by benchmarks/README.md, others' gradients take 1.7 to 2.6 times as long."""
SCRATCH_SECONDS, FINE_SECONDS = 0.004, 0.09
"""About what one photo costs in one epoch, on one core."""


@dataclass(frozen=True)
class Recorded:
    """A tracker that trains, and the curves of every training."""

    tracker: FromScratch | FineTuned
    histories: list[History] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The tracker's."""
        return self.tracker.name

    @property
    def extractors(self) -> tuple[str, ...]:
        """The tracker's."""
        return self.tracker.extractors

    def names(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]
    ) -> Int[np.ndarray, "m"]:
        """The tracker's, after which its history is there."""
        self.histories.append(self.tracker.learn(photos, labels, tests))
        return self.histories[-1].named[-1]


@dataclass(frozen=True)
class Curves:
    """The curves of one tracker, for the figure: its training without cloaks and with them."""

    tracker: str
    clean: History
    cloaked: History


def run(study: Study) -> Findings:
    """A row for each tracker."""
    cloaks = study.cloaks(study.wanted())
    users, others = study.people.users, study.people.others
    truth = np.array([label for label, person in enumerate((*users, *others)) for _ in person.tests])
    user_tests = slice(0, sum(len(user.tests) for user in users))
    other_tests = slice(user_tests.stop, None)
    canvases = Canvases.of_study(study)
    rows: list[dict[str, Value]] = []
    shown: list[Curves] = []
    for tracker in (FromScratch(canvases, seed=study.seed), FineTuned(FINE_TUNED, canvases, seed=study.seed)):
        recorded = Recorded(tracker)
        floor = classify(recorded, users, others)
        study.say(f"{tracker.name}: learnt the clean photos")
        measured = measure(recorded, users, others, cloaked=cloaks.files, made_with=cloaks.made_with, floor=floor)
        study.say(f"{tracker.name}: learnt the cloaked photos")
        clean, cloaked = recorded.histories
        shown.append(Curves(tracker.name, clean, cloaked))
        rows.append(
            {
                **measured.row(),
                "epochs": len(cloaked.loss),
                "loss_first": cloaked.loss[0],
                "loss_last": cloaked.loss[-1],
                "training_accuracy": cloaked.accuracy[-1],
                "training_accuracy_floor": clean.accuracy[-1],
                **cloaks.quality(),
            }
        )
    sentences = [_said(row) for row in rows]
    counts = sorted({len(user.scraped) for user in users})
    deviations = [
        "The paper trains on tens of photos a person (PubFig, FaceScrub), reaches a high accuracy on clean photos and "
        f"cloaks one person; here {len(users)} users cloak {'-'.join(map(str, counts))} photos each, "
        f"beside {len(others)} other people, and the accuracy on clean photos is what so few photos allow.",
        "The network from scratch is a residual network of 7 convolutions at 64 pixels, small enough for a CPU; the "
        "paper's are Inception-ResNet and DenseNet.",
        f"The fine-tuned tracker starts from {FINE_TUNED}; the paper does not fine-tune every layer.",
    ]
    return Findings(rows, _figure(shown, truth, user_tests, other_tests), sentences, deviations)


def _said(row: dict[str, Value]) -> str:
    protection, floor = float(row["protection"]), float(row["floor"])
    return (
        f"The tracker {row['tracker']} ({row['part']}) names {1 - floor:.0%} of users' clean test photos rightly when "
        f"nothing is cloaked, {1 - protection:.0%} when users cloak: protection {protection:.0%} (95 % interval "
        f"{float(row['protection_low']):.0%} to {float(row['protection_high']):.0%}), floor {floor:.0%}. Its accuracy "
        f"on everybody else is {float(row['others']):.0%} with cloaks, {float(row['others_floor']):.0%} without."
    )


def _figure(curves: Sequence[Curves], truth: Int[np.ndarray, "m"], user_tests: slice, other_tests: slice) -> Figure:
    figure = figures.new(width=7.0, height=5.5)
    panels = figure.subplots(2, len(curves), sharex="col", squeeze=False)
    blue, orange, green = figures.COLOURS[:3]
    for (above, below), curve in zip(panels.T, curves, strict=True):
        above.set_title(curve.tracker)
        for history, colour, label in ((curve.clean, blue, "no cloaks"), (curve.cloaked, orange, "users cloak")):
            epochs = range(1, len(history.loss) + 1)
            above.plot(epochs, history.loss, color=colour, label=label)
            right = {"users": history.right(truth, user_tests), "others": history.right(truth, other_tests)}
            below.plot(history.epochs, right["users"], color=colour, marker="o", label=f"users' tests, {label}")
            below.plot(
                history.epochs, right["others"], color=colour, ls=":", marker="^", label=f"others' tests, {label}"
            )
        below.plot(
            range(1, len(curve.cloaked.accuracy) + 1),
            curve.cloaked.accuracy,
            color=green,
            ls="--",
            label="training photos, users cloak",
        )
        below.set_xlabel("epoch")
        below.set_ylim(-0.02, 1.02)
        below.yaxis.set_major_formatter(PercentFormatter(1))
        above.set_ylim(bottom=0)
    panels[0, 0].set_ylabel("training loss")
    panels[1, 0].set_ylabel("named rightly")
    panels[0, 0].legend(fontsize="small")
    handles, labels = panels[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def seconds(study: Study) -> float:
    """Two trainings of each tracker."""
    people = (*study.people.users, *study.people.others)
    photos = sum(len(person.scraped) for person in people)
    return 2 * photos * (FROM_SCRATCH.epochs * SCRATCH_SECONDS + FINE_TUNING.epochs * FINE_SECONDS) + 60


PRESET = Preset(
    name="scratch",
    title="Trackers that train their own network",
    source="Fawkes (Shan et al., USENIX Security 2020), section 5.4",
    question="Do cloaks still protect when the tracker trains a network on the photos itself?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 0,
    seconds=seconds,
    run=run,
)
