"""A collection of 10^8 photos on paper: hours, bytes and grouping, from what was measured here. It cloaks nothing.

Taken from results/: seconds of each phase (run-40-photos.json), growth of JPEGs (jpeg.json). Measured now: the time of
`people.group` on made embeddings of three sizes, whose exponent is fitted and carried on to all faces. Counted: bytes
of a face's row. Everything about a GPU is a ceiling of roofline.py and was never measured: give its faces a second.

    python benchmarks/at_scale.py --photos 1e8 --save benchmarks/results/at-scale.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from engine.bulk import people
from engine.config import Recipe
from engine.extractors import card

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (2000, 4000, 8000)
DIM = 192
"""Of people.EXTRACTOR."""
FACES_OF_A_PERSON = 20


def made(count: int) -> np.ndarray:
    """Embeddings of people with 20 faces each, about as alike as LFW's: a mean cosine of .7 within a person."""
    random = np.random.default_rng(0)
    people_of = np.repeat(random.standard_normal((-(-count // FACES_OF_A_PERSON), DIM)), FACES_OF_A_PERSON, axis=0)
    rows = (people_of[:count] + (3 / 7) ** 0.5 * random.standard_normal((count, DIM))).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def grouping(faces: float) -> dict:
    """Seconds to group, measured, and carried on to so many faces by the exponent of the last two sizes."""
    seconds = []
    for size in SIZES:
        rows = made(size)
        begun = time.perf_counter()
        people.group(rows)
        seconds.append(time.perf_counter() - begun)
    exponent = float(np.log(seconds[-1] / seconds[-2]) / np.log(SIZES[-1] / SIZES[-2]))
    return {
        "measured_s": {size: round(taken, 2) for size, taken in zip(SIZES, seconds, strict=True)},
        "exponent": round(exponent, 2),
        "hours": round(seconds[-1] * (faces / SIZES[-1]) ** exponent / 3600, 1),
        "embeddings_gb": round(faces * DIM * 4 / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=float, default=1e8)
    parser.add_argument("--megabytes", type=float, default=3.0, help="of a photo")
    parser.add_argument("--faces-per-second", type=float, default=460.0, help="of a GPU: roofline.py, by bytes")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    run = json.loads((RESULTS / "run-40-photos.json").read_text())
    jpeg = json.loads((RESULTS / "jpeg.json").read_text())
    count, spent = sum(run["counts"].values()) - run["counts"]["skipped"], run["seconds"]
    solving = spent["solve"] - run["compiles"]["seconds"]
    faces = given.photos * run["faces"] / count
    host = (spent["prepare"] + spent["finish"]) / count
    row = 4 * (DIM + sum(card(name)["dim"] for name in Recipe().names))
    growth = {one["source"]: one["size"] for one in jpeg["rows"] if one["steps"] == "as written"}
    terabytes = given.photos * given.megabytes / 1e6
    found = {
        "photos": given.photos,
        "faces": faces,
        "measured here, 2 cores": {
            "solver_s_a_face": round(solving / run["faces"], 3),
            "host_core_s_a_photo": round(host, 3),
            "solver_machine_hours": round(faces * solving / run["faces"] / 3600),
            "host_core_hours": round(given.photos * host / 3600),
        },
        "a GPU, on paper": {
            "faces_per_second": given.faces_per_second,
            "gpu_hours": round(faces / given.faces_per_second / 3600),
            "cores_to_feed_it": round(given.faces_per_second * count / run["faces"] * host),
        },
        "terabytes": {
            "in": terabytes,
            "out": {f"quality {quality}": round(terabytes * size) for quality, size in growth.items()},
            "faces.parquet": round(faces * row / 1e12, 2),
        },
        "grouping in one process": grouping(faces),
    }
    text = json.dumps(found, indent=1)
    if given.save:
        given.save.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
