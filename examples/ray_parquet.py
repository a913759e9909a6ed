"""Parquet to Parquet by Ray Data: every row of IN, cloaked, in OUT.

IN has a column `bytes` with the bytes of photos, and whatever else. OUT has the same rows, with the bytes of the
cloaked files (null if there is none) and with status, reason, notes and faces. IN and OUT may be folders or addresses
that Ray reads, such as s3://bucket/photos. RAY_ADDRESS names the cluster; without it Ray starts on this machine.

    python examples/ray_parquet.py photos.parquet cloaked
"""

import ray
import shared
from ray.data import SaveMode

from engine.bulk.ray_data import Cloak


def main() -> None:
    options = shared.parser(__doc__).parse_args()
    # Nobody says who is in these photos, so each face is moved away from its own embedding.
    recipe = shared.recipe(options, objective="away")
    ray.init()
    rows = ray.data.read_parquet(options.source).map_batches(
        Cloak, fn_constructor_kwargs={"recipe": recipe}, **shared.each(options)
    )
    rows.write_parquet(options.out, mode=SaveMode.ERROR)
    for row in ray.data.read_parquet(options.out).groupby("status").count().take_all():
        print(row["status"], row["count()"])


if __name__ == "__main__":
    main()
