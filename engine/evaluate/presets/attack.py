"""Preset "attack": how far an adversary moves the embeddings of the two extractors of `cloak evaluate-extractor`."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from engine import extractors
from engine.evaluate import figures
from engine.evaluate.canvases import Canvases, stack
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.study import Study
from engine.extractors import Extractor
from engine.robust import adversary
from engine.robust.adversary import Attack, Target
from engine.robust.train import crops_of, embedded

EPSILONS = (1, 2, 4, 8)
"""Largest change of a pixel, in grey levels of 255."""
STEPS = (20, 100)
FACES = 4
"""One photo of each of the first users: 400 passes forward and backward for each face and extractor."""
STRIDE = 2.5
"""Length of the fewer steps together, in epsilons (Madry et al., ICLR 2018): the border is reached from anywhere."""


def shifts(extractor: Extractor, canvases: np.ndarray, *, epsilon: float) -> dict[int, np.ndarray]:
    """How far PGD moves the embedding of each canvas (n, c, c, 3) uint8, in [0, 2]: (n,) after each number of STEPS.

    epsilon: the largest change of a pixel in units of [0, 1].
    """
    attack = Attack(epsilon, max(STEPS), min(1.0, STRIDE * epsilon / min(STEPS)))
    windows = jnp.tile(jnp.array(extractor.spec.window_yx, jnp.float32), (len(canvases), 1, 1))
    crops = crops_of(extractor, jnp.asarray(canvases), windows)
    clean = embedded(extractor, crops)
    target = Target(None, clean, jnp.zeros(len(canvases), jnp.int32))
    noise = jnp.arange(len(canvases), dtype=jnp.uint32)
    deltas = adversary.begin(attack, crops, noise)
    moved = {}
    for step in range(1, attack.steps + 1):
        deltas = adversary.ascend(attack, extractor, target, crops, deltas, jnp.float32(1))
        if step in STEPS:
            moved[step] = np.linalg.norm(np.asarray(embedded(extractor, crops + deltas)) - np.asarray(clean), axis=1)
    return moved


def run(study: Study) -> Findings:
    """A row for both extractors, every bound and every number of steps."""
    photos = [person.tests[0] for person in study.people.users[:FACES]]
    canvases, _ = stack(Canvases.of_study(study).cut(photos))
    if not len(canvases):
        raise ValueError("no face was found in the first test photo of any of the first users")
    rows: list[dict[str, Value]] = []
    for name in study.recipe.names:
        extractor = extractors.load(name)
        for number, epsilon in enumerate(EPSILONS, 1):
            for steps, moved in shifts(extractor, canvases, epsilon=epsilon / 255).items():
                rows.append(
                    {
                        "extractor": name,
                        "steps": steps,
                        "epsilon_255": epsilon,
                        "shift": float(moved.mean()),
                        "shift_min": float(moved.min()),
                        "shift_max": float(moved.max()),
                        "faces": len(canvases),
                    }
                )
            study.progress(f"attack on {name}", number, len(EPSILONS))
        study.say(f"{name}: shift {_told(rows, name)}")
    subject, reference = study.recipe.names
    sentences = [
        f"Distance by which PGD moves an embedding (0 to 2, mean over {len(canvases)} faces) at a largest change of "
        f"{', '.join(map(str, EPSILONS))} grey levels, {STEPS[-1]} steps: {subject} {_told(rows, subject)}; "
        f"{reference} {_told(rows, reference)}.",
        "Less is more robust. A network whose embeddings hardly differ between people is robust too: see whether it "
        "tells people apart.",
    ]
    return Findings(rows, _figure(rows), sentences)


def _told(rows: Sequence[dict[str, Value]], name: str) -> str:
    longest = [row for row in rows if row["extractor"] == name and row["steps"] == STEPS[-1]]
    return ", ".join(f"{float(row['shift']):.2f}" for row in longest)


def _figure(rows: Sequence[dict[str, Value]]) -> Figure:
    figure = figures.new()
    axes = figure.subplots()
    for name, colour, marker in zip(
        dict.fromkeys(row["extractor"] for row in rows), figures.COLOURS, figures.MARKERS, strict=False
    ):
        for steps, line in zip(STEPS, ("--", "-"), strict=True):
            points = [row for row in rows if row["extractor"] == name and row["steps"] == steps]
            axes.plot(
                [float(row["epsilon_255"]) for row in points],
                [float(row["shift"]) for row in points],
                color=colour,
                marker=marker,
                ls=line,
                label=f"{name}, {steps} steps",
            )
    axes.set_xlabel("largest change of a pixel, in grey levels of 255")
    axes.set_ylabel("distance from the clean embedding")
    axes.set_ylim(0, 2)
    axes.legend(loc="lower right", fontsize="small")
    return figure


PRESET = Preset(
    name="attack",
    title="How far does an adversary move it?",
    source="PGD on embeddings (Madry et al., ICLR 2018)",
    question="How far can changes of so many grey levels move an embedding?",
    cloaks=lambda study: [],
    embeddings=lambda study: 0,
    seconds=lambda study: 0.1 * FACES * max(STEPS) * len(EPSILONS) * len(study.recipe.names),
    run=run,
)
