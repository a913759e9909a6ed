"""Folder to folder by Ray Data, with who is who as a stage of its own: detect and embed, group, cloak.

OUT/faces.parquet has a row for every face: its photo, its embeddings, and the number of its person. Keep it, look at
it, correct the column `person`, and use it again with --faces. **It describes faces, so it is as private as photos.**
OUT/photos has the cloaked files under the names of the originals, OUT/results what became of every file.

    python examples/ray_folder.py photos out
    python examples/ray_folder.py photos again --faces out/faces.parquet
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
import shared
from ray.data import SaveMode

from engine.bulk.ray_data import Cloak, Look, group


class Write:
    """Puts the cloaked files of rows into a folder that all workers see."""

    def __init__(self, source: str, out: str) -> None:
        self.source, self.out = Path(source), Path(out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        data = row.pop("bytes")
        if data is not None:
            path = self.out / Path(row["path"]).relative_to(self.source)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_bytes(data)
            part.rename(path)
        return row


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--faces", type=Path, help="of an earlier call, instead of finding out who is who")
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    recipe, each = shared.recipe(options), shared.each(options)
    ray.init()
    photos = ray.data.read_binary_files(options.source, include_paths=True)
    if options.faces is None:
        photos.map_batches(Look, fn_constructor_kwargs={"recipe": recipe}, **each).write_parquet(
            str(out / "seen"), mode=SaveMode.OVERWRITE
        )
        pq.write_table(group(pq.read_table(out / "seen")), out / "faces.parquet")
    faces = pq.read_table(
        options.faces or out / "faces.parquet", columns=["sha256", "face", "own", "identity", "networks", "person"]
    )
    cloaked = photos.map_batches(Cloak, fn_constructor_kwargs={"recipe": recipe, "faces": faces}, **each)
    places = options.source, str(out / "photos")
    # What Ray says of `fn` leaves out classes, which it takes.
    written = cloaked.map(Write, fn_constructor_args=places, concurrency=1)  # type: ignore[bad-argument-type]
    written.write_parquet(str(out / "results"), mode=SaveMode.OVERWRITE)


if __name__ == "__main__":
    main()
