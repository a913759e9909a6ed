"""`cloak bench`: how fast this machine is, and at what quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.commands.options import MaybeWhole, SolverOptions, Telling, Whole, names
from engine.commands.outcome import FAILED, INTERRUPTED, OK, print_json, say, usage


def bench(
    photos: Annotated[
        tuple[Path, ...], Parameter(help="Photos and folders; without any, synthetic faces, and no section photos.")
    ] = (),
    /,
    *,
    cloak: SolverOptions = SolverOptions(),
    batches: Annotated[
        str | None,
        Parameter(
            help="Faces at once, each in turn; the last sections take the largest. Default: 1,4,8,16; on accelerators "
            "8,64,256."
        ),
    ] = None,
    devices: Annotated[str | None, Parameter(help="Numbers of devices, e.g. 1,2; default: one, and all.")] = None,
    faces: Annotated[MaybeWhole, Parameter(help="Faces to cloak for each row; default: three times the batch.")] = None,
    repeats: Annotated[Whole, Parameter(help="Repeats of single steps and products.")] = 5,
    only: Annotated[
        str | None, Parameter(help="Sections, of peak,compile,step,solve,goal,photos; default: all.")
    ] = None,
    out: Annotated[Path | None, Parameter(help="A file for the JSON object, too.")] = None,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    from engine import faults, files
    from engine.bench.bench import bench as measure
    from engine.bench.bench import settings
    from engine.bulk.inputs import InputError
    from engine.checkpoint import CheckpointError

    try:
        if out is not None and not out.parent.is_dir():
            raise ValueError(f"--out {out}: there is no folder {out.parent}")
        made, sections = settings(
            only=names(only),
            batches=names(batches) or (),
            devices=names(devices) or (),
            recipe=cloak.recipe(),
            photos=photos,
            faces=faces,
            repeats=repeats,
        )
        quiet = telling.json
        results = measure(made, sections, say=(lambda line: None) if quiet else (lambda line: print(line, flush=True)))
    except (ValueError, InputError, CheckpointError) as error:
        return usage(str(error), as_json=telling.json)
    except KeyboardInterrupt:
        return INTERRUPTED
    print_json(results)  # first: what took minutes is not lost if the file cannot be written
    if out is not None:
        try:
            files.write(out, (json.dumps(results, indent=1) + "\n").encode(), mode=None)
        except OSError as error:
            say(f"cloak: {out} could not be written ({faults.words(error)}): what is printed is all of it")
            return FAILED
    return OK
