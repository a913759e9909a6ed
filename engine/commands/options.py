"""Options that several commands have, each defined here and nowhere else.

A command takes a dataclass of these as one argument; its fields are options of the command (`Parameter(name="*")`).
Options of one command alone are defined in its own module in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, convert

from engine.config import Format, Mode, Objective, Output, Recipe, SolverName


def _whole(kind: Any, tokens: Sequence[Any]) -> Any:
    """The number as the option's kind. Raises ValueError for 1.5, of which cyclopts would make 2 in silence."""
    if wrong := next((token.value for token in tokens if "." in token.value), None):
        raise ValueError(f"it must be a whole number, not {wrong}.")
    return convert(kind, tokens)


Whole = Annotated[int, Parameter(converter=_whole)]
MaybeWhole = Annotated[int | None, Parameter(converter=_whole)]

SEED = Parameter(help="Seed for all random choices.")
DEVICES = Parameter(help="How many devices to use; default: all.")
FACES = Parameter(help="Folder with a folder of photos for each person.")
STUDY = Parameter(help="Folder for report.html, results.json and all it is made of.")


@Parameter(name="*")
@dataclass(frozen=True)
class Telling:
    """Output of a command. Every command has these. json: also if it ends with an error."""

    json: Annotated[bool, Parameter(negative="", help="JSON for machines: one object as the last line of output.")] = (
        False
    )
    verbose: Annotated[
        bool, Parameter(negative="", help="Say on stderr what is being done, and where an error arose.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Budget:
    """How large a cloak may be, and how it is looked for."""

    mode: Annotated[Mode, Parameter(help="Budget: DSSIM .004, .007 or .017 around each face.")] = "mid"
    rho: Annotated[float | None, Parameter(help="Budget of your own instead of the mode's.")] = None
    steps: Annotated[MaybeWhole, Parameter(help="Solver steps instead of the solver's own.")] = None
    seed: Annotated[Whole, SEED] = 0

    def recipe(self, **more: object) -> Recipe:
        """The recipe, with more of its fields. Raises ValueError for what cannot be."""
        return Recipe.of(self.mode, rho=self.rho, steps=self.steps, seed=self.seed, **more)


@Parameter(name="*")
@dataclass(frozen=True)
class SolverOptions(Budget):
    """The same, and by which solver on which networks."""

    extractors: Annotated[
        str | None,
        Parameter(help="Networks to cloak against, e.g. a,b:2 (b counts double), a:bfloat16; `cloak models`."),
    ] = None
    solver: Annotated[SolverName, Parameter(help="How: ours, the paper's, or the released Fawkes 1.0.4's.")] = (
        "projected"
    )

    def recipe(self, **more: object) -> Recipe:
        """See `Budget.recipe`."""
        return super().recipe(extractors=names(self.extractors), solver=self.solver, **more)


@Parameter(name="*")
@dataclass(frozen=True)
class CloakOptions(SolverOptions):
    """The same and the goal of the embeddings: all there is to say of a cloak."""

    objective: Annotated[
        Objective | None,
        Parameter(
            help="Goal of the embeddings. person: away from the mean of the person's faces here (default). away: from "
            "the face's own embedding alone (default of the solvers of others). target: each person to one far target."
        ),
    ] = None

    def recipe(self, **more: object) -> Recipe:
        """See `Budget.recipe`."""
        return super().recipe(objective=self.objective, **more)


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """How cloaked photos are written."""

    format: Annotated[
        Format, Parameter(help="Format of the written files, which adds its suffix. keep: the input's, PNG for a GIF.")
    ] = "keep"
    quality: Annotated[MaybeWhole, Parameter(help="1-100 for lossy formats; default: the source's or better.")] = None

    def output(self) -> Output:
        """The output as the engine takes it. Raises ValueError for what cannot be."""
        return Output(self.format, self.quality)


@Parameter(name="*")
@dataclass(frozen=True)
class StudyOptions:
    """People of an evaluation, and what is done anew."""

    people: Annotated[
        Path | None,
        Parameter(
            help="List of who takes part, as a run writes to OUT/people.json; nobody whom a judged extractor was "
            "trained on may be in it."
        ),
    ] = None
    users: Annotated[Whole, Parameter(help="People who cloak their photos; each has at least --photos.")] = 20
    photos: Annotated[
        Whole, Parameter(help="Photos of each user: half are cloaked and scraped, half are clean tests.")
    ] = 10
    others: Annotated[Whole, Parameter(help="People who do not, the tracker's other labels; each has 3 photos.")] = 100
    dry_run: Annotated[bool, Parameter(negative="", help="Say what it would cost; compute nothing.")] = False
    restart: Annotated[bool, Parameter(negative="", help="Do finished parts again; cloaks and embeddings stay.")] = (
        False
    )

    def counts(self) -> dict[str, int]:
        """The counts by the option's name. Beside a list of people those alone that are not the default."""
        given = {"users": self.users, "photos": self.photos, "others": self.others}
        return {
            name: count for name, count in given.items() if self.people is None or count != getattr(StudyOptions, name)
        }


def names(text: str | None) -> tuple[str, ...] | None:
    """The parts of a list with commas, None of nothing.

    Example:
        >>> names("a, b:2")
        ('a', 'b:2')
    """
    return tuple(name.strip() for name in text.split(",")) if text else None
