"""WebDataset to WebDataset by Ray Data: every sample of the tar files in IN, cloaked, in tar files in OUT.

A sample has a photo (`KEY.jpg`, or another suffix) and whatever else. In OUT its photo is the cloaked file, and
KEY.cloak.json says what became of it. **A sample without a cloaked file has no photo in OUT.**

    python examples/ray_webdataset.py shards cloaked --suffix jpg
"""

import json
from typing import Any

import ray
import shared
from ray.data import SaveMode

from engine.bulk.ray_data import Cloak

SAID = ("status", "reason", "notes", "faces")


def as_sample(row: dict[str, Any]) -> dict[str, Any]:
    """What is written of a row: the outcome as a file of its own."""
    said = {name: row.pop(name) for name in SAID}
    return {**row, "cloak.json": json.dumps(said).encode()}


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--suffix", default="jpg", help="of the photos in a sample")
    options = parser.parse_args()
    recipe = shared.recipe(options, objective="away")
    ray.init()
    rows = ray.data.read_webdataset(options.source, decoder=None).map_batches(
        Cloak, fn_constructor_kwargs={"recipe": recipe, "column": options.suffix}, **shared.each(options)
    )
    rows.map(as_sample).write_webdataset(options.out, encoder=None, mode=SaveMode.ERROR)


if __name__ == "__main__":
    main()
