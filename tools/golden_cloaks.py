"""Writes tests/goldens/cloaks.json: a coarse picture of tiny cloaks, and the version of the engine that made them.

Run it after a change of what the engine computes that was meant, when `engine.config.CLOAKS` has been raised:

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
LED = 24
"""Steps of the cloak that shows what a lead does."""


def cloaks() -> dict[str, list[list[float]]]:
    """By solver, objective and steps: mean change of each POOL x POOL pixels, in grey levels, rounded to hundredths."""
    import tiny

    from engine import sharding
    from engine.bulk.batching import Batcher, FaceJob
    from engine.config import Recipe
    from engine.faces import Cut

    mask = np.zeros((SIDE, SIDE, 1), np.float32)
    mask[6:-6, 6:-6] = 1
    cut = Cut(tiny.texture(1, SIDE, SIDE), mask, mask[..., 0] > 0, np.eye(2, 3))
    target = (-np.eye(1, tiny.DIM, dtype=np.float32)[0],)
    found = {}
    kinds = [("projected", "person"), ("projected", "target"), ("paper", "away"), ("fawkes1", "away")]
    for solver, objective, steps in [*((*kind, STEPS) for kind in kinds), (*kinds[0], LED)]:
        recipe = Recipe(extractors=("tiny",), steps=steps, solver=solver, objective=objective)
        batcher = Batcher(recipe, (tiny.extractor(1, window=(6.0, 42.0)),), size=1, mesh=sharding.faces_mesh(1))
        (cloak,) = batcher.solve([FaceJob(cut, False, "0123456789abcdef" * 4, 0, target)])
        grey = cloak.delta.mean(axis=-1) * 255
        pooled = grey.reshape(SIDE // POOL, POOL, SIDE // POOL, POOL).mean(axis=(1, 3))
        found[f"{solver} {objective}, {steps} steps"] = np.round(pooled.astype(float), 2).tolist()
    return found


def main() -> None:
    """Write the file."""
    from engine.config import CLOAKS

    GOLDEN.write_text(json.dumps({"cloaks": CLOAKS, "changes": cloaks()}, indent=1) + "\n")
    print(f"{GOLDEN.relative_to(REPOSITORY)} of version {CLOAKS}")


if __name__ == "__main__":
    main()
