"""`cloak run`: a collection of files, cloaked into an output folder, resumable at any point.

Order of events for a photo: its row says "interrupted", its file is written beside and renamed into place, its row
says what became of it. Whatever is killed in between is done again, and comes out the same: the cloak of a face
depends on the photo, the settings and the weights alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from engine import __version__, compiles
from engine import photo as photos
from engine.bulk.album import Album, publish, remove
from engine.bulk.batching import FaceCloak, FaceJob
from engine.bulk.cloaker import Cloaker, Targets
from engine.bulk.inputs import OWN_FOLDER, Item, collect
from engine.bulk.manifest import Manifest, Row, Status
from engine.bulk.pipeline import Clock, Stages, stream
from engine.bulk.prepare import Prepared, digest, prepare
from engine.bulk.summary import Summary, summarise
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


class Runner(Protocol):
    """Who does the photos of a run: this process, or others for it (`ray_runner`)."""

    def targets(self, sources: Sequence[Path], *, progress: Callable[[int], None]) -> Targets:
        """As `Cloaker.targets`."""
        ...

    def cloak(
        self,
        tasks: Sequence[Task],
        targets: Targets,
        *,
        begin: Callable[[Sequence[Task]], None],
        album: Album | None,
        clock: Clock,
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[Task, Row]]:
        """Every task with its row, in any order. begin: has to be told of a task before its file is written."""
        ...


@dataclass(frozen=True)
class Here:
    """Does them in this process."""

    cloaker: Cloaker
    out: Path
    options: Options

    def targets(self, sources: Sequence[Path], *, progress: Callable[[int], None]) -> Targets:
        """As `Cloaker.targets`."""
        return self.cloaker.targets(sources, progress=progress)

    def cloak(
        self,
        tasks: Sequence[Task],
        targets: Targets,
        *,
        begin: Callable[[Sequence[Task]], None] = lambda tasks: None,
        album: Album | None = None,
        clock: Clock | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Task, Row]]:
        """Every task with its row; the file is in place before its row comes."""
        stages = _stages(self.cloaker, targets, self.out, self.options, begin, album)
        return stream(tasks, stages, self.cloaker.batcher, workers=self.cloaker.workers, clock=clock, progress=progress)


def run(
    cloaker: Callable[[int], Cloaker],
    paths: Sequence[Path],
    out: Path,
    *,
    settings: str,
    options: Options,
    runner: Callable[[int], AbstractContextManager[Runner]] | None = None,
    report: Callable[[Row], None] = lambda row: None,
    started: Callable[[int], None] = lambda photos: None,
    progress: Callable[[int, int], None] | None = None,
    grouping: Callable[[int, int], None] = lambda done, all: None,
    publishing: Callable[[int, int], None] = lambda done, all: None,
) -> Summary:
    """Cloak all photos under `paths` into `out`. Raises inputs.InputError and manifest.BusyError before it begins.

    cloaker: makes the Cloaker for a collection of so many photos, called only when there is work. settings: text that
    names everything besides the photo on which a result depends (`fingerprint`). runner: makes who does the photos in
    place of a Cloaker here; a dry run has none. report: gets each photo's row; started: how many photos there are to
    do; progress: as in `pipeline.stream`; grouping: in how many of all photos it is known who is who; publishing: as in
    `album.publish`.
    """
    begun = time.perf_counter()
    items = collect(paths, out=out, format=options.output.format)
    # All of them, also those done and those of other shards: batch size and people must not depend on what is left.
    sources = [item.source for item in items if not (item.skip or item.fault)]
    if options.dry_run:
        started(len(items))
        rows = _dry(cloaker(len(sources)), items, options, report)
        return summarise(rows, Counter(), Clock(), time.perf_counter() - begun, dry_run=True)
    index, count = options.shard
    with ExitStack() as stack:
        compiled = stack.enter_context(compiles.record())
        manifest = stack.enter_context(Manifest(out, shard="" if count == 1 else f"{index}-of-{count}"))
        album = stack.enter_context(Album(out, shard=options.shard)) if options.album else None
        clean(out, shard=options.shard)
        tasks, passed, earlier = _plan(items, manifest, out, settings, options)
        for row in passed:
            manifest.put(row)
            report(row)
        rows = [*passed]
        clock = Clock()
        started(len(tasks))
        if tasks:
            work: Runner
            if runner is None:
                work = Here(cloaker(len(sources)), out, options)
            else:
                work = stack.enter_context(runner(len(sources)))
            with clock.time("group"):
                targets = work.targets(sources, progress=lambda done: grouping(done, len(sources)))
            begin = partial(_begin, manifest)
            done = work.cloak(tasks, targets, begin=begin, album=album, clock=clock, progress=progress)
            for task, row in done:
                if row.status != "cloaked" and manifest.get(task.item.target) is not None:
                    # An earlier version, of other settings or another photo by this name, must not pass for this one's.
                    (out / task.item.target).unlink(missing_ok=True)
                manifest.put(row)
                report(row)
                rows.append(row)
    summary = summarise(rows, earlier, clock, time.perf_counter() - begun)
    summary = replace(summary, compiles=compiled.as_dict())
    return _published(summary, out, options, publishing)


def _published(summary: Summary, out: Path, options: Options, progress: Callable[[int, int], None]) -> Summary:
    """The summary with where the report is. A report that cannot be written is no fault of the photos."""
    if not options.album:
        remove(out)
        return summary
    begun = time.perf_counter()
    try:
        report, reason = publish(out, workers=min(os.cpu_count() or 1, 8), progress=progress)
    except (OSError, sqlite3.Error) as error:
        report, reason = None, f"it could not be written ({error})"
    seconds = {**summary.seconds, "report": round(time.perf_counter() - begun, 2)}
    return replace(summary, seconds=seconds, report=None if report is None else str(report), unreported=reason)


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


def _plan(
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
            size, modified = status.st_size, status.st_mtime_ns
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


def _begin(manifest: Manifest, tasks: Sequence[Task]) -> None:
    """Note that files of these may be written from now on, so that one without a row is known for the tool's own."""
    earlier = ((task, manifest.get(task.item.target)) for task in tasks)
    fresh = [task for task, old in earlier if old is None or old.status != "cloaked"]
    manifest.put(*(replace(task.row("failed", INTERRUPTED), key="") for task in fresh))


