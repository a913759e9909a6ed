"""View of a run for a person: a progress bar if there is a terminal, what is not protected, and a summary."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from engine.bulk import claims, status
from engine.bulk.manifest import ASIDE, Row
from engine.bulk.people import UNLIKE
from engine.bulk.summary import Summary
from engine.bulk.watch import Watch
from engine.config import Recipe
from engine.terminal import readable

if TYPE_CHECKING:  # an evaluation brings matplotlib along
    from engine.evaluate.cost import Price
    from engine.evaluate.presets import Preset

EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""
LEAST = 1.0
"""Fewest seconds between two such lines."""
COMPILING = "compiling (kept for the next time) or cloaking"
"""The phase before the solver has first said how far it is."""
SHOWN = 20
"""Photos that are named one by one; `cloak status` names the rest."""


class View(Watch):
    """Progress and findings on stderr, the summary on stdout. A context manager.

    Progress is a bar on a terminal. Elsewhere it is a line now and then, so that a log shows that the work goes on.
    """

    def __init__(self, *, quiet: bool, dry: bool = False, verbose: bool = False, asked: Collection[Path] = ()) -> None:
        """quiet: no progress; what is not protected is named all the same. dry: name also what would be cloaked.

        verbose: name every photo, with what is to know of it. asked: paths of the call; a file that is one of them and
        is passed by is named, too.
        """
        self._verbose = verbose
        self._dry = dry and not quiet
        self._solveless = dry
        self._asked = frozenset(map(str, asked))
        self._console = Console(stderr=True, highlight=False)
        self._shown = 0
        self._faces = 0
        bar = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("photos"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not bar,
        )
        self._task = self._progress.add_task("preparing", total=None, rate="")
        self._lines = None if bar or quiet else _Lines(self._console)

    def __enter__(self) -> View:
        self._progress.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._lines is not None:
            self._lines.stop()

    def started(self, photos: int, *, again: int = 0) -> None:
        """How many photos there are to do. again: how many of them have cloaked files, made with other settings."""
        if again:
            which = "1 photo was" if again == 1 else f"{again} photos were"
            does = "a run would replace" if self._solveless else "this call replaces"
            why = "cloaked by an earlier call with other settings or weights"
            self._console.print(Text(f"{which} {why}: {does} the files of those it cloaks."), soft_wrap=True)
        work = "looking for faces" if self._solveless else COMPILING
        # Rows that came before are of what cannot be done: they are none of these.
        self._update(total=photos, completed=0, description=work if photos else "nothing to do")

    def grouping(self, done: int, photos: int) -> None:
        """People are known in `done` of all `photos`."""
        self._update(description=f"who is who: {done} of {photos}" if done < photos else COMPILING)

    def probing(self, done: int, faces: int) -> None:
        """So many are done of the `faces` that tell which way people's faces go."""
        self._update(description=f"which way faces go: {done} of {faces}")

    def solving(self, done: int, faces: int) -> None:
        """So many faces are done, and so many being cloaked."""
        cloaking = f"{done} face{'' if done == 1 else 's'} done, cloaking {faces}"
        self._update(description=cloaking if done or faces else COMPILING)

    def row(self, row: Row) -> None:
        """A photo is done."""
        self._faces += len(row.faces)
        task = self._progress.tasks[0]
        rate = f"{self._faces / task.elapsed:.2f} faces/s" if task.elapsed else ""
        self._update(advance=0 if row.status == "skipped" else 1, rate=rate)
        if self._dry and row.status == "cloaked":
            print(f"would be cloaked: {readable(status.named(row))}")
        if self._dry and row.status == "skipped" and row.reason.startswith(UNLIKE):
            print(f"would stay as it is: {readable(row.source)}: {UNLIKE}")
        asked = row.status == "skipped" and row.source in self._asked
        if self._verbose or status.of_note(row) or asked or ASIDE in row.reason:
            self._name(row)

    def left(self, row: Row) -> None:
        """A photo that an earlier call could not protect, and that is as it was then."""
        self._name(row)

    def publishing(self, done: int, photos: int) -> None:
        """`done` of all `photos` are in the report."""
        self._update(total=photos, completed=done, description="writing the report", rate="")

    def _update(self, **changes: Any) -> None:
        self._progress.update(self._task, **changes)
        if self._lines is not None:
            self._lines.update(self._progress.tasks[0])

    def _name(self, row: Row) -> None:
        self._shown += 1
        if self._verbose or self._shown <= SHOWN:
            # Not rich's print: a log's lines are not to be folded, nor names taken for its markup.
            self._console.print(Text(status.line(row)), soft_wrap=True)
        elif self._shown == SHOWN + 1:
            self._console.print("... and more: `cloak status` tells of every photo")

    def summary(self, summary: Summary, out: Path, recipe: Recipe) -> None:
        """The last lines, on stdout."""
        earlier, listing = summary.earlier, f"`cloak status {readable(str(out))}"
        names = "" if summary.dry_run else f"; {listing}` names them"
        done = status.tally(summary.counts, summary.faces)
        if not (summary.worked or earlier or summary.counts["skipped"]):
            print("Nothing to do: no photos were found.")
        elif summary.dry_run:
            print(f"Dry run, nothing was written. Would be: {done}.")
        if earlier:
            tally = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(earlier.items()))
            why = f"; {listing}` says why" if earlier.get("skipped") else ""
            print(f"As earlier calls left them, nothing to do: {tally}{why}.")
        if summary.others:
            print(f"Photos with faces of others, left as they are: {summary.others}{names}.")
        if summary.unlike:
            print(f"Left as they are, since nobody in them is like the reference photo: {summary.unlike}{names}.")
        if summary.dry_run:
            return
        if summary.worked:
            print(f"{done}, in {summary.seconds['total']:.1f} s.")
        elif passed := summary.counts["skipped"]:
            which = "1 file was" if passed == 1 else f"{passed} files were"
            print(f"Nothing was done: {which} passed by; {listing}` says why.")
        if summary.occupancy is not None:
            print(_pace(summary))
        if self._verbose and summary.compiles.get("programs"):
            print(_compiled(summary.compiles))
        if summary.dssim_max is not None:
            dssim = f"mean {summary.dssim_mean:.5f}, largest {summary.dssim_max:.5f}"
            print(f"DSSIM of the face regions in the files: {dssim}.")
            print(f"Cloaked photos and the manifest are in {readable(str(out))}.")
            print(*claims.protection(recipe), claims.PUBLISH, sep="\n")
        if summary.report:
            print(f"Original and cloaked side by side, for your eyes only: {readable(summary.report)}")
        elif summary.unreported and (summary.worked or earlier.keys() - {"skipped"}):
            print(f"No report: {readable(summary.unreported)}.")
        if of_note := status.of_note_by_kind(
            unprotected=summary.unprotected, faceless=summary.faceless, unread=summary.unread
        ):
            where = "named above" if self._verbose or self._shown <= SHOWN else f"{listing} --failed` names all"
            print(f"Not protected: {of_note}; {where}.")


