"""How many steps the default solver needs: embedding shift against steps, at each mode's budget.

The same faces (the central ones of the first photo of 8 people) at the modes' rho and at three numbers of steps. No
ceiling to compare with but the shift itself: what more steps would gain. The last line is one JSON object.

    python benchmarks/steps.py ../shared/faces/lfw
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import checkpoint, sharding
from engine.bulk.batching import Batcher, FaceJob
from engine.bulk.prepare import prepare
from engine.config import RHO, Recipe
from engine.detect import YuNet
from engine.extractors import load

FACES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 40, 60])
    arguments = parser.parse_args()
    sharding.configure()
    detector = YuNet(checkpoint.root() / "yunet.onnx")
    users = (Path(__file__).resolve().parent / "users.txt").read_text().split()[:FACES]
    photos = [prepare(sorted((arguments.faces / user).iterdir())[0], detector) for user in users]
    extractors = tuple(load(name) for name in Recipe().extractors)
    rows = []
    for mode, rho in RHO.items():
        for steps in arguments.steps:
            recipe = replace(Recipe(), rho=rho, steps=steps)
            batcher = Batcher(recipe, extractors, size=FACES, mesh=sharding.faces_mesh())
            jobs = [FaceJob(p.cuts[0], p.photo.grey, p.sha256, 0, batcher.no_target()) for p in photos]
            batcher.solve(jobs)  # compiles
            begun = time.perf_counter()
            cloaks = batcher.solve(jobs)
            seconds = time.perf_counter() - begun
            shift = np.mean([cloak.shift for cloak in cloaks], axis=0)
            row = {
                "mode": mode,
                "rho": rho,
                "steps": steps,
                "shift": dict(zip(recipe.extractors, np.round(shift, 4).tolist(), strict=True)),
                "dssim_max": max(cloak.dssim for cloak in cloaks),
                "seconds_per_face": round(seconds / FACES, 3),
            }
            rows.append(row)
            print(row, flush=True)
    target = Path(__file__).resolve().parent / "results" / "steps.json"
    target.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
