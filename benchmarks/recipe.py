"""What the default recipe's ingredients buy: embedding shift by steps, jitter and smoothing, at equal DSSIM.

The central face of the first photo of 8 people, cloaked on the canvas. `steps`: the default recipe at each mode's rho.
`ingredients`: at rho .007, made on one extractor and judged by it and by the other one, which took no part. Every row
has the DSSIM. No ceiling but the shift itself (2 is the largest there is). The last line is one JSON object.

    python benchmarks/recipe.py ../shared/faces/lfw          # writes benchmarks/results/recipe.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import checkpoint, sharding
from engine.bulk.batching import Batcher, FaceJob
from engine.bulk.prepare import prepare
from engine.config import RHO, Recipe
from engine.detect import YuNet
from engine.extractors import embed_batch, load

FACES = 8
HERE = Path(__file__).resolve().parent


def recipes() -> Iterator[tuple[str, Recipe]]:
    default = Recipe()
    for mode, rho in RHO.items():
        for steps in (20, default.steps, default.steps * 3 // 2):
            yield f"steps, {mode}", replace(default, rho=rho, steps=steps)
    for name in default.extractors:
        alone = replace(default, extractors=(name,))
        yield "ingredients", alone
        yield "ingredients", replace(alone, jitter=0.0)
        yield "ingredients", replace(alone, smoothing=0.0)
        yield "ingredients", replace(alone, smoothing=2.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    arguments = parser.parse_args()
    sharding.configure()
    detector = YuNet(checkpoint.root() / "yunet.onnx")
    users = (HERE / "users.txt").read_text().split()[:FACES]
    photos = [prepare(sorted((arguments.faces / user).iterdir())[0], detector) for user in users]
    canvases = np.stack([photo.cuts[0].canvas for photo in photos])
    extractors = {name: load(name) for name in Recipe().extractors}
    clean = {name: np.asarray(embed_batch(one, canvases)) for name, one in extractors.items()}
    rows = []
    for part, recipe in recipes():
        chosen = tuple(extractors[name] for name in recipe.extractors)
        batcher = Batcher(recipe, chosen, size=FACES, mesh=sharding.faces_mesh())
        jobs = [FaceJob(p.cuts[0], p.photo.grey, p.sha256, 0, batcher.no_target()) for p in photos]
        begun = time.perf_counter()
        cloaks = batcher.solve(jobs)
        seconds = time.perf_counter() - begun
        cloaked = canvases + np.stack([cloak.delta for cloak in cloaks])
        shift = {
            name: round(float(np.linalg.norm(np.asarray(embed_batch(one, cloaked)) - clean[name], axis=1).mean()), 3)
            for name, one in extractors.items()
        }
        row = {
            "part": part,
            "made_on": recipe.extractors,
            "rho": recipe.rho,
            "steps": recipe.steps,
            "jitter": recipe.jitter,
            "smoothing": recipe.smoothing,
            "shift": shift,
            "dssim_mean": round(float(np.mean([cloak.dssim for cloak in cloaks])), 5),
            "dssim_max": round(max(cloak.dssim for cloak in cloaks), 5),
            "largest_change": round(float(np.abs(cloaked - canvases).max() * 255), 1),
            "seconds_with_compile": round(seconds, 1),
        }
        rows.append(row)
        print(row, flush=True)
    (HERE / "results" / "recipe.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
