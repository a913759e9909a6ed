"""`cloak run`: a collection of files, cloaked into an output folder, resumable at any point.

Order of events for a photo: its row says "interrupted", its file is written beside and renamed into place, its row
says what became of it. Whatever is killed in between is done again, and comes out the same: the cloak of a face
depends on the photo, the settings and the weights alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from engine import compiles
from engine import photo as photos
from engine.bulk.album import Album, publish, remove
from engine.bulk.batching import FaceCloak, FaceJob
from engine.bulk.cloaker import Cloaker, Targets
from engine.bulk.inputs import OWN_FOLDER, collect
from engine.bulk.manifest import Manifest, Row, finished
from engine.bulk.pipeline import Clock, Stages, stream
from engine.bulk.plan import Options, Task, announce, dry, fault, fingerprint, plan
from engine.bulk.prepare import Prepared, prepare
from engine.bulk.summary import Summary, summarise

__all__ = ["Here", "Options", "Runner", "Task", "clean", "fingerprint", "run"]


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
        todo = plan(items, out, settings, options)
        for row in (*todo.left, *todo.passed):
            report(row)
        started(len(todo.tasks))
        found = dry(cloaker(len(sources)), todo.tasks, options, report) if todo.tasks else []
        seconds = time.perf_counter() - begun
        return summarise([*todo.passed, *found], todo.earlier, Clock(), seconds, dry_run=True)
    index, count = options.shard
    with ExitStack() as stack:
        compiled = stack.enter_context(compiles.record())
        manifest = stack.enter_context(Manifest(out, shard="" if count == 1 else f"{index}-of-{count}"))
        album = stack.enter_context(Album(out, shard=options.shard)) if options.album else None
        clean(out, shard=options.shard)
        todo = plan(items, out, settings, options)
        tasks = todo.tasks
        manifest.put(*todo.renewed)
        for row in todo.left:
            report(row)
        for row in todo.passed:
            manifest.put(row)
            report(row)
        rows = [*todo.passed]
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
            begin = partial(announce, manifest)
            done = work.cloak(tasks, targets, begin=begin, album=album, clock=clock, progress=progress)
            for task, row in done:
                if row.status != "cloaked" and manifest.get(task.item.target) is not None:
                    # An earlier version, of other settings or another photo by this name, must not pass for this one's.
                    (out / task.item.target).unlink(missing_ok=True)
                manifest.put(row)
                report(row)
                rows.append(row)
    summary = summarise(rows, todo.earlier, clock, time.perf_counter() - begun)
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
            return fault(task, error)
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
                encode=lambda pixels: photos.encode(photo.photo, pixels, format=output.format, quality=output.quality),
                decode=photos.decode_pixels,
            )
            _write(out, task.item.target, fitted.data, shard=options.shard)
        except Exception as error:
            return fault(task, error)
        faces = [asdict(face) for face in cloaker.describe(photo, cloaks, fitted)]
        row = finished(task.row("cloaked", " ".join(photo.unusable), faces=faces), out, fitted.data)
        if album is not None:
            album.add(row, photo.photo, fitted.pixels)
        return row

    return Stages[Task, Row](prepare=prepared, admit=admit, finish=finish)
