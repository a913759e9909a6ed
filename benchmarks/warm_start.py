"""Do a person's earlier cloaks save steps? Cloaks begun from their mean, against those begun from noise, as always.

    python benchmarks/warm_start.py FACES [--people N] [--photos N] [--extractor NAME]

FACES has a folder for each person; the first face of each photo counts. Each photo begins from the mean of the cloaks
of the person's other photos, made in 40 steps, at SHARES of the budget. The default recipe on one extractor, at equal
DSSIM: every iterate is within it. Shift is the mean over all photos of the distance from the person's mean, which is
what the solver maximises, on the canvas; seconds are those of as many steps. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "rivals"))

import problem

from engine import sharding
from engine.bulk import people
from engine.cloak import projection, solver
from engine.cloak.objective import distances
from engine.config import Recipe
from engine.extractors import load, tuned

STEPS = (10, 20)
SHARES = (0.1, 1.0)


def batch_of(folder: Path, photos: int, extractors: tuple) -> solver.Batch:
    """The faces of one person, each to be moved from their mean."""
    cut = problem.cuts(sorted(path for path in folder.iterdir() if path.is_file())[:photos])
    canvases = jnp.asarray(np.stack([face.canvas for face, _ in cut]))
    embeddings = solver.embed(extractors, canvases)
    rows = [tuple(np.asarray(column[i]) for column in embeddings) for i in range(len(cut))]
    mean = people.mean_embedding(rows)
    return solver.Batch(
        canvas=canvases,
        mask=jnp.asarray(np.stack([face.mask for face, _ in cut])),
        region=jnp.asarray(np.stack([face.region for face, _ in cut])),
        target=tuple(jnp.tile(row, (len(cut), 1)) for row in mean),
        grey=jnp.asarray([grey for _, grey in cut]),
        identity=jnp.asarray([(0, 0, 0, i) for i in range(len(cut))], jnp.uint32),
    )


def cloaks(
    recipe: Recipe, extractors: tuple, batch: solver.Batch, warm: jax.Array | None, share: float
) -> dict[str, Any]:
    """delta, shift (mean distance from the target) and seconds. warm: cloaks to begin from, None for noise."""
    slots = solver.begin(recipe, batch, solver.embed(extractors, batch.canvas), jnp.ones(len(batch.grey), bool))
    if warm is not None:
        fitted = jax.vmap(partial(projection.budget, rho=share * recipe.rho))
        begun = fitted(slots.problems, jax.vmap(projection.shape)(slots.problems, warm))
        slots = slots._replace(state=slots.state._replace(variable=begun))
    start = time.perf_counter()
    for done in range(0, recipe.steps, solver.CHUNK):
        slots = solver.advance(recipe, extractors, slots, min(solver.CHUNK, recipe.steps - done))
    results = jax.block_until_ready(solver.result(recipe, slots))
    seconds = time.perf_counter() - start
    moved = jax.vmap(distances)(solver.embed(extractors, batch.canvas + results.delta), batch.target)
    return {"delta": results.delta, "shift": np.asarray(moved.mean(axis=1)), "dssim": results.dssim, "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--extractor", default="mobilefacenet-192-robust")
    options = parser.parse_args()
    sharding.configure()
    default = Recipe(extractors=(options.extractor,))
    extractors = (tuned(load(options.extractor)),)
    folders = sorted(path for path in options.faces.iterdir() if path.is_dir())[: options.people]
    batches = [batch_of(folder, options.photos, extractors) for folder in folders]
    earlier = [cloaks(default, extractors, batch, None, 0)["delta"] for batch in batches]
    # Of the others': a photo's own cloak would be an answer, not a start.
    means = [(delta.sum(axis=0) - delta) / (len(delta) - 1) for delta in earlier]
    rows = []
    for steps in STEPS:
        recipe = replace(default, steps=steps)
        for label, share in (("noise", 0.0), *(("the person's mean cloak", share) for share in SHARES)):
            cloaked = [
                cloaks(recipe, extractors, batch, mean if share else None, share)
                for batch, mean in zip(batches, means, strict=True)
            ]
            rows.append(
                {
                    "begun_from": label,
                    "share_of_budget": share,
                    "steps": steps,
                    "shift": round(float(np.concatenate([row["shift"] for row in cloaked]).mean()), 4),
                    "dssim_max": round(float(max(row["dssim"].max() for row in cloaked)), 5),
                    "seconds_a_face": round(cloaked[-1]["seconds"] / len(batches[-1].grey), 3),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    print(
        json.dumps({"extractor": options.extractor, "photos": sum(len(batch.grey) for batch in batches), "rows": rows})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
