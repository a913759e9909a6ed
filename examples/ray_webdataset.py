"""WebDataset to WebDataset by Ray Data: every sample of the tar files in IN, cloaked, in tar files in OUT.

A sample has a photo (`KEY.jpg`, or another suffix) and whatever else. In OUT its photo is the cloaked file, and
KEY.cloak.json says what became of it. **A sample without a cloaked file has no photo in OUT.**

    python examples/ray_webdataset.py shards cloaked --suffix jpg
"""

import argparse
import json
from typing import Any

import ray
from ray.data import ActorPoolStrategy, SaveMode

from engine import Recipe
from engine.bulk.ray_data import Cloak

SAID = ("status", "reason", "notes", "faces")


def as_sample(row: dict[str, Any]) -> dict[str, Any]:
    """What is written of a row: the outcome as a file of its own."""
    said = {name: row.pop(name) for name in SAID}
    return {**row, "cloak.json": json.dumps(said).encode()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--suffix", default="jpg", help="of the photos in a sample")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with networks of its own")
    parser.add_argument("--rows", type=int, default=64, help="that a worker gets at a time")
    parser.add_argument("--gpus", type=int, default=0, help="of each worker")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--extractors", default=",".join(Recipe.extractors))
    given = parser.parse_args()
    recipe = Recipe(steps=given.steps, extractors=tuple(given.extractors.split(",")), objective="away")
    ray.init()
    rows = ray.data.read_webdataset(given.source, decoder=None).map_batches(
        Cloak,
        fn_constructor_kwargs={"recipe": recipe, "column": given.suffix},
        batch_format="pyarrow",
        batch_size=given.rows,
        compute=ActorPoolStrategy(
            size=given.workers, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
        ),
        num_cpus=1,
        num_gpus=given.gpus,
    )
    rows.map(as_sample).write_webdataset(given.out, encoder=None, mode=SaveMode.ERROR)


if __name__ == "__main__":
    main()
