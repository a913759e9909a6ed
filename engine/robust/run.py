"""The training loop: batches in; checkpoints, a log, a plot and the best network so far, as an extractor, out.

In the output folder: `checkpoints/`, `log.jsonl`, `training.json` (all that decides the result), `training.svg`, and
`extractors/NAME`, which makes the folder a FAWKES_ENGINE_HOME. The same call, without a restart, goes on from the last
checkpoint, with the same losses as if it had never been stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from engine import files
from engine.extractors import converted
from engine.robust import checkpoints, data, distributed, export, guard, log, train, validation
from engine.robust import job as jobs
from engine.robust.checkpoints import Position
from engine.robust.job import Job
from engine.robust.presets import Preset
from engine.robust.train import State
from engine.robust.validation import Held, Validation

NOTHING_YET = float(np.finfo(np.float64).min)
"""Score before the first validation: below all, and finite, as all has to be that is kept in a checkpoint."""
LOGGED = 10
"""Steps between two rows of figures in the log."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """Outcome of a training. before, best: validations of the clean network and of the best, at step `best_step`.
    collapses: how often the guard went back. path: of the extractor that was written.
    """

    name: str
    steps: int
    best_step: int
    before: Validation
    best: Validation
    collapses: int
    path: Path

    def as_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return {
            **vars(self),
            "before": self.before._asdict(),
            "best": self.best._asdict(),
            "path": str(self.path),
        }


@dataclass
class _Meter:
    """Rate and time left, without the compilation that the first step of a process brings."""

    total: int
    seconds: float = 0.0
    steps: int = 0
    validation: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list)

    def row(self, step: int, *, faces: int, every: int) -> dict[str, Any]:
        rate = self.seconds / max(self.steps, 1)
        checks = -(-self.total // every) - (step - 1) // every  # with that of this step, which is still to come
        return {
            "step": step,
            "figures": {
                name: float(np.mean([float(step_figures[name]) for step_figures in self.figures]))
                for name in self.figures[0]
            },
            "images_per_second": faces / rate if rate else 0.0,
            "seconds_left": (self.total - step) * rate + checks * self.validation,
        }


def run(job: Job, out: Path, *, name: str, preset: Preset, command: str, restart: bool, report: Report) -> Summary:
    """Train, or go on training, and return what came of it.

    name: of the extractor to be written. command: what its card says made it. restart: from the beginning, whatever
    there is in `out`. report: gets a line of text now and then, in the first process only.

    Raises ValueError for an `out` with a training of other settings, or one that another process is writing to. Raises
    `guard.Overfitting` when the guard has given up.
    """
    export.check(job.extractor.name, name, folder=out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{out} can be no folder, as a file lies there: give another --out") from error
    with _alone(out):
        if distributed.first():
            _agree(job, out, name=name, restart=restart)
        distributed.wait("settings")
        return _loop(job, out, name=name, preset=preset, command=command, report=report)


def _loop(job: Job, out: Path, *, name: str, preset: Preset, command: str, report: Report) -> Summary:
    folder, total, every = out / "checkpoints", job.training.steps, job.settings["every"]
    held = _held(job, preset.batch)
    state = jobs.begin(job)
    known = checkpoints.steps(folder)
    position = Position(0, NOTHING_YET, 0, guard.init())
    if known:
        restored, position = checkpoints.restore(folder, known[-1], state)
        state = distributed.copied(restored, job.mesh)
    written = log.Log(out / "log.jsonl", after=position.step) if distributed.first() else None

    def note(row: dict[str, Any]) -> None:
        if written is not None:
            written.write(row)
            report(log.line(row, steps=total))

    meter = _Meter(total)
    if not known:
        measured, meter.validation = _timed(job, state, held)
        history, _ = guard.update(preset.guard or guard.Guard(), position.history, **_watched(measured))
        position = position._replace(history=history)
        note({"step": 0, "validation": measured._asdict(), "seconds": round(meter.validation, 3)})
        _save(folder, state, position)
    batches = _batches(job, preset, first=position.step * job.training.optimiser.accumulate)
    fresh = True
    for step in range(position.step + 1, total + 1):
        begun = time.perf_counter()
        for _ in range(job.training.optimiser.accumulate):
            batch = distributed.split(next(batches), job.mesh)
            state, figures = train.step(job.training, job.extractor, state, batch)
            meter.figures.append(figures)
        jax.block_until_ready(state)
        if not fresh:
            meter.seconds, meter.steps = meter.seconds + time.perf_counter() - begun, meter.steps + 1
        fresh = False
        checkpoint_due = step % every == 0 or step == total
        if step % LOGGED == 0 or checkpoint_due:
            note(meter.row(step, faces=preset.batch * job.training.optimiser.accumulate, every=every))
            meter.figures.clear()
        if checkpoint_due:
            measured, meter.validation = _timed(job, state, held)
            state, position, row = _judged(job, out, state, position._replace(step=step), measured, preset)
            note({**row, "seconds": round(meter.validation, 3)})
            if row["best"] and distributed.first():
                _export(job, out, state, measured, step=step, name=name, preset=preset, command=command)
            _save(folder, state, position)
    distributed.wait("done")
    return _summary(job, out, name=name, position=position)


def _judged(
    job: Job, out: Path, state: State, position: Position, measured: Validation, preset: Preset
) -> tuple[State, Position, dict[str, Any]]:
    """Verdict on a validation: the best so far, a collapse from which to go back, or neither."""
    row: dict[str, Any] = {"step": position.step, "validation": measured._asdict(), "best": False, "collapsed": False}
    if preset.guard is not None:
        history, row["collapsed"] = guard.update(preset.guard, position.history, **_watched(measured))
        position = position._replace(history=history)
        if row["collapsed"]:
            folder = out / "checkpoints"
            last, _ = checkpoints.restore(folder, checkpoints.steps(folder)[-1], state)
            last = last._replace(shrink=last.shrink * np.float32(preset.guard.shrink))
            return distributed.copied(last, job.mesh), position, row
    if measured.score > position.best:
        row["best"] = True
        position = position._replace(best=measured.score, best_step=position.step)
    return state, position, row


def _watched(measured: Validation) -> dict[str, float]:
    return {"shift": measured.shift, "accuracy": measured.robust_accuracy}


def _timed(job: Job, state: State, held: Held) -> tuple[Validation, float]:
    begun = time.perf_counter()
    measured = validation.measure(job.check, train.network(job.extractor, state.trained), held)
    return measured, time.perf_counter() - begun


def _held(job: Job, batch: int) -> Held:
    gallery, probes = job.canvases[job.part.gallery], job.canvases[job.part.probes]
    anchors = job.anchors[job.part.probes]
    return validation.hold(job.extractor, gallery, probes, anchors, batch=batch, mesh=job.mesh)


def _batches(job: Job, preset: Preset, *, first: int) -> Iterator[train.Batch]:
    return data.batches(
        job.canvases,
        job.anchors,
        job.part,
        window=job.extractor.spec.window_yx,
        augmentation=preset.augmentation,
        size=preset.batch,
        seed=job.settings["seed"],
        first=first,
        share=(jax.process_index(), jax.process_count()),
    )


def _save(folder: Path, state: State, position: Position) -> None:
    if distributed.first():
        checkpoints.save(folder, state, position)
    distributed.wait(f"checkpoint {position.step}")


def _export(
    job: Job, out: Path, state: State, measured: Validation, *, step: int, name: str, preset: Preset, command: str
) -> None:
    attack, rounded = preset.attack, {key: round(value, 4) for key, value in measured._asdict().items()}
    export.export(
        train.network(job.extractor, state.trained),
        name,
        folder=out,
        command=command,
        description=f"{job.extractor.name} after adversarial training against {attack.norm} {attack.epsilon:.4g}",
        training={
            "step": step,
            "steps": job.training.steps,
            "faces": len(job.part.rows),
            "people": job.part.people,
            "held_out": len(job.part.probes),
            "norm": attack.norm,
            "epsilon": attack.epsilon,
            "attack_steps": attack.steps,
            **rounded,
        },
    )


def _summary(job: Job, out: Path, *, name: str, position: Position) -> Summary:
    rows = log.read(out / "log.jsonl")
    seen = {row["step"]: Validation(**row["validation"]) for row in rows if "validation" in row}
    if distributed.first():
        log.plot(rows, out / "training.svg", title=f"{job.extractor.name}: {name}")
    return Summary(
        name=name,
        steps=position.step,
        best_step=position.best_step,
        before=seen[0],
        best=seen[position.best_step],
        collapses=position.history.collapses,
        path=out / "extractors" / name,
    )


def _agree(job: Job, out: Path, *, name: str, restart: bool) -> None:
    """Raises ValueError if `out` has a training with other settings; for a restart, removes what a training made."""
    path = out / "training.json"
    wanted = json.loads(json.dumps({"name": name, **job.settings}))
    if restart:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        for made in ("log.jsonl", "training.svg"):
            (out / made).unlink(missing_ok=True)
        card = converted.read(out)[0].get(name, {})
        if "training" in card and card["sha256"] != job.extractor.weights_sha256:  # nor the network to start from
            shutil.rmtree(out / "extractors" / name)
    elif path.exists():
        try:
            settings = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): give another --out, or --restart") from None
        differing = sorted(key for key in {*settings, *wanted} if settings.get(key) != wanted.get(key))
        if differing:
            raise ValueError(
                f"{out} has a training with another {', '.join(differing)}; give another --out, or --restart"
            )
    files.write(path, (json.dumps(wanted, indent=1) + "\n").encode())


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raises ValueError while another training writes to `out`; the processes of one training count as one."""
    if not distributed.first():
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(out / "lock"))
        except files.HeldError as error:
            who = f" ({error.by})" if error.by else ""
            raise ValueError(f"another training is writing to {out}{who}; wait for it or give another --out") from None
        yield
