"""What a person sees of a run: a progress bar where there is a terminal, what is not protected, and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from engine.bulk import claims
from engine.bulk.manifest import Row
from engine.bulk.summary import Summary
from engine.config import Recipe

if TYPE_CHECKING:  # an evaluation brings matplotlib along
    from engine.evaluate.cost import Price
    from engine.evaluate.presets import Preset

SHOWN = 20
"""Photos that are named one by one; the rest is in the manifest."""


class View:
    """Progress and findings on stderr, the summary on stdout. A context manager."""

    def __init__(self, *, quiet: bool) -> None:
        """quiet: nothing but the progress bar, for `--json`."""
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._unprotected = 0
        self._faces = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("photos"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("preparing", total=None, rate="")

    def __enter__(self) -> View:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, photos: int) -> None:
        """How many photos there are to do."""
        self._progress.update(self._task, total=photos, description="compiling (kept for the next time)")

    def grouping(self, done: int, photos: int) -> None:
        """In `done` of all `photos` it is known who is who."""
        self._progress.update(self._task, description=f"who is who: {done} of {photos}")

    def solving(self, done: int, faces: int) -> None:
        """So many faces are done, and so many being cloaked."""
        self._progress.update(self._task, description=f"{done} faces done, cloaking {faces}")

    def row(self, row: Row) -> None:
        """A photo is done."""
        self._faces += len(row.faces)
        task = self._progress.tasks[0]
        rate = f"{self._faces / task.elapsed:.2f} faces/s" if task.elapsed else ""
        self._progress.update(self._task, advance=0 if row.status == "skipped" else 1, rate=rate)
        if row.status in ("no_face", "failed") and not self._quiet:
            self._unprotected += 1
            if self._unprotected <= SHOWN:
                word = "NOT PROTECTED" if row.status == "no_face" else "FAILED"
                self._console.print(f"{word} {escape(row.source)}: {escape(row.reason)}", soft_wrap=True)
            elif self._unprotected == SHOWN + 1:
                self._console.print("... and more: the manifest has a row for every photo")

    def publishing(self, done: int, photos: int) -> None:
        """`done` of all `photos` are in the report."""
        self._progress.update(self._task, total=photos, completed=done, description="writing the report", rate="")

    def summary(self, summary: Summary, out: Path, recipe: Recipe) -> None:
        """The last lines, on stdout."""
        counts, earlier = summary.counts, summary.earlier
        done = f"{counts['cloaked']} cloaked ({summary.faces} faces), {counts['no_face']} without a face, "
        done += f"{counts['failed']} failed, {counts['skipped']} skipped"
        if summary.dry_run:
            print(f"Dry run, nothing was written. Would be: {done}.")
            return
        if earlier:
            what = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(earlier.items()))
            print(f"Done by earlier calls, nothing to do: {what}.")
        if summary.worked:
            print(f"{done}, in {summary.seconds['total']:.1f} s.")
        elif not earlier:
            print("Nothing to do: no photos were found.")
        if summary.occupancy is not None:
            print(_pace(summary))
        if summary.compiles.get("programs"):
            print(_compiled(summary.compiles))
        if summary.dssim_max is not None:
            dssim = f"mean {summary.dssim_mean:.5f}, largest {summary.dssim_max:.5f}"
            print(f"DSSIM of the face regions in the files: {dssim}.")
            print(f"Cloaked photos and the manifest are in {out}.")
            print(*claims.protection(recipe.names), claims.PUBLISH, sep="\n")
        if summary.report:
            print(f"Original and cloaked side by side, for your eyes only: {summary.report}")
        elif summary.unreported:
            print(f"No report: {summary.unreported}.")


def _pace(summary: Summary) -> str:
    """Who waited for whom."""
    seconds, full = summary.seconds, summary.occupancy or 0.0
    return (
        f"The solver worked {seconds['solve']:.1f} s, its slots {full:.0%} full; it waited {seconds['wait']:.1f} s for "
        f"photos to be read and {seconds['blocked']:.1f} s for files to be written."
    )


def _compiled(compiles: dict[str, Any]) -> str:
    """What was compiled, and for which of the programs that took longest."""
    dearest = ", ".join(f"{name} {one['seconds']:.1f} s" for name, one in [*compiles["by_program"].items()][:3])
    programs = f"{compiles['programs']} programs, {compiles['from_cache']} of them from the cache"
    return f"Of that {compiles['seconds']:.1f} s to compile {programs}: {dearest}, ..."


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
        self._what = ""

    def __enter__(self) -> Board:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def prices(self, prices: Sequence[Price]) -> None:
        """What is going to be done, and about how long it takes."""
        for one in prices:
            print(
                f"{one.preset:<14}{one.cloaks:5} photos to cloak, {one.embeddings:5} to show to each recogniser, "
                f"about {one.seconds / 60:.0f} min"
            )
        print(
            f"about {sum(one.seconds for one in prices) / 60:.0f} min in all, less what is remembered of earlier calls"
        )

    def uploads(self, lines: Sequence[str]) -> None:
        """What cloud services would be sent."""
        print(*lines, sep="\n", end="\n" if lines else "")

    def preset(self, preset: Preset) -> None:
        """A preset begins."""
        self.say(f"{preset.name}: {preset.question}")

    def say(self, line: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._console.print(escape(line))

    def progress(self, what: str, done: int, all: int) -> None:
        """`done` of `all` of what is being done now."""
        if what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._what = self._progress.add_task(escape(what), total=all), what
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=all)
