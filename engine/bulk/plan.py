"""What a run has to do: each photo with its settings' key, what is done already, and what cannot be done and why."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from engine import __version__, files
from engine import photo as photos
from engine.bulk import trouble
from engine.bulk.cloaker import Cloaker
from engine.bulk.inputs import Item
from engine.bulk.manifest import Manifest, Row, Status
from engine.bulk.prepare import digest, prepare
from engine.config import Detection, Output, Recipe
from engine.extractors import registry
from engine.types import PhotoError

INTERRUPTED = "Interrupted before it was done."


@dataclass(frozen=True)
class Options:
    """What a run does besides cloaking. shard: (i, n), only the photos whose content hash is i modulo n.

    album: write the personal report, `album.publish`; without, one of an earlier call is removed.
    """

    output: Output = field(default_factory=Output)
    restart: bool = False
    dry_run: bool = False
    shard: tuple[int, int] = (0, 1)
    album: bool = False

    def __post_init__(self) -> None:
        index, count = self.shard
        if not 0 <= index < count:
            raise ValueError(f"shard must be I/N with 0 <= I < N; got {index}/{count}")


@dataclass(frozen=True)
class Task:
    """A photo to be done. size, modified, sha256, key: as in `manifest.Row`."""

    item: Item
    size: int
    modified: int
    sha256: str
    key: str

    def row(self, status: Status, reason: str, **more: object) -> Row:
        """What became of it."""
        return Row(
            self.item.target,
            str(self.item.source),
            self.size,
            self.modified,
            self.sha256,
            self.key,
            status,
            reason,
            **more,  # type: ignore[arg-type]
        )


def fingerprint(recipe: Recipe, detection: Detection, output: Output, only: Path | None) -> str:
    """One line naming everything besides the photo on which a result depends, weights included.

    Raises ValueError for an unknown extractor or a reference photo that cannot be read.
    """
    try:
        reference = None if only is None else digest(only)
    except PhotoError as error:
        raise ValueError(f"the reference photo {only}: {error}") from None
    parts = {
        "version": __version__,
        "recipe": asdict(recipe),
        "weights": {name: registry.find(name).sha256 for name in recipe.names},
        "detection": asdict(detection),
        "output": asdict(output),
        "only": reference,
    }
    return json.dumps(parts, sort_keys=True)


def plan(
    items: Sequence[Item], manifest: Manifest, out: Path, settings: str, options: Options
) -> tuple[list[Task], list[Row], Counter[str]]:
    """What is to be done, the rows of what is not a photo or cannot be opened, and the counts of what is done."""
    tasks: list[Task] = []
    passed: list[Row] = []
    earlier: Counter[str] = Counter()
    index, count = options.shard
    for item in items:
        old = manifest.get(item.target)
        if item.skip or item.fault:
            row = Row(
                item.target,
                str(item.source),
                0,
                0,
                "",
                "",
                "skipped" if item.skip else "failed",
                item.skip or item.fault,
            )
            if old == row and not options.restart:
                earlier[row.status] += 1
            else:
                passed.append(row)
            continue
        try:
            status = item.source.stat()
            size, modified = status.st_size, files.modified(status)
            same = old is not None and (old.size, old.modified) == (size, modified) and old.sha256
            sha256 = old.sha256 if same and old is not None else digest(item.source)
        except (OSError, PhotoError):
            # Whatever it is, reading says it best, and says it in the row.
            size = modified = 0
            sha256 = hashlib.sha256(os.fsencode(item.target)).hexdigest()
        if int(sha256[:8], 16) % count != index:
            continue
        key = hashlib.sha256(f"{sha256} {settings}".encode()).hexdigest()
        task = Task(item, size, modified, sha256, key)
        if not options.restart and old is not None and old.key == key and old.intact(out):
            earlier[old.status] += 1
        elif (out / item.target).exists() and not (old and (old.status == "cloaked" or old.reason == INTERRUPTED)):
            reason = (
                "A file that is not this tool's lies where its cloaked version goes: move it or choose another --out."
            )
            passed.append(Row(item.target, str(item.source), size, modified, sha256, "", "failed", reason))
        else:
            tasks.append(task)
    return tasks, passed, earlier


def announce(manifest: Manifest, tasks: Sequence[Task]) -> None:
    """Note that files of these may be written from now on, so that one without a row is known for the tool's own."""
    earlier = ((task, manifest.get(task.item.target)) for task in tasks)
    fresh = [task for task, old in earlier if old is None or old.status != "cloaked"]
    manifest.put(*(replace(task.row("failed", INTERRUPTED), key="") for task in fresh))


def dry(cloaker: Cloaker, items: Sequence[Item], options: Options, report: Callable[[Row], None]) -> list[Row]:
    """What a run would find: which photos have faces, which would fail. Computes no cloak and writes nothing."""

    def found(item: Item) -> Row:
        task = Task(item, 0, 0, "", "")
        if item.skip or item.fault:
            return task.row("skipped" if item.skip else "failed", item.skip or item.fault)
        try:
            photo = prepare(item.source, cloaker.detector)
            photos.encode(photo.photo, photo.photo.pixels, format=options.output.format, quality=options.output.quality)
        except Exception as error:
            return trouble.row(task, error, out=None)
        photo = cloaker.selected(photo)
        if not photo.cuts:
            return task.row(*cloaker.nothing(photo))
        faces: list[dict[str, object]] = [{"box": [round(float(v), 1) for v in face.box]} for face in photo.faces]
        return task.row("cloaked", " ".join(photo.unusable), faces=faces)

    rows = []
    with ThreadPoolExecutor(cloaker.workers) as pool:
        for row in pool.map(found, items):
            report(row)
            rows.append(row)
    return rows
