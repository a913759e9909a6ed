"""`cloak run`: a collection of files, cloaked into an output folder, resumable at any point.

Order of events for a photo: its row says "interrupted", its file is written beside and renamed into place, its row
says what became of it. Whatever is killed in between is done again, and comes out the same: the cloak of a face
depends on the photo, the settings and the weights alone.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from engine import compiles, faults, files
from engine import photo as photos
from engine.bulk import budget, trouble
from engine.bulk.album import Album, publish, remove
from engine.bulk.batching import FaceCloak, FaceJob
from engine.bulk.cloaker import Cloaker, Targets
from engine.bulk.inputs import OWN_FOLDER, collect
from engine.bulk.manifest import Manifest, Row, Status, finished
from engine.bulk.pipeline import Clock, Stages, stream
from engine.bulk.plan import Options, Task, announce, dry, fingerprint, plan
from engine.bulk.prepare import Prepared, prepare
from engine.bulk.sightings import Sightings, tidy
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

    @cached_property
    def sightings(self) -> Sightings:
        """What this call, earlier ones and other shards saw in photos."""
        return Sightings(self.cloaker.detector, self.out / OWN_FOLDER)

    def targets(self, sources: Sequence[Path], *, progress: Callable[[int], None]) -> Targets:
        """As `Cloaker.targets`."""
        return self.cloaker.targets(sources, progress=progress, sightings=self.sightings)

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
        stages = _stages(self.cloaker, targets, self.out, self.options, begin, album, self.sightings)
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
    left: Callable[[Row], None] = lambda row: None,
    started: Callable[[int], None] = lambda photos: None,
    progress: Callable[[int, int], None] | None = None,
    grouping: Callable[[int, int], None] = lambda done, all: None,
    publishing: Callable[[int, int], None] = lambda done, all: None,
) -> Summary:
    """Cloak all photos under `paths` into `out`.

    Raises InputError (of the paths, the folder, the devices) and BusyError before it begins, RunError for what ended it
    later. Whatever is wrong with one photo is its row.

    cloaker: makes the Cloaker for a collection of so many photos, called only when there is work. settings: text that
    names everything besides the photo on which a result depends (`fingerprint`). runner: makes who does the photos in
    place of a Cloaker here; a dry run has none. report: gets each photo's row; left: the rows of photos that earlier
    calls could not protect, and that this one need not try again; started: how many photos there are to do; progress:
    as in `pipeline.stream`; grouping: in how many of all photos it is known who is who; publishing: as in
    `album.publish`.
    """
    begun = time.perf_counter()
    items = collect(paths, out=out, format=options.output.format)
    # All of them, also those done and those of other shards: batch size and people must not depend on what is left.
    sources = [item.source for item in items if not (item.skip or item.fault)]
    if options.dry_run:
        with trouble.opening(out):
            todo = plan(items, out, settings, options)
        for row in todo.left:
            left(row)
        for row in todo.passed:
            report(row)
        started(len(todo.tasks))
        found: list[Row] = []
        if todo.tasks:
            with trouble.starting():
                one = cloaker(len(sources))
            found = dry(one, todo.tasks, options, report)
        seconds = time.perf_counter() - begun
        rows = [*todo.passed, *found]
        return summarise(rows, todo.earlier, Clock(), seconds, remaining=todo.left, dry_run=True)
    index, count = options.shard
    with trouble.during(out), ExitStack() as stack:
        compiled = stack.enter_context(compiles.record())
        with trouble.opening(out):
            manifest = stack.enter_context(Manifest(out, shard="" if count == 1 else f"{index}-of-{count}"))
            album = stack.enter_context(Album(out, shard=options.shard)) if options.album else None
            clean(out, shard=options.shard)
            todo = plan(items, out, settings, options)
        tasks = todo.tasks
        manifest.put(*todo.renewed)
        for row in todo.left:
            left(row)
        record = partial(_record, manifest, todo.holders, out)
        rows = [record(row) for row in todo.passed]
        for row in rows:
            report(row)
        clock = Clock()
        started(len(tasks))
        if tasks:
            work: Runner
            with trouble.starting():
                if runner is None:
                    work = Here(cloaker(len(sources)), out, options)
                else:
                    work = stack.enter_context(runner(len(sources)))
            with clock.time("group"):
                targets = work.targets(sources, progress=lambda done: grouping(done, len(sources)))
            begin = partial(announce, manifest)
            for task, row in work.cloak(tasks, targets, begin=begin, album=album, clock=clock, progress=progress):
                rows.append(record(row, key=task.key))
                report(rows[-1])
                if why := trouble.ends_run(rows[-1]):
                    raise trouble.RunError(f"{why}: make room. {trouble.RESUME.format(out=out)}")
    summary = summarise(rows, todo.earlier, clock, time.perf_counter() - begun, remaining=todo.left)
    summary = replace(summary, compiles=compiled.as_dict())
    return _published(summary, out, options, publishing)


def _record(manifest: Manifest, holders: Mapping[str, Row], out: Path, row: Row, *, key: str = "") -> Row:
    """Put a row in the manifest; a file of an earlier call stays, unless it shows another photo. Returns the row.

    holders: as in `plan.Plan`. key: what the row's would be if the photo had been cloaked. Raises sqlite3.Error if no
    row can be written; one that alone cannot is of a photo that failed.
    """
    try:
        row, kept = _kept(manifest, holders.get(row.target), out, row, key)
        manifest.put(row, kept=kept)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, UNFIT):
            raise
        row = trouble.row(_Again(row), error, out=out, writing=True)
        manifest.put(row)
    return row


UNFIT = (sqlite3.InterfaceError, sqlite3.DataError, sqlite3.ProgrammingError)
"""What SQLite raises for the values of one row."""


@dataclass(frozen=True)
class _Again:
    """A photo whose row was no use."""

    old: Row

    def row(self, status: Status, reason: str, **more: object) -> Row:
        return replace(self.old, status=status, reason=reason, **{"faces": [], "written": 0, **more})  # type: ignore[arg-type]


def _kept(manifest: Manifest, good: Row | None, out: Path, row: Row, key: str) -> tuple[Row, Row | None]:
    """The row of a photo that is not cloaked now, with what it says of a file of an earlier call; and that file's row.

    good: the row of a whole file of an earlier call, whichever manifest has it. Such a file is removed if the photo was
    read, is another one than then, and there is nothing to cloak in it.
    """
    if row.status == "cloaked" or good is None or not good.intact(out):
        return row, None
    if row.status != "failed" and row.sha256 and row.sha256 != good.sha256:
        files.remove(out / row.target, root=out)
        return row, None
    if row.sha256 != good.sha256:
        of = "it was made from an earlier state of this photo"
    else:
        of = "it was made with earlier settings" if key != good.key else "it is of this very photo"
    reason = f"{row.reason} The cloaked file of an earlier call is kept: {of}."
    old = manifest.get(row.target)
    return replace(row, reason=reason), old if old is not None and old.status == "cloaked" else None


def _published(summary: Summary, out: Path, options: Options, progress: Callable[[int, int], None]) -> Summary:
    """The summary with where the report is. A report that cannot be written is no fault of the photos."""
    begun = time.perf_counter()
    try:
        if not options.album:
            remove(out)
            return summary
        report, reason = publish(out, workers=budget.cores(), progress=progress)
    except Exception as error:
        what = "written" if options.album else "removed"
        report, reason = None, f"it could not be {what} ({error})"
        if not isinstance(error, (OSError, sqlite3.Error)):
            faults.noted(error, out / OWN_FOLDER)
    seconds = {**summary.seconds, "report": round(time.perf_counter() - begun, 2)}
    return replace(summary, seconds=seconds, report=None if report is None else str(report), unreported=reason)


def clean(out: Path, *, shard: tuple[int, int]) -> None:
    """Remove what a killed run left half-written."""
    for left in (out / OWN_FOLDER).glob(f"{shard[0]}-of-{shard[1]}-*{files.PART}"):
        left.unlink(missing_ok=True)
    tidy(out / OWN_FOLDER)


def _write(out: Path, target: str, data: bytes, source: Path, *, shard: tuple[int, int]) -> None:
    """Put a file in place whole or not at all, with the permissions and the modification time of its source.

    Others may not read the copy of a photo that they may not read, and libraries sort photos by that time.
    """
    mode, modified = files.PRIVATE, None
    with suppress(OSError):  # away since it was read
        status = source.stat()
        mode, modified = status.st_mode & 0o777, status.st_mtime_ns
    files.write(
        out / target,
        data,
        root=out,
        parts=out / OWN_FOLDER,
        name=f"{shard[0]}-of-{shard[1]}",
        mode=mode,
        modified=modified,
    )


def _stages(
    cloaker: Cloaker,
    targets: Targets,
    out: Path,
    options: Options,
    begin: Callable[[Sequence[Task]], None],
    album: Album | None,
    sightings: Sightings,
) -> Stages[Task, Row]:
    def failed(task: Task, error: Exception, *, writing: bool = False) -> Row:
        if isinstance(error, trouble.OF_RUN) or faults.of_device(error):
            raise error
        return trouble.row(task, error, out=out, writing=writing)

    def nothing(task: Task, photo: Prepared) -> Row:
        row = task.row(*cloaker.nothing(photo))
        if album is not None:
            album.add(row, photo.photo)
        return row

    def prepared(task: Task) -> Prepared | Row:
        try:
            photo = prepare(task.item.source, cloaker.detector, sha256=task.sha256, sightings=sightings)
            return photo if photo.cuts else nothing(task, photo)
        except Exception as error:
            return failed(task, error)

    def admit(task: Task, photo: Prepared) -> tuple[Prepared, list[FaceJob]] | Row:
        try:
            photo = cloaker.selected(photo, sightings)
            if not photo.cuts:
                return nothing(task, photo)
            begin([task])
            return photo, cloaker.jobs(photo, targets)
        except Exception as error:
            return failed(task, error)

    def finish(task: Task, photo: Prepared, cloaks: list[FaceCloak]) -> Row:
        output = options.output
        try:
            fitted = cloaker.fit(
                photo,
                cloaks,
                encode=photos.Encoder(photo.photo, output.format, output.quality),
                decode=photos.decode_pixels,
            )
            faces = [asdict(face) for face in cloaker.describe(photo, cloaks, fitted)]
            row = task.row("cloaked", " ".join((*photo.unusable, *fitted.notes)), faces=faces)
        except Exception as error:
            return failed(task, error)
        try:
            _write(out, task.item.target, fitted.data, task.item.source, shard=options.shard)
            row = finished(row, out, fitted.data)
        except Exception as error:
            return failed(task, error, writing=True)
        if album is not None:
            album.add(row, photo.photo, fitted.pixels)
        return row

    return Stages[Task, Row](
        prepare=prepared, admit=admit, finish=finish, cost=lambda task: budget.footprint(task.item.source)
    )
