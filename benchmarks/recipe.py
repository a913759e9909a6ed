"""What the default recipe's ingredients buy: shift by steps, jitter, spectrum, smoothing, coarse, networks, precision.

The central face of the first photo of 8 people, at equal DSSIM: on the canvas, and in the files, written as PNG and as
the JPEG it came as (LFW's quality 75). `steps`: the default recipe at each mode's rho. `ingredients`: at rho .007,
made on one extractor and judged by it and by the others, which took no part. `ensemble`: the default, and without each
of its networks. `precision`: all in bfloat16; cosine is of the clean canvases' embeddings to those in float32.
Shifts are always measured in float32 and at most 2; a row's floor is 0. The last line is one JSON object.

    python benchmarks/recipe.py ../shared/faces/lfw [--only PART]      # writes benchmarks/results/recipe-PART.json
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
from engine.bulk.batching import Batcher, FaceJob, loaded
from engine.bulk.fit import fit
from engine.bulk.prepare import Prepared, prepare, subset
from engine.config import RHO, Recipe
from engine.detect import YuNet
from engine.evaluate.dataset import People
from engine.extractors import embed_batch, load
from engine.faces import cut
from engine.photo import decode_pixels, encode

FACES = 8
HERE = Path(__file__).resolve().parent
PARTS = ("steps", "ingredients", "ensemble", "precision")


def recipes() -> Iterator[tuple[str, Recipe]]:
    default = Recipe()
    for rho in RHO.values():
        for steps in (default.steps // 2, default.steps, default.steps * 3 // 2):
            yield "steps", replace(default, rho=rho, steps=steps)
    for name in default.extractors:
        alone = replace(default, extractors=(name,))
        yield "ingredients", alone
        yield "ingredients", replace(alone, jitter=0.0)
        yield "ingredients", replace(alone, spectrum=0.0)
        yield "ingredients", replace(alone, smoothing=0.0)
        yield "ingredients", replace(alone, smoothing=2.5)
        yield "ingredients", replace(alone, coarse=0.0)
    yield "ensemble", default
    for name in default.extractors:
        yield "ensemble", replace(default, extractors=tuple(member for member in default.extractors if member != name))
    yield "precision", default
    yield "precision", replace(default, extractors=tuple(f"{name}:bfloat16" for name in default.extractors))


def written(photo: Prepared, delta: np.ndarray, *, rho: float, format: str) -> tuple[np.ndarray, float]:
    """The canvas cut from the file that `cloak run` would write, and the face region's DSSIM in it."""
    fitted = fit(
        photo,
        [delta],
        rho=rho,
        encode=lambda pixels: encode(photo.photo, pixels, format=format, quality=None),
        decode=decode_pixels,
    )
    return cut(fitted.pixels, photo.faces[0]).canvas, fitted.dssim[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    sharding.configure()
    detector = YuNet(checkpoint.detector())
    users = People.load(HERE / "lfw-people.json", arguments.faces).users[:FACES]
    photos = [subset(prepare(user.scraped[0], detector), [0]) for user in users]
    canvases = np.stack([photo.cuts[0].canvas for photo in photos])
    judges = {name: load(name) for name in Recipe().names}
    clean = {name: np.asarray(embed_batch(judge, canvases)) for name, judge in judges.items()}

    def shift(changed: np.ndarray) -> dict[str, float]:
        embeddings = {name: np.asarray(embed_batch(judge, changed)) for name, judge in judges.items()}
        return {
            name: round(float(np.linalg.norm(rows - clean[name], axis=1).mean()), 3)
            for name, rows in embeddings.items()
        }

    rows = []
    for part, recipe in recipes():
        if arguments.only not in (None, part):
            continue
        extractors = loaded(recipe)
        batcher = Batcher(recipe, extractors, size=FACES, mesh=sharding.faces_mesh())
        jobs = [FaceJob(p.cuts[0], p.photo.grey, p.sha256, 0, batcher.no_target()) for p in photos]
        begun = time.perf_counter()
        cloaks = batcher.solve(jobs)
        seconds = time.perf_counter() - begun
        cloaked = canvases + np.stack([cloak.delta for cloak in cloaks])
        files = {
            kind: [written(p, c.delta, rho=recipe.rho, format=format) for p, c in zip(photos, cloaks, strict=True)]
            for kind, format in (("png", "png"), ("jpeg", "keep"))
        }
        rounded = {extractor.name: np.asarray(embed_batch(extractor, canvases)) for extractor in extractors}
        row = {
            "part": part,
            "made_on": recipe.extractors,
            "rho": recipe.rho,
            "steps": recipe.steps,
            "jitter": recipe.jitter,
            "spectrum": recipe.spectrum,
            "smoothing": recipe.smoothing,
            "coarse": recipe.coarse,
            "cosine": {name: round(float((e * clean[name]).sum(1).min()), 6) for name, e in rounded.items()},
            "shift": {
                "canvas": shift(cloaked),
                **{kind: shift(np.stack([canvas for canvas, _ in some])) for kind, some in files.items()},
            },
            "dssim": {
                "canvas": round(float(np.mean([cloak.dssim for cloak in cloaks])), 5),
                **{kind: round(float(np.mean([cost for _, cost in some])), 5) for kind, some in files.items()},
            },
            "largest_change": round(float(np.abs(cloaked - canvases).max() * 255), 1),
            "seconds_with_compile": round(seconds, 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        part_rows = [row for row in rows if row["part"] == part]
        (HERE / "results" / f"recipe-{part}.json").write_text(json.dumps(part_rows, indent=1) + "\n")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
