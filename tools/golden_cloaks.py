"""Writes tests/goldens/cloaks.json: coarse pictures of tiny cloaks and of canvases, and the versions that made them.

Run it after a change of cloaks that was meant, when `engine.config.CLOAKS` has been raised, or of canvases and `CROPS`:

    python tools/golden_cloaks.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "tests")]
GOLDEN = REPOSITORY / "tests" / "goldens" / "cloaks.json"

SIDE, POOL, STEPS = 48, 8, 6
CROP = 22
LED = 24
"""Steps of the cloak that shows what a lead does."""


def cloaks() -> dict[str, list[list[float]]]:
    """By solver, objective and steps: mean change of each POOL x POOL pixels, in grey levels, rounded to hundredths."""
    import tiny

    from engine import sharding
    from engine.bulk.batching import Batcher, FaceJob
    from engine.config import Objective, Recipe, SolverName
    from engine.faces import Cut

    mask = np.zeros((SIDE, SIDE, 1), np.float32)
    mask[6:-6, 6:-6] = 1
    cut = Cut(tiny.texture(1, SIDE, SIDE), mask, mask[..., 0] > 0, np.eye(2, 3))
    target = (-np.eye(1, tiny.DIM, dtype=np.float32)[0],)
    changes = {}
    kinds: list[tuple[SolverName, Objective]] = [
        ("projected", "person"),
        ("projected", "target"),
        ("paper", "away"),
        ("fawkes1", "away"),
    ]
    for solver, objective, steps in [*((*kind, STEPS) for kind in kinds), (*kinds[0], LED)]:
        recipe = Recipe(extractors=("tiny",), steps=steps, solver=solver, objective=objective)
        batcher = Batcher(recipe, (tiny.extractor(1, window=(6.0, 42.0)),), size=1, mesh=sharding.faces_mesh(1))
        (cloak,) = batcher.solve([FaceJob(cut, False, "0123456789abcdef" * 4, 0, target)])
        grey = cloak.delta.mean(axis=-1) * 255
        pooled = grey.reshape(SIDE // POOL, POOL, SIDE // POOL, POOL).mean(axis=(1, 3))
        changes[f"{solver} {objective}, {steps} steps"] = np.round(pooled.astype(float), 2).tolist()
    return changes


def crops() -> dict[str, list[list[float]]]:
    """By size of the face: mean of each CROP x CROP pixels of its canvas, in grey levels, rounded to hundredths."""
    import tiny

    from engine.config import TEMPLATE
    from engine.faces import Face, cut

    photo = np.round(tiny.texture(2, 400, 500) * 255).astype(np.uint8)
    turn = np.array([[0.96, -0.28], [0.28, 0.96]])
    pooled_by_size = {}
    for scale in (0.5, 1.0, 2.5):  # photo pixels per canvas pixel: one enlarged, one as it is, one shrunk
        landmarks = (np.array(TEMPLATE) - 88) @ turn.T * scale + [240, 190]
        box = np.array([240 - 40 * scale, 190 - 45 * scale, 80 * scale, 90 * scale])
        canvas = cut(photo, Face(box.astype(np.float32), landmarks.astype(np.float32), 0.9)).canvas
        grey = canvas.mean(axis=-1) * 255
        count = len(grey) // CROP
        pooled = grey.reshape(count, CROP, count, CROP).mean(axis=(1, 3))
        pooled_by_size[f"{scale} pixels"] = np.round(pooled.astype(float), 2).tolist()
    return pooled_by_size


def main() -> None:
    """Write the file."""
    from engine.config import CLOAKS, CROPS

    golden = {"cloaks": CLOAKS, "changes": cloaks(), "crops": CROPS, "canvases": crops()}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{GOLDEN.relative_to(REPOSITORY)} of versions {CLOAKS} and {CROPS}")


if __name__ == "__main__":
    main()