def clean(out: Path, *, shard: tuple[int, int]) -> None:
    """Remove what a killed run left half-written."""
    for left in (out / OWN_FOLDER).glob(f"{shard[0]}-of-{shard[1]}-*.part"):
        left.unlink()


def _write(out: Path, target: str, data: bytes, *, shard: tuple[int, int]) -> None:
    """Put a file in place whole or not at all."""
    # A name of its own: of two processes one may be taken for dead and still be writing the same photo.
    part = out / OWN_FOLDER / f"{shard[0]}-of-{shard[1]}-{uuid4().hex}.part"
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    (out / target).parent.mkdir(parents=True, exist_ok=True)
    part.replace(out / target)


def _stages(
    cloaker: Cloaker,
    targets: Targets,
    out: Path,
    options: Options,
    begin: Callable[[Sequence[Task]], None],
    album: Album | None,
) -> Stages[Task, Row]:
    def prepared(task: Task) -> Prepared | Row:
        try:
            photo = prepare(task.item.source, cloaker.detector, sha256=task.sha256)
        except Exception as error:
            return _fault(task, error)
        if photo.cuts:
            return photo
        row = task.row(*cloaker.nothing(photo))
        if album is not None:
            album.add(row, photo.photo)
        return row

    def admit(task: Task, photo: Prepared) -> tuple[Prepared, list[FaceJob]] | Row:
        photo = cloaker.selected(photo)
        if not photo.cuts:
            return task.row(*cloaker.nothing(photo))
        begin([task])
        return photo, cloaker.jobs(photo, targets)

    def finish(task: Task, photo: Prepared, cloaks: list[FaceCloak]) -> Row:
        output = options.output
        try:
            fitted = cloaker.fit(
                photo,
                cloaks,
                encode=photos.Encoder(photo.photo, output.format, output.quality),
                decode=photos.decode_pixels,
            )
            _write(out, task.item.target, fitted.data, shard=options.shard)
        except Exception as error:
            return _fault(task, error)
        faces = [asdict(face) for face in cloaker.describe(photo, cloaks, fitted)]
        row = task.row("cloaked", " ".join((*photo.unusable, *fitted.notes)), written=len(fitted.data), faces=faces)
        if album is not None:
            album.add(row, photo.photo, fitted.pixels)
        return row

    return Stages[Task, Row](prepare=prepared, admit=admit, finish=finish)


def _fault(task: Task, error: Exception) -> Row:
    """The row of a photo that raised: the run goes on. What is not the photo's own fault is tried again next time."""
    if isinstance(error, PhotoError):
        return task.row("failed", str(error))
    if isinstance(error, OSError):
        reason = f"It could not be written ({error.strerror}): make room or check the output folder's permissions."
    else:
        reason = f"Unexpected {type(error).__name__}: {error}. This is a mistake in the program: please report it."
    return replace(task.row("failed", reason), key="")


def _dry(cloaker: Cloaker, items: Sequence[Item], options: Options, report: Callable[[Row], None]) -> list[Row]:
    """What a run would find: which photos have faces, which would fail. Computes no cloak and writes nothing."""

    def found(item: Item) -> Row:
        task = Task(item, 0, 0, "", "")
        if item.skip or item.fault:
            return task.row("skipped" if item.skip else "failed", item.skip or item.fault)
        try:
            photo = prepare(item.source, cloaker.detector)
            photos.encode(photo.photo, photo.photo.pixels, format=options.output.format, quality=options.output.quality)
        except Exception as error:
            return _fault(task, error)
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
