"""Parquet to Parquet by Ray Data: every row of IN, cloaked, in OUT.

IN has a column `bytes` with the bytes of photos, and whatever else. OUT has the same rows, with the bytes of the
cloaked files (null if there is none) and with status, reason, notes and faces. IN and OUT may be folders or addresses
that Ray reads, such as s3://bucket/photos. RAY_ADDRESS names the cluster; without it Ray starts on this machine.

    python examples/ray_parquet.py photos.parquet cloaked
"""

import argparse

import ray
from ray.data import ActorPoolStrategy, SaveMode

from engine import Recipe
from engine.bulk.ray_data import Cloak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with networks of its own")
    parser.add_argument("--rows", type=int, default=64, help="that a worker gets at a time")
    parser.add_argument("--gpus", type=int, default=0, help="of each worker")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--extractors", default=",".join(Recipe.extractors))
    given = parser.parse_args()
    # Nobody says who is in these photos, so each face is moved away from its own embedding.
    recipe = Recipe(steps=given.steps, extractors=tuple(given.extractors.split(",")), objective="away")
    ray.init()
    rows = ray.data.read_parquet(given.source).map_batches(
        Cloak,
        fn_constructor_kwargs={"recipe": recipe},
        batch_format="pyarrow",
        batch_size=given.rows,
        # Two batches at once share the slots of a worker, so that these do not run empty at the end of each.
        compute=ActorPoolStrategy(
            size=given.workers, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
        ),
        num_cpus=1,
        num_gpus=given.gpus,
    )
    rows.write_parquet(given.out, mode=SaveMode.ERROR)
    for row in ray.data.read_parquet(given.out).groupby("status").count().take_all():
        print(row["status"], row["count()"])


if __name__ == "__main__":
    main()
