"""`cloak train-robust`: an extractor trained against an adversary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.commands.options import DEVICES, FACES, SEED, MaybeWhole, Telling, Whole
from engine.commands.outcome import OK, failed, interrupted, print_json, say, usage
from engine.config import Precision


@Parameter(name="*")
@dataclass(frozen=True)
class TrainOptions:
    """Choices that decide a training's result, besides network and photos. None leaves a value as the preset has it."""

    preset: Annotated[str, Parameter(help="paper, pgd, fast or free.")] = "fast"
    steps: Annotated[MaybeWhole, Parameter(help="Updates instead of the preset's epochs.")] = None
    batch: Annotated[MaybeWhole, Parameter(help="Faces at once, over all devices.")] = None
    accumulate: Annotated[MaybeWhole, Parameter(help="Batches for one update.")] = None
    learning_rate: Annotated[float | None, Parameter(help="Highest learning rate of Adam.")] = None
    losses: Annotated[
        str | None,
        Parameter(help="Weights, e.g. distillation=1,clean=.5; also classification, consistency."),
    ] = None
    epsilon: Annotated[
        float | None, Parameter(help="Bound of the adversary: change of a pixel in [0, 1], or DSSIM.")
    ] = None
    norm: Annotated[str | None, Parameter(help="linf or dssim.")] = None
    attack_steps: Annotated[MaybeWhole, Parameter(help="Steps of the adversary.")] = None
    step_size: Annotated[
        float | None, Parameter(help="Step size of the adversary; default: in proportion to epsilon.")
    ] = None
    aim: Annotated[str | None, Parameter(help="Target of the adversary: embedding or head.")] = None
    every: Annotated[Whole, Parameter(help="Steps between checkpoints, each after a validation.")] = 200
    validation: Annotated[Whole, Parameter(help="People held out, two photos each.")] = 32
    freeze: Annotated[float, Parameter(help="Share of the lower layers that stay as they are.")] = 0.0
    frozen: Annotated[str | None, Parameter(help="Layers that stay as they are, by name: stem,blocks/0")] = None
    precision: Annotated[Precision, Parameter(help="Precision of the network's products.")] = "float32"
    seed: Annotated[Whole, SEED] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class Processes:
    """Devices and processes that train. A training of several processes has a coordinator."""

    devices: Annotated[MaybeWhole, DEVICES] = None
    coordinator: Annotated[
        str | None, Parameter(help="HOST:PORT of process 0, for a training of several processes on one --out.")
    ] = None
    processes: Annotated[Whole, Parameter(help="Number of processes.")] = 1
    process: Annotated[Whole, Parameter(help="Number of this process, from 0.")] = 0


def train_robust(
    extractor: Annotated[str | None, Parameter(help="The network to start from; `cloak models` lists them.")] = None,
    /,
    *,
    data: Annotated[Path | None, FACES] = None,
    out: Annotated[Path | None, Parameter(help="Folder for checkpoints, log, plot and the extractor.")] = None,
    name: Annotated[
        str | None,
        Parameter(
            help="Name of the new extractor; default: EXTRACTOR-robust, with -2 behind it if the engine ships one."
        ),
    ] = None,
    without: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="people.json of an evaluation: nobody in it is trained on or held out."),
    ] = (),
    cache: Annotated[Path | None, Parameter(help="Folder of aligned faces, shared by trainings.")] = None,
    options: TrainOptions = TrainOptions(),
    together: Processes = Processes(),
    presets: Annotated[bool, Parameter(negative="", help="Describe the presets and end.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it would cost; write nothing.")] = False,
    restart: Annotated[bool, Parameter(negative="", help="Begin again, whatever is in --out.")] = False,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    from engine.checkpoint import CheckpointError

    try:
        from engine.commands import training
        from engine.robust.guard import Overfitting
    except ImportError as error:
        return usage(f"{error}; pip install 'fawkes-engine[robust]'", as_json=telling.json)
    if presets:
        print(training.described())
        return OK
    if extractor is None or data is None or out is None:
        return usage(
            "train-robust takes EXTRACTOR --data DIR --out DIR; --presets describes the presets", as_json=telling.json
        )
    try:
        plan = training.plan(
            extractor, data, out, name=name, without=without, cache=cache, options=options, together=together
        )
        if dry_run:
            cost = training.cost(plan)
            print(cost.as_json() if telling.json else cost)
            return OK
        summary = training.train(plan, restart=restart, report=say)
    except (ValueError, CheckpointError) as error:
        return usage(str(error), as_json=telling.json)
    except Overfitting as error:
        return failed(str(error), as_json=telling.json)
    except KeyboardInterrupt:
        command = "The same command without --restart" if restart else "The same command"
        return interrupted(f"{command} goes on from the last checkpoint in {out}.", as_json=telling.json)
    if telling.json:
        print_json(summary.as_dict())
    else:
        print(training.told(summary, out))
    return OK
