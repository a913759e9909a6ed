"""What `cloak train-robust` asks for: options in words to a preset, its people and its cost; and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from engine import checkpoint
from engine.dataset import photos_of
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
        return sum(len(own) for own in self.people.values())


@dataclass(frozen=True)
class Announcement:
    """What a training would cost, in numbers (`as_json`) and in words (`str`)."""

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
    preset: str,
    name: str | None,
    without: Sequence[Path],
    choice: Mapping[str, Any],
    attack: Mapping[str, Any],
    settings: Mapping[str, Any],
    cache: Path | None,
    together: tuple[str, int, int] | None,
) -> Plan:
    """Check what was asked for, before anything is computed; None leaves a value as the preset has it.

    choice: steps, batch, accumulate, learning_rate, losses. attack: as `presets.strengthened`. settings: as `Options`,
    `frozen` with commas. together: (coordinator, processes, process) of a training of several processes, which are
    joined here. Raises ValueError for what cannot be used.
    """
    chosen = changed(strengthened(find(preset), **attack), choice)
    named = tuple(part.strip() for part in settings["frozen"].split(",")) if settings["frozen"] else ()
    values: dict[str, Any] = {**settings, "steps": choice["steps"], "frozen": named}
    options = Options(**values)
    excluded = frozenset[str]().union(*(data.names_in(path) for path in without))
    people = photos_of(folder, without=excluded)
    named_as = name or default_name(extractor)
    configure()
    if together is not None:
        coordinator, processes, process = together
        distributed.join(coordinator, processes=processes, process=process)
    export.check(extractor, named_as, folder=out)
    given = {**choice, **attack, **settings}
    standard = {item.name: item.default for item in fields(Options)}
    flags = [
        f"--{'validation' if key == 'held_out' else key.replace('_', '-')} {value}"
        for key, value in given.items()
        if value is not None and key != "devices" and standard.get(key) != value
    ]
    flags += [f"--without {path.name}" for path in without]
    command = " ".join([f"cloak train-robust {extractor} --data DIR --out DIR --preset {preset}", *flags])
    return Plan(extractor, named_as, out, cache or out / "faces", people, chosen, options, command)


def default_name(extractor: str) -> str:
    """EXTRACTOR-robust, or EXTRACTOR-robust-2 if the engine ships one of that name."""
    name = f"{extractor}-robust"
    return f"{name}-2" if name in checkpoint.manifest()["extractors"] else name


def changed(preset: Preset, choice: Mapping[str, Any]) -> Preset:
    """The preset with another batch, accumulation, learning rate or losses, where `choice` has them."""
    wanted = {"accumulate": choice["accumulate"], "learning_rate": choice["learning_rate"]}
    optimiser = replace(preset.optimiser, **{key: value for key, value in wanted.items() if value is not None})
    if choice["batch"] is not None:
        if choice["batch"] < 1:
            raise ValueError(f"batch must be at least 1; got {choice['batch']}")
        preset = replace(preset, batch=choice["batch"])
    if choice["losses"] is not None:
        preset = replace(preset, losses=parsed(choice["losses"]))
    return replace(preset, optimiser=optimiser)


def parsed(text: str) -> Losses:
    """NAME=WEIGHT,... as losses; those not named have no weight. Raises ValueError for anything else.

    Example:
        >>> parsed("distillation=1,clean=.5")
        Losses(classification=0.0, consistency=0.0, distillation=1.0, clean=0.5)
    """
    names = tuple(item.name for item in fields(Losses))
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            weights[name] = float(weight)
        except ValueError:
            name = ""
        if name not in names:
            raise ValueError(f"losses are NAME=WEIGHT,... with the names {', '.join(names)}; got {text!r}")
    return Losses(**weights)


def cost(plan: Plan) -> Announcement:
    """What the plan costs, by a step measured here; nothing is written."""
    measured = job.estimate(plan.extractor, plan.photos, len(plan.people), preset=plan.preset, options=plan.options)
    return Announcement(plan.photos, len(plan.people), measured)


def train(plan: Plan, *, restart: bool, report: Report) -> Summary:
    """Align what is new, say what it will take, and train. Raises as `run.run`."""
    told = report if distributed.first() else _silent

    def progress(what: str, done: int, total: int) -> None:
        if done == total or done % 512 == 0:
            told(f"{what}: {done} of {total}")

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
    """What came of a training, in words."""
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