def _pace(summary: Summary) -> str:
    """Waits of the solver, for photos and for files."""
    seconds, full = summary.seconds, summary.occupancy or 0.0
    return (
        f"The solver worked {seconds['solve']:.1f} s, its slots {full:.0%} full; it waited {seconds['wait']:.1f} s for "
        f"photos to be read and {seconds['blocked']:.1f} s for files to be written."
    )


def _compiled(compiles: dict[str, Any]) -> str:
    """Compiled programs, and which took longest."""
    dearest = ", ".join(f"{name} {program['seconds']:.1f} s" for name, program in [*compiles["by_program"].items()][:3])
    programs = f"{compiles['programs']} programs, {compiles['from_cache']} of them from the cache"
    return f"Compiling took {compiles['seconds']:.1f} s in all threads, for {programs}: {dearest}, ..."


class _Lines:
    """Progress without a terminal: a line at the start and end, every `EVERY` seconds and tenth of the photos.

    Between two lines there are at least `LEAST` seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended = Event()
        self._lock = Lock()
        self._begun = time.monotonic()
        self._stage, self._done, self._total = "preparing", 0, 0
        self._said, self._last, self._spoke = -1, "", -LEAST
        self._thread = Thread(target=self._beat, name="progress", daemon=True)

    def start(self) -> None:
        self._begun = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._say()

    def update(self, task: Task) -> None:
        first = not self._total
        self._stage, self._done, self._total = task.description, int(task.completed), int(task.total or 0)
        due = self._tenth > self._said or self._done < self._said * self._total / 10
        if self._total and (first or (due and time.monotonic() - self._begun - self._spoke >= LEAST)):
            self._say()

    @property
    def _tenth(self) -> int:
        return 10 * self._done // max(self._total, 1)

    def _beat(self) -> None:
        while not self._ended.wait(EVERY):
            self._say()

    def _say(self) -> None:
        with self._lock:
            seconds = time.monotonic() - self._begun
            self._said, self._spoke = self._tenth, seconds
            of = f"{self._done} of {self._total} photos, " if self._total else ""
            if self._ended.is_set() and (not of or f"{of}{self._stage}" == self._last):
                return
            self._last = f"{of}{self._stage}"
            self._console.print(Text(f"{self._last}, {seconds:.0f} s"), soft_wrap=True)


class Board:
    """Progress of an evaluation on stderr; its price and where it is to be found on stdout. A context manager."""

    def __init__(self, *, quiet: bool) -> None:
        """quiet: nothing but the progress bar, for `--json`."""
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage = ""

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def prices(self, prices: Sequence[Price]) -> None:
        """Work to be done, and about how long it takes."""
        for price in prices:
            print(
                f"{price.preset:<14}{price.cloaks:5} photos to cloak, {price.embeddings:5} to show to each recogniser, "
                f"about {price.seconds / 60:.0f} min"
            )
        print(
            f"about {sum(price.seconds for price in prices) / 60:.0f} min in all, "
            "less what is remembered of earlier calls"
        )

    def uploads(self, lines: Sequence[str]) -> None:
        """Uploads to cloud services."""
        print(*lines, sep="\n", end="\n" if lines else "")

    def preset(self, preset: Preset) -> None:
        """A preset begins."""
        self.say(f"{preset.name}: {preset.question}")

    def say(self, line: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._console.print(Text(readable(line)), soft_wrap=True)

    def progress(self, stage: str, done: int, all: int) -> None:
        """`done` of `all` of what is being done now."""
        if stage != self._stage:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._stage = self._progress.add_task(escape(readable(stage)), total=all), stage
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=all)
