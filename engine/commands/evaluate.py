"""`cloak evaluate`: do cloaks protect?"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from engine.commands.options import FACES, STUDY, CloakOptions, OutputOptions, StudyOptions, Telling, Whole, names
from engine.commands.outcome import OK, failed, interrupted, print_json, say, usage

if TYPE_CHECKING:
    from engine.evaluate.presets import Preset
    from engine.evaluate.study import Study
    from engine.view import Board

EXTRA = "pip install 'fawkes-engine[evaluate]'"
PUBLIC = 40
"""People of the public unless told."""


def evaluate(
    dataset: Annotated[Path | None, FACES] = None,
    /,
    *,
    out: Annotated[Path | None, STUDY] = None,
    presets: Annotated[str | None, Parameter(help="Presets, e.g. budget,transfer, or all; --list tells them.")] = None,
    study: StudyOptions = StudyOptions(),
    public: Annotated[
        Whole,
        Parameter(
            help="People on whom adaptive trackers practise, with 3 photos; fewer will do unless presets adaptive, "
            "detection or sybil are chosen."
        ),
    ] = PUBLIC,
    cloak: CloakOptions = CloakOptions(),
    written: OutputOptions = OutputOptions(),
    recognisers: Annotated[
        str | None,
        Parameter(help="Trackers' eyes, e.g. sface,dlib,human=FOLDER; default: all extractors, and dlib if installed."),
    ] = None,
    services: Annotated[str | None, Parameter(help="Cloud services to ask: rekognition,azure,facepp.")] = None,
    consent: Annotated[bool, Parameter(negative="", help="The photos may be sent to these services.")] = False,
    list_: Annotated[bool, Parameter("--list", negative="", help="List the presets.")] = False,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    try:
        from engine.checkpoint import CheckpointError
        from engine.evaluate.evaluation import study_of
        from engine.evaluate.presets import catalogue
        from engine.view import Board
    except ImportError as error:
        return usage(f"{error}; {EXTRA}", as_json=telling.json)

    if list_:
        for preset in catalogue.PRESETS.values():
            print(f"{preset.name:<14}{'(default) ' if preset.default else ''}{preset.source}: {preset.question}")
        return OK
    if dataset is None or out is None:
        return usage("evaluate takes DATASET --out DIR; --list shows the presets", as_json=telling.json)
    board = Board(quiet=telling.json)
    try:
        chosen = catalogue.chosen(names(presets))
        made = study_of(
            dataset,
            out,
            recipe=cloak.recipe(),
            output=written.output(),
            people=study.people,
            counts=study.counts() | ({"public": public} if study.people is None or public != PUBLIC else {}),
            practised=any(preset.name in catalogue.PRACTISED for preset in chosen),
            recognisers=names(recognisers),
            consent=names(services) or (),
            say=board.say,
            warn=say,
            progress=board.progress,
        )
    except (ValueError, CheckpointError) as error:
        return usage(str(error), as_json=telling.json)
    return evaluated(made, chosen, board, options=study, telling=telling, consent=consent)


def evaluated(
    study: Study,
    presets: Sequence[Preset],
    board: Board,
    *,
    options: StudyOptions,
    telling: Telling,
    consent: bool = False,
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
    if not telling.json:
        board.prices(priced)
        board.uploads(uploads(study) if any(preset.name == "services" for preset in presets) else ())
    if options.dry_run:
        if telling.json:
            print_json([asdict(price) for price in priced])
        return OK
    if study.consent and not consent:
        return usage(
            f"{', '.join(study.consent)} would be sent photos of people; nothing was sent. --dry-run says what, and at "
            "what price; --consent says that they may be",
            as_json=telling.json,
        )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was uploaded is deleted also then
    same = "the same command without --restart" if options.restart else "the same command"
    resume = f"What was done is in {study.out}; {same} goes on from there."
    try:
        with board:
            run_presets(study, presets, restart=options.restart, started=board.preset)
    except (ValueError, BusyError, CheckpointError, PhotoError, RunError) as error:
        return failed(f"{error}\n{resume}", as_json=telling.json)
    except KeyboardInterrupt:
        return interrupted(resume, as_json=telling.json)
    finally:
        signal.signal(signal.SIGTERM, before)
    if telling.json:
        print_json(json.loads((study.out / "results.json").read_text()))
    else:
        print(f"{study.out / 'report.html'}")
    return OK
