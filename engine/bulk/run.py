"""`cloak run`: a collection of files, cloaked into an output folder, resumable at any point.

Order of events for a photo: its row says "interrupted", and a note has the row that it will get (`outputs`). Its file
is written beside and renamed into place. Then the row replaces the other. Whatever is killed before the file is in
place is done again. The cloak of a face depends on the photo, the settings and the weights, and under objective
"person" on who else is in the collection.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from engine import compiles, faults
from engine.bulk import budget, outputs, trouble
from engine.bulk.album import Album, publish, remove
from engine.bulk.cloaker import Cloaker
from engine.bulk.goals import Targets
from engine.bulk.inputs import OWN_FOLDER, collect
from engine.bulk.manifest import ASIDE, Manifest, Row, Status
from engine.bulk.pipeline import Clock, Stages, stream
from engine.bulk.plan import Options, Plan, Task, announce, dry, fingerprint, plan
from engine.bulk.prepare import Prepared, prepare
from engine.bulk.records import owns, present
from engine.bulk.results import Outcome
from engine.bulk.sightings import Sightings
from engine.bulk.stages import Stations, stages
from engine.bulk.summary import Summary, summarise
from engine.bulk.watch import Watch
from engine.types import PhotoError

log = logging.getLogger(__name__)
__all__ = ["Here", "Options", "Runner", "Task", "fingerprint", "run"]


class Runner(Protocol):
    """Runner of a run's photos: this process, or others for it (`ray_runner`)."""

    def targets(self, sources: Sequence[Path], *, wanted: Collection[str], watch: Watch) -> Targets:
        """See `Cloaker.targets`."""
        ...

    def cloak(
        self,
        tasks: Sequence[Task],
        targets: Targets,
        *,
        begin: Callable[[Sequence[Task]], None],
        album: Album | None,
        clock: Clock,
        watch: Watch,
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
        """Sightings of this call, earlier ones and other shards."""
        return Sightings(self.cloaker.detector, self.out / OWN_FOLDER)

    def targets(
        self, sources: Sequence[Path], *, wanted: Collection[str] | None = None, watch: Watch = Watch()
    ) -> Targets:
        """See `Cloaker.targets`."""
        grouping = partial(watch.grouping, photos=len(sources))
        return self.cloaker.targets(
            sources, wanted=wanted, progress=grouping, probing=watch.probing, sightings=self.sightings
        )

    def cloak(
        self,
        tasks: Sequence[Task],
        targets: Targets,
        *,
        begin: Callable[[Sequence[Task]], None] = lambda tasks: None,
        album: Album | None = None,
        clock: Clock | None = None,
        watch: Watch = Watch(),
    ) -> Iterator[tuple[Task, Row]]:
        """Every task with its row; the file is in place before its row comes."""
        steps = _stages(self.cloaker, targets, self.out, self.options, begin, album, self.sightings)
        return stream(tasks, steps, self.cloaker.desk, clock=clock, progress=watch.solving)


def run(
    cloaker: Callable[[int], Cloaker],
    paths: Sequence[Path],
    out: Path,
    *,
    settings: str,
    options: Options,
    runner: Callable[[int], AbstractContextManager[Runner]] | None = None,
    watch: Watch = Watch(),
) -> Summary:
    """Cloak all photos under `paths` into `out`.

    Raises InputError (of the paths, the folder, the devices) and BusyError before it begins, RunError for what ended it
    later. Whatever is wrong with one photo is its row.

    cloaker: makes the Cloaker for a collection of so many photos, called only when there is work. settings: text that
    names everything besides the photo on which a result depends (`fingerprint`). runner: makes who does the photos in
    place of a Cloaker here; a dry run has none. watch: is told what happens.
    """
    begun = time.perf_counter()
    items = collect(paths, out=out, format=options.output.format)
    # All of them, also those done and those of other shards: batch size and people must not depend on what is left.
    sources = [item.source for item in items if not (item.skip or item.fault)]
    if options.dry_run:
        with trouble.opening(out):
            todo = plan(items, out, settings, options)
        rows = _dry_run(partial(cloaker, len(sources)), todo, options, watch)
        seconds = time.perf_counter() - begun
        return summarise(rows, todo.earlier, Clock(), seconds, remaining=todo.left, again=len(todo.again), dry_run=True)
    if not (items or (out / OWN_FOLDER).exists()):  # else it may have rows of photos that are gone
        watch.started(0)
        return summarise([], Counter(), Clock(), time.perf_counter() - begun)
    index, count = options.shard
    with trouble.during(out), ExitStack() as stack:
        compiled = stack.enter_context(compiles.record())
        with trouble.opening(out):
            manifest = stack.enter_context(Manifest(out, shard="" if count == 1 else f"{index}-of-{count}"))
            album = stack.enter_context(Album(out, shard=options.shard)) if options.album else None
            outputs.recover(out, manifest, shard=options.shard)
            todo = plan(items, out, settings, options)
        tasks, passed = todo.tasks, len(todo.passed)
        log.info(
            "%d files: %d to do, %d done earlier, %d passed by",
            len(items),
            len(tasks),
            len(items) - len(tasks) - passed,
            passed,
        )
        manifest.put(*todo.renewed)
        for row in todo.left:
            watch.left(row)
        record = partial(_record, manifest, todo.holders, out, shard=options.shard)
        rows = [record(row) for row in todo.passed]
        for row in rows:
            watch.row(row)
        clock = Clock()
        watch.started(len(tasks), again=len(todo.again))
        if tasks:
            work: Runner
            with trouble.starting():
                if runner is None:
                    work = Here(cloaker(len(sources)), out, options)
                else:
                    work = stack.enter_context(runner(len(sources)))
            with clock.time("group"):
                targets = work.targets(sources, wanted={task.sha256 for task in tasks}, watch=watch)
            log.info("who is who is known after %.1f s: %d faces have a target", clock.group, len(targets))
            watch.solving(0, 0)
            begin = partial(announce, manifest)
            try:
                for task, row in work.cloak(tasks, targets, begin=begin, album=album, clock=clock, watch=watch):
                    rows.append(record(row, key=task.key))
                    watch.row(rows[-1])
                    if why := trouble.ends_run(rows[-1]):
                        raise trouble.RunError(f"{why}: make room. {trouble.RESUME.format(out=out)}")
            except BaseException:
                with suppress(Exception):  # else the next call does it
                    outputs.record(out, manifest)
                raise
        manifest.forget(_gone(todo.named, paths))
    seconds = time.perf_counter() - begun
    summary = summarise(rows, todo.earlier, clock, seconds, remaining=todo.left, again=len(todo.again))
    summary = replace(summary, compiles=compiled.as_dict())
    return _published(summary, out, options, watch)


def _dry_run(cloaker: Callable[[], Cloaker], todo: Plan, options: Options, watch: Watch) -> list[Row]:
    """The rows that a run would have."""
    for row in todo.left:
        watch.left(row)
    for row in todo.passed:
        watch.row(row)
    watch.started(len(todo.tasks), again=len(todo.again))
    if not todo.tasks:
        return todo.passed
    with trouble.starting():
        instance = cloaker()
    return [*todo.passed, *dry(instance, todo.tasks, options, watch)]


def _gone(named: Collection[str], paths: Sequence[Path]) -> Callable[[Row], bool]:
    """Says of rows whether this call looked where the photo of an earlier call was, and did not find it there.

    Such a photo is gone, or has another place now, or it was a folder that could not be read then. named: as in
    `plan.Plan`.
    """
    roots = {os.path.abspath(path) for path in paths}

    def is_gone(row: Row) -> bool:
        return row.target not in named and any(str(path) in roots for path in (row.at, *Path(row.at).parents))

    return is_gone


def _record(
    manifest: Manifest, holders: Mapping[str, Row], out: Path, row: Row, *, shard: tuple[int, int], key: str = ""
) -> Row:
    """Put a row in the manifest; a file of an earlier call stays, unless it shows another photo. Returns the row.

    holders: as in `plan.Plan`. key: what the row's would be if the photo had been cloaked. Raises sqlite3.Error if no
    row can be written. If this row alone cannot, its photo has failed.
    """
    try:
        row, earlier = _with_earlier(manifest, holders.get(row.target), out, row, key, shard=shard)
        manifest.put(row, kept=earlier)
        if row.status == "cloaked":
            outputs.recorded(out, row, shard=shard)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and not isinstance(error, UNFIT):
            raise
        row = trouble.row(_Again(row), error, out=out, writing=True)
        manifest.put(row)
    return row


UNFIT = (sqlite3.InterfaceError, sqlite3.DataError, sqlite3.ProgrammingError)
"""Errors of SQLite for the values of one row."""


@dataclass(frozen=True)
class _Again:
    """A photo whose row was no use."""

    old: Row

    def row(self, status: Status, reason: str, **more: object) -> Row:
        return replace(self.old, status=status, reason=reason, **{"faces": [], "written": 0, **more})  # type: ignore[arg-type]


def _with_earlier(
    manifest: Manifest, good: Row | None, out: Path, row: Row, key: str, *, shard: tuple[int, int]
) -> tuple[Row, Row | None]:
    """The row of a photo that is not cloaked now, and the row of its file of an earlier call. The first row also tells
    of that file.

    good: the row of a whole file of an earlier call, whichever manifest has it. Such a file is set aside if the photo
    was read, is another one than then, and has no face any more.
    """
    if row.status == "cloaked":
        return row, None
    old = manifest.get(row.target)
    known = old if old is not None and owns(old) else None
    if good is None or not good.intact(out):
        # Else a file that its owner changed would be nobody's from now on.
        return row, known if known is not None and present(out / row.target) else None
    if row.status == "no_face" and row.sha256 and row.sha256 != good.sha256:
        kept = outputs.retire(out, row.target, shard=shard)
        return replace(row, reason=f"{row.reason} The cloaked file of an earlier state of it is kept as {kept}."), None
    if row.sha256 != good.sha256:
        of = "it was made from an earlier state of this photo"
    else:
        of = "it was made with earlier settings" if key != good.key else "it is of this very photo"
    reason = f"{row.reason} The cloaked file of an earlier call is kept: {of}."
    return replace(row, reason=reason), known


def _published(summary: Summary, out: Path, options: Options, watch: Watch) -> Summary:
    """The summary with the report's path. A report that cannot be written is no fault of the photos."""
    begun = time.perf_counter()
    try:
        if not options.album:
            remove(out)
            return summary
        report, reason = publish(out, workers=budget.cores(), progress=watch.publishing)
    except Exception as error:
        verb = "written" if options.album else "removed"
        report, reason = None, f"it could not be {verb} ({error})"
        log.debug("no report", exc_info=error)
        if not isinstance(error, (OSError, sqlite3.Error)):
            faults.noted(error, out / OWN_FOLDER)
    seconds = {**summary.seconds, "report": round(time.perf_counter() - begun, 2)}
    return replace(summary, seconds=seconds, report=None if report is None else str(report), unreported=reason)


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

    def aim(task: Task, photo: Prepared) -> tuple[Prepared, Targets]:
        if why := task.bared(photo):
            raise PhotoError(why)
        return photo, targets

    def deliver(task: Task, outcome: Outcome) -> Row:
        reason = " ".join(filter(None, (outcome.reason, *outcome.notes)))
        row = task.row(outcome.status, reason, faces=[asdict(face) for face in outcome.faces])
        if outcome.data is not None:
            try:
                data, shard = outcome.data, options.shard
                if kept := outputs.set_aside(out, row.target, data, stamp=task.stamp, shard=shard):
                    row = replace(row, reason=" ".join(filter(None, (row.reason, f"{ASIDE} {kept}."))))
                row = outputs.write(out, row, data, task.item.source, shard=shard)
            except Exception as error:
                return failed(task, error, writing=True)
        if album is not None:
            album.add(row, outcome.photo, outcome.pixels)
        return row

    stations = Stations[Task, Row](
        prepare=lambda task: prepare(task.item.source, cloaker.detector, sha256=task.sha256, sightings=sightings),
        aim=aim,
        begin=lambda task: begin([task]),
        deliver=deliver,
        failed=failed,
        cost=lambda task: budget.footprint(task.item.source),
        output=options.output,
    )
    return stages(cloaker, stations, sightings)
