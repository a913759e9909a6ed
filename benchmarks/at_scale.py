"""A collection of 10^8 photos on paper: hours, bytes and grouping, from what was measured here. It cloaks nothing.

Taken from results/: the solver's seconds (run-40-photos.json), the host's for photos of 12 megapixels (pipeline.json),
growth of JPEGs (jpeg.json), the most faces that were grouped (scale.json), which is not carried on to more, and what a
call costs that has nothing to do (there, too), which is carried on as it is linear. Counted: bytes of a face's
embeddings. All about a GPU is a ceiling of roofline.py and was never measured: give its faces a second.

    python benchmarks/at_scale.py --photos 1e8 --save benchmarks/results/at-scale.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from engine.config import Recipe
from engine.extractors import card

RESULTS = Path(__file__).resolve().parent / "results"
DIM = 192
"""Of people.EXTRACTOR."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=float, default=1e8)
    parser.add_argument("--megabytes", type=float, default=3.0, help="of a photo of 12 megapixels")
    parser.add_argument("--faces-per-second", type=float, default=362.0, help="of a GPU: roofline.py, by bytes")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    run = json.loads((RESULTS / "run-40-photos.json").read_text())
    jpeg = json.loads((RESULTS / "jpeg.json").read_text())
    count, spent = sum(run["counts"].values()) - run["counts"]["skipped"], run["seconds"]
    scale = json.loads((RESULTS / "scale.json").read_text())
    grouped = max(scale["group"], key=lambda row: row["faces"])
    fewer, planned = sorted(scale["plan"], key=lambda row: row["photos"])[-2:]
    again = planned["second"]
    more = planned["photos"] - fewer["photos"]
    solving = spent["solve"] - run["compiles"]["seconds"]
    faces = options.photos * run["faces"] / count
    pipeline = json.loads((RESULTS / "pipeline.json").read_text())["rows"]
    large = [measured["cpu"] for measured in pipeline if measured["megapixels"] == 12]
    host = sum(large) / len(large)
    row = 4 * (DIM + sum(card(name)["dim"] for name in Recipe().names))
    growth = {entry["source"]: entry["size"] for entry in jpeg["rows"] if entry["steps"] == "as written"}
    terabytes = options.photos * options.megabytes / 1e6
    result = {
        "photos": options.photos,
        "faces": faces,
        "measured here, 2 cores": {
            "solver_s_a_face": round(solving / run["faces"], 3),
            "host_core_s_a_photo": round(host, 3),
            "solver_machine_hours": round(faces * solving / run["faces"] / 3600),
            "host_core_hours": round(options.photos * host / 3600),
        },
        "a GPU, on paper": {
            "faces_per_second": options.faces_per_second,
            "gpu_hours": round(faces / options.faces_per_second / 3600),
            "cores_to_feed_it": round(options.faces_per_second * count / run["faces"] * host),
        },
        "terabytes": {
            "in": terabytes,
            "out": {f"quality {quality}": round(terabytes * size) for quality, size in growth.items()},
            "faces.parquet": round(faces * row / 1e12, 2),
        },
        "a call that has nothing to do, one folder": {
            "photos_measured": planned["photos"],
            "core_hours": round(
                options.photos * (again["cpu_seconds"] + again["collect"]["cpu_seconds"]) / planned["photos"] / 3600, 1
            ),
            "gigabytes_in_memory": round(options.photos * (again["peak_mb"] - fewer["second"]["peak_mb"]) / more / 1e3),
            "gigabytes_of_manifest": round(options.photos * planned["first"]["manifest_mb"] / planned["photos"] / 1e3),
        },
        "grouping in one process": {
            "faces_measured": grouped["faces"],
            "cpu_seconds_measured": grouped["cpu_seconds"],
            "peak_mb_measured": grouped["peak_mb"],
            "gigabytes_of_embeddings_for_all": round(faces * DIM * 4 / 1e9, 1),
        },
    }
    text = json.dumps(result, indent=1)
    if options.save:
        options.save.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
