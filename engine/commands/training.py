"""Training that `cloak train-robust` asks for: options to a preset, its people, its cost, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from engine import checkpoint
from engine.commands.options import names
from engine.commands.train_robust import Processes, TrainOptions
from engine.dataset import photos_of
from engine.extractors import registry
from engine.robust import data, distributed, export, job, log, run
from engine.robust.job import Options
from engine.robust.presets import PRESETS, Preset, find, strengthened
from engine.robust.run import Report, Summary
from engine.robust.store import Store
from engine.robust.train import Losses
from engine.sharding import configure


@dataclass(frozen=True)
class Plan:
    """A training that was asked for. people: the photos of everybody who may be trained on or held out. command: the
    call that makes it, without the paths of this machine.
    """

    extractor: str
    name: str
    out: Path
    cache: Path
    people: Mapping[str, list[Path]]
    preset: Preset
    options: Options
    command: str

    @property
    def photos(self) -> int:
        """All of them."""
        return sum(len(photos) for photos in self.people.values())


@dataclass(frozen=True)
class Announcement:
    """Cost of a training, in numbers (`as_json`) and in words (`str`)."""

    photos: int
    people: int
    cost: job.Cost

    def as_json(self) -> str:
        """One JSON object."""
        return json.dumps({"photos": self.photos, "people": self.people, **self.cost._asdict()})

    def __str__(self) -> str:
        cost = self.cost
        each = cost.seconds / cost.faces
        return (
            f"{self.photos} photos of {self.people} people; {cost.steps} steps of {cost.faces} faces, "
            f"{cost.steps * cost.faces / self.photos:.1f} epochs\n"
            f"{cost.passes} passes forward and backward for each face: {each:.3f} s measured, {cost.seconds:.2f} s a "
            f"step; {cost.validation:.0f} s a validation\n"
            f"{log.duration(cost.total)} in all, after the photos are aligned. Nothing was written."
        )


def plan(
    extractor: str,
    folder: Path,
    out: Path,
    *,
    name: str | None,
    without: Sequence[Path],
    cache: Path | None,
    options: TrainOptions,
    together: Processes,
) -> Plan:
    """Check what was asked for, before anything is computed. Processes of one training are joined here.

    without: lists of people who are not to be used. cache: folder of aligned faces. Raises ValueError for what cannot
    be used, and CheckpointError for an extractor whose weights are not installed.
    """
    if together.coordinator is None and (together.processes, together.process) != (1, 0):
        raise ValueError("--processes and --process need the --coordinator, HOST:PORT of process 0")
    chosen = changed(find(options.preset), options)
    settings = Options(
        steps=options.steps,
        every=options.every,
        held_out=options.validation,
        freeze=options.freeze,
        frozen=names(options.frozen) or (),
        precision=options.precision,
        devices=together.devices,
        seed=options.seed,
    )
    excluded = frozenset[str]().union(*(data.names_in(path) for path in without))
    people = photos_of(folder, without=excluded)
    named_as = name or default_name(extractor)
    configure()
    if together.coordinator is not None:
        distributed.join(together.coordinator, processes=together.processes, process=together.process)
    export.check(extractor, named_as, folder=out)
    registry.loadable(extractor)
    data.check_people({person: len(photos) for person, photos in people.items()}, held_out=settings.held_out)
    command = call(extractor, options, without)
    return Plan(extractor, named_as, out, cache or out / "faces", people, chosen, settings, command)


def call(extractor: str, options: TrainOptions, without: Sequence[Path]) -> str:
    """The command that trains so, without the paths of this machine.

    Example:
        >>> call("sface", TrainOptions(steps=9), [Path("lists/people.json")])
        'cloak train-robust sface --data DIR --out DIR --preset fast --steps 9 --without people.json'
    """
    flags = [
        f"--{item.name.replace('_', '-')} {getattr(options, item.name)}"
        for item in fields(options)
        if item.name == "preset" or getattr(options, item.name) != item.default
    ]
    flags += [f"--without {path.name}" for path in without]
    return " ".join([f"cloak train-robust {extractor} --data DIR --out DIR", *flags])


def default_name(extractor: str) -> str:
    """EXTRACTOR-robust, or EXTRACTOR-robust-2 if the engine ships one of that name."""
    name = f"{extractor}-robust"
    return f"{name}-2" if name in checkpoint.manifest()["extractors"] else name


def changed(preset: Preset, options: TrainOptions) -> Preset:
    """The preset with the adversary, batch, accumulation, learning rate and losses that the options have."""
    preset = strengthened(
        preset,
        epsilon=options.epsilon,
        attack_steps=options.attack_steps,
        step_size=options.step_size,
        norm=options.norm,
        aim=options.aim,
    )
    wanted = {"accumulate": options.accumulate, "learning_rate": options.learning_rate}
    optimiser = replace(preset.optimiser, **{key: value for key, value in wanted.items() if value is not None})  # type: ignore[arg-type]
    if options.batch is not None:
        if options.batch < 1:
            raise ValueError(f"batch must be at least 1; got {options.batch}")
        preset = replace(preset, batch=options.batch)
    if options.losses is not None:
        preset = replace(preset, losses=parsed(options.losses))
    return replace(preset, optimiser=optimiser)


def parsed(text: str) -> Losses:
    """NAME=WEIGHT,... as losses; those not named have no weight. Raises ValueError for anything else.

    Example:
        >>> parsed("distillation=1,clean=.5")
        Losses(classification=0.0, consistency=0.0, distillation=1.0, clean=0.5)
    """
    known = tuple(item.name for item in fields(Losses))
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            weights[name] = float(weight)
        except ValueError:
            name = ""
        if name not in known:
            raise ValueError(f"losses are NAME=WEIGHT,... with the names {', '.join(known)}; got {text!r}")
    return Losses(**weights)


def cost(plan: Plan) -> Announcement:
    """Cost of the plan, by a step measured here; nothing is written."""
    measured = job.estimate(plan.extractor, plan.photos, len(plan.people), preset=plan.preset, options=plan.options)
    return Announcement(plan.photos, len(plan.people), measured)


def train(plan: Plan, *, restart: bool, report: Report) -> Summary:
    """Align what is new, say what it will take, and train. Raises as `run.run`."""
    told = report if distributed.first() else _silent

    def progress(phase: str, done: int, total: int) -> None:
        if done == total or done % 512 == 0:
            told(f"{phase}: {done} of {total}")

    prepared = job.prepare(
        plan.extractor,
        plan.people,
        preset=plan.preset,
        options=plan.options,
        store=Store(plan.cache),
        progress=progress,
    )
    part, training = prepared.part, prepared.training
    faces = plan.preset.batch * training.optimiser.accumulate
    told(
        f"{len(part.rows)} faces of {part.people} people, {len(part.probes)} people held out; {training.steps} steps "
        f"of {faces} faces ({training.steps * faces / len(part.rows):.1f} epochs), {training.passes} passes forward "
        "and backward for each face; the rate and the time left follow"
    )
    return run.run(
        prepared,
        plan.out,
        name=plan.name,
        preset=plan.preset,
        command=plan.command,
        restart=restart,
        report=told,
    )


def described() -> str:
    """All presets, a paragraph each, with their numbers."""
    lines = []
    for name, preset in PRESETS.items():
        attack = ", ".join(f"{key} {_short(value)}" for key, value in asdict(preset.attack).items())
        losses = ", ".join(f"{key} {value:g}" for key, value in asdict(preset.losses).items() if value)
        lines.append(
            f"{name}: {preset.description}.\n    adversary: {attack}\n    loss: {losses}; {preset.epochs:g} epochs, "
            f"batch {preset.batch}, learning rate {preset.optimiser.learning_rate:g}"
        )
    return "\n".join(lines)


def told(summary: Summary, out: Path) -> str:
    """Outcome of a training, in words."""
    before, best = summary.before, summary.best
    return (
        f"{summary.name}, the best of {summary.steps} steps at step {summary.best_step}, on people held out (before):\n"
        f"    accuracy {best.accuracy:.1%} ({before.accuracy:.1%}) clean, "
        f"{best.robust_accuracy:.1%} ({before.robust_accuracy:.1%}) attacked\n"
        f"    shift under attack {best.shift:.3f} ({before.shift:.3f}), "
        f"cosine to the clean extractor {best.cosine:.3f}\n"
        f"Log, plot and checkpoints are in {out}. To make cloaks on it:\n"
        f"FAWKES_ENGINE_HOME={out} cloak run PHOTOS --out DIR --extractors {summary.name}"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _silent(line: str) -> None:
    """Report of the processes that are not the first."""
