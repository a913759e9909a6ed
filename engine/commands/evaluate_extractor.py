"""`cloak evaluate-extractor`: is a network good to make cloaks on?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.commands.evaluate import EXTRA, evaluated
from engine.commands.options import FACES, STUDY, Budget, StudyOptions, Telling, names
from engine.commands.outcome import say, usage
from engine.config import Output


def evaluate_extractor(
    extractor: Annotated[str, Parameter(help="The extractor that is judged; `cloak models` lists them.")],
    dataset: Annotated[Path, FACES],
    /,
    *,
    out: Annotated[Path, STUDY],
    against: Annotated[
        str | None, Parameter(help="Extractor to compare it with; default: the one that it was trained from.")
    ] = None,
    study: StudyOptions = StudyOptions(),
    budget: Budget = Budget(),
    recognisers: Annotated[str | None, Parameter(help="Judges of the cloaks, as in `cloak evaluate`.")] = None,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    try:
        from engine.checkpoint import CheckpointError
        from engine.evaluate.evaluation import study_of
        from engine.evaluate.presets import catalogue
        from engine.extractors import registry
        from engine.view import Board
    except ImportError as error:
        return usage(f"{error}; {EXTRA}", as_json=telling.json)

    board = Board(quiet=telling.json)
    try:
        reference = against or next(iter(registry.about(extractor).get("trained_from", ())), None)
        if reference is None:
            raise ValueError(f"{extractor} was not trained from another extractor: compare it --against one")
        judges = names(recognisers)
        made = study_of(
            dataset,
            out,
            recipe=budget.recipe(extractors=(extractor, reference)),
            output=Output(),
            people=study.people,
            counts=study.counts() | ({"public": 0} if study.people is None else {}),
            recognisers=judges and (extractor, reference, *judges),
            say=board.say,
            warn=say,
            progress=board.progress,
        )
    except (ValueError, CheckpointError) as error:
        return usage(str(error), as_json=telling.json)
    return evaluated(made, catalogue.OF_EXTRACTOR, board, options=study, telling=telling)
