"""`cloak run`: photos into an output folder."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from engine.commands.options import DEVICES, CloakOptions, MaybeWhole, OutputOptions, Telling, Whole
from engine.commands.outcome import FAILED, NOTHING, OK, failed, interrupted, usage
from engine.config import Detection, Recipe

if TYPE_CHECKING:
    from engine.bulk.cloaker import Cloaker
    from engine.bulk.run import Options, Runner
    from engine.bulk.summary import Summary

FEW = 8
"""Photos for which a run takes no more slots than it needs."""


@Parameter(name="*")
@dataclass(frozen=True)
class Selection:
    """Choice of the faces to cloak, and when a face is done."""

    only: Annotated[
        tuple[Path, ...],
        Parameter(
            show_default=False,
            help="A photo of one person: cloak that person's faces only. Give three, each with --only, to miss fewer.",
        ),
    ] = ()
    min_score: Annotated[float, Parameter(help="Least confidence of the face detector, 0-1.")] = Detection.min_score
    min_size: Annotated[Whole, Parameter(help="Smallest face that counts, in pixels.")] = Detection.min_size
    enough: Annotated[
        float | None,
        Parameter(help="Leave a face as soon as its embeddings have moved this far, 0-2; default: do all steps."),
    ] = None

    def detection(self) -> Detection:
        """The detection as the engine takes it. Raises ValueError for what cannot be."""
        return Detection(self.min_score, self.min_size)


@Parameter(name="*")
@dataclass(frozen=True)
class Machine:
    """Processes, threads and devices of a run."""

    batch: Annotated[
        MaybeWhole, Parameter(help="Faces solved at once; default: 8, 64 for each accelerator, fewer for fewer photos.")
    ] = None
    devices: Annotated[MaybeWhole, DEVICES] = None
    workers: Annotated[
        MaybeWhole, Parameter(help="Threads that read and write; default: one a core that it may use.")
    ] = None
    shard: Annotated[str, Parameter(help="I/N: this process does the I-th of N shares (from 0).")] = "0/1"
    runner: Annotated[
        Literal["local", "ray"],
        Parameter(
            help="Place of the work. local: this process. ray: workers of the cluster at RAY_ADDRESS, or on this "
            "machine if that is unset. They all see PATHS and --out; --devices and --workers are then each worker's. "
            "Needs the extra `ray`."
        ),
    ] = "local"
    ray_workers: Annotated[
        MaybeWhole, Parameter(help="How many workers of Ray; default: one for each GPU, without any for each machine.")
    ] = None

    def share(self) -> tuple[int, int]:
        """The shard as (I, N). Raises ValueError for what is no shard, and for a runner that is not available."""
        if self.runner == "ray":
            from engine.bulk import ray_runner

            ray_runner.check(self.ray_workers)
        elif self.ray_workers is not None:
            raise ValueError("--ray-workers is for --runner ray")
        index, slash, count = self.shard.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ValueError(f"--shard must be I/N, e.g. 0/4; got {self.shard!r}")
        return int(index), int(count)

    def slots(self, photos: int) -> int | None:
        """The faces to solve at once in a collection of so many photos; None as many as the device likes."""
        # By all photos of the collection, not by those still to do: resuming must compute what one call would have.
        return 1 << max(photos - 1, 0).bit_length() if self.batch is None and photos <= FEW else self.batch


@Parameter(name="*")
@dataclass(frozen=True)
class Conduct:
    """Choices of a run besides cloaking."""

    dry_run: Annotated[bool, Parameter(negative="", help="Show what would be done; write nothing.")] = False
    restart: Annotated[bool, Parameter(negative="", help="Do everything again, also what is done.")] = False
    report: Annotated[
        bool,
        Parameter(
            help="Write OUT/.cloak/report.html, which shows your originals beside the cloaked photos, or remove it."
        ),
    ] = True
    quiet: Annotated[
        bool, Parameter(negative="", help="Show no progress; what is not protected is named all the same.")
    ] = False


@dataclass(frozen=True)
class Work:
    """Everything that a run was asked for, checked."""

    recipe: Recipe
    detection: Detection
    only: tuple[Path, ...]
    machine: Machine
    out: Path
    options: Options
    settings: str

    def cloaker(self, photos: int, *, during: ExitStack) -> Cloaker:
        """Cloaker of a collection of so many photos, in this process. during: the run, in which programs are kept."""
        from engine import programs, sharding
        from engine.bulk.cloaker import Cloaker
        from engine.extractors import registry

        folder = sharding.configure()
        if set(self.recipe.names) <= set(registry.tables()):  # no code of other packages, which no key sees
            during.enter_context(programs.kept_in(folder))
        return Cloaker(
            recipe=self.recipe,
            detection=self.detection,
            only=self.only or None,
            batch=self.machine.slots(photos),
            devices=self.machine.devices,
            workers=self.machine.workers,
        )

    def crew(self, photos: int) -> AbstractContextManager[Runner]:
        """Crew that does the same by Ray."""
        from engine.bulk import ray_runner

        orders = ray_runner.Orders(
            self.recipe,
            self.detection,
            self.only,
            self.machine.slots(photos),
            self.machine.devices,
            self.machine.workers,
            self.out,
            self.options,
            self.settings,
            Path.cwd(),
        )
        return ray_runner.crew(orders, count=self.machine.ray_workers)


def run(
    paths: Annotated[list[Path], Parameter(help="Photos, or folders that are walked and mirrored under --out.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the cloaked photos; the originals are never touched.")],
    cloak: CloakOptions = CloakOptions(),
    selection: Selection = Selection(),
    written: OutputOptions = OutputOptions(),
    conduct: Conduct = Conduct(),
    machine: Machine = Machine(),
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    from engine.bulk.inputs import InputError
    from engine.bulk.manifest import BusyError
    from engine.bulk.run import Options, fingerprint
    from engine.bulk.run import run as run_collection
    from engine.bulk.trouble import RESUME, RunError
    from engine.checkpoint import CheckpointError
    from engine.view import View

    try:
        recipe, detection, output = cloak.recipe(enough=selection.enough), selection.detection(), written.output()
        options = Options(output, conduct.restart, conduct.dry_run, machine.share(), album=conduct.report)
        settings = fingerprint(recipe, detection, output, selection.only)
    except (ValueError, CheckpointError) as error:
        return usage(str(error), as_json=telling.json)
    work = Work(recipe, detection, selection.only, machine, out, options, settings)
    view = View(quiet=conduct.quiet, dry=conduct.dry_run, verbose=telling.verbose, asked=paths)
    try:
        with view, ExitStack() as during:
            runner = work.crew if machine.runner == "ray" else None
            summary = run_collection(
                partial(work.cloaker, during=during),
                paths,
                out,
                settings=settings,
                options=options,
                runner=runner,
                watch=view,
            )
    except (InputError, BusyError, CheckpointError) as error:
        return usage(str(error), as_json=telling.json)
    except RunError as error:
        return failed(str(error), as_json=telling.json)
    except KeyboardInterrupt:
        return interrupted(RESUME.format(out=out), as_json=telling.json)
    if telling.json:
        print(summary.as_json())
    else:
        view.summary(summary, out, recipe)
    return exit_code(summary)


def exit_code(summary: Summary) -> int:
    """0 all done, 1 some failed or have faces that are not protected, now or since an earlier call, 3 nothing to do."""
    if summary.unprotected:
        return FAILED
    return OK if summary.worked else NOTHING
