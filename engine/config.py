"""Constants and settings: frozen dataclasses with named constructors, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Literal, get_args

CLOAKS: int = 5
"""Version of cloaks, raised with every change to their pixels. Cloaks of another version are made again.
tests/test_dependencies.py fails if cloaks change and this does not."""

CROPS: int = 1
"""Version of what a network sees of a face, raised with every change between file and canvas. Faces and embeddings that
another version remembers are found again. tests/test_dependencies.py fails if canvases change and this does not."""

CANVAS: int = 176
"""Side of the canvas in pixels: ArcFace's 112-pixel template with 32 pixels of context on every side."""

TEMPLATE: tuple[tuple[float, float], ...] = (
    (70.2946, 83.6963),
    (105.5318, 83.5014),
    (88.0252, 103.7366),
    (73.5493, 124.3655),
    (102.7299, 124.2041),
)
"""Places of the five landmarks (x, y) on the canvas: ArcFace's template (Deng et al. 2019) + 32."""

REGION: float = 1.3
"""Side of the face region, in longer sides of the face box: where the budget holds and the cloak may be."""

Objective = Literal["person", "away", "target"]
SolverName = Literal["projected", "paper", "fawkes1"]
Mode = Literal["low", "mid", "high"]
Format = Literal["keep", "png", "jpeg", "webp"]
Precision = Literal["float32", "bfloat16"]

RHO: dict[str, float] = {"low": 0.004, "mid": 0.007, "high": 0.017}
"""DSSIM budget of each mode; the paper's default is .007 (its section 5.2)."""

STEPS: dict[str, dict[str, int]] = {
    "projected": {"low": 60, "mid": 60, "high": 60},
    "paper": {"low": 1000, "mid": 1000, "high": 1000},
    "fawkes1": {"low": 40, "mid": 75, "high": 150},
}
"""Steps by solver and mode. Ours: 80 protect as much, and 40 move networks that took no part .7 % less far
(benchmarks/README.md). The paper's are from its section 5.1, the released tool's from its `protection.py`."""

ENSEMBLE: tuple[str, ...] = (
    "mobilefacenet-192-robust:2",
    "mobilefacenet-512-robust",
    "sface-robust:2",
    "dlib-resnet-robust:2",
    "faceres-robust:2",
    "web-incept-robust",
)
"""The extractors of the default recipe, one a step in turn: six networks at the price of one."""


CHUNK: int = 10
"""Solver steps between two looks at the iterates. Turns begin anew with each chunk."""

LEAD: int = 20
"""Solver steps after which it is known which way a face's embeddings go; a multiple of CHUNK."""

MOST_STEPS: int = 1_000_000
"""Most solver steps."""

MOST_LEAD: float = 10.0
"""Largest lead."""

MOST_COARSE: float = 1000.0
"""Largest weight of the coarse part."""

HEAVIEST: float = 1e6
"""Largest weight of an extractor, and one over the smallest: float32 holds every sum and ratio of these."""


def _choice(name: str, value: str, kind: object) -> None:
    if value not in get_args(kind):
        raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}; got {value!r}")


def _numbers(settings: object, kind: type, names: tuple[str, ...]) -> None:
    noun = "a whole number" if kind is Integral else "a number"
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"{name} must be {noun}; got {value!r}")


@dataclass(frozen=True)
class Detection:
    """Rule for the faces that count.

    min_score: the detector's confidence, (0, 1]. min_size: longer side of the face box in pixels of the photo, at least
    16. A smaller face has no room for an 11-pixel SSIM window.
    """

    min_score: float = 0.6
    min_size: int = 24

    def __post_init__(self) -> None:
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min_score must be in (0, 1]; got {self.min_score}")
        if self.min_size < 16:
            raise ValueError(f"min_size must be at least 16 pixels; got {self.min_size}")


@dataclass(frozen=True)
class Member:
    """One extractor of an ensemble. name: in the registry. weight: of its distance in the objective, 1e-6 to
    1e6; only the ratios count. precision: of its products and activations, None for what suits the device
    (`sharding.precision`); pixels, distances and cloak stay float32.
    """

    name: str
    weight: float = 1.0
    precision: Precision | None = None

    @classmethod
    def parse(cls, text: str) -> Member:
        """NAME, NAME:WEIGHT, NAME:PRECISION or NAME:WEIGHT:PRECISION. Raises ValueError for anything else.

        Example:
            >>> Member.parse("web-incept:2:bfloat16")
            Member(name='web-incept', weight=2.0, precision='bfloat16')
        """
        name, *rest = (part.strip() for part in text.split(":"))
        member = cls(name)
        if rest and rest[-1] in get_args(Precision):
            member = replace(member, precision=rest.pop())  # type: ignore[arg-type]
        try:
            if rest:
                member = replace(member, weight=float(rest.pop()))
        except ValueError:
            rest = [text]
        if rest or not name or not 1 / HEAVIEST <= member.weight <= HEAVIEST:
            raise ValueError(
                "an extractor is NAME, NAME:WEIGHT, NAME:PRECISION or NAME:WEIGHT:PRECISION, its weight a number from "
                f"{1 / HEAVIEST:g} to {HEAVIEST:g}, its precision one of {', '.join(get_args(Precision))}; got {text!r}"
            )
        return member


@dataclass(frozen=True)
class Recipe:
    """Settings of a cloak; hashable, so that it is a static argument of the jitted solver.

    rho: DSSIM budget.
    steps: solver steps.
    extractors: the ensemble, each as `Member.parse` reads it; they share the budget.
    objective: what the cloak moves a face away from, or towards. "person" is away from the mean embedding of all faces
        of one person that are cloaked together. "away" is away from the face's own embedding. "target" is towards one
        far embedding for each person.
    solver: the algorithm, the engine's own by default.
    jitter: range of the random change of scale and offset of every extractor's crop at every step, as a share of the
        crop's side.
    spectrum: range of the random change of every frequency of the canvas at every step, as a share of it.
    smoothing: sigma, in canvas pixels, of the Gaussian that the gradient passes through.
    coarse: weight of the gradient's coarse part (sigma 4) beside all of it.
    seed: seed for all random choices, 0 to 2**32 - 1.
    enough: the extractors' weighted mean shift at which a face is left as it is, checked every 10 steps. None runs all
        steps.
    cap: largest change of a pixel at rho .007, 1 for none.
    colour: whether the channels may change apart.
    turn: how many of the extractors a step uses, in turn, so that many cost what few do. None uses all of them in every
        step. An extractor's weight is its influence, however often its turn comes.
    lead: how much the way that the embeddings went in the first 20 steps counts beside the distance, 0 for not at all.

    coarse, cap, colour, turn and lead are of the default solver alone. Others have no coarse part, no cap, always
    colour, every extractor in every step, and no lead.
    """

    rho: float = RHO["mid"]
    steps: int = STEPS["projected"]["mid"]
    extractors: tuple[str, ...] = ENSEMBLE
    objective: Objective = "person"
    solver: SolverName = "projected"
    jitter: float = 0.04
    spectrum: float = 0.4
    smoothing: float = 1.0
    coarse: float = 3.0
    seed: int = 0
    enough: float | None = None
    cap: float = 32 / 255
    colour: bool = False
    turn: int | None = 1
    lead: float = 1.0

    def __post_init__(self) -> None:
        _choice("objective", self.objective, Objective)
        _choice("solver", self.solver, SolverName)
        if isinstance(self.extractors, str):
            raise ValueError(f"extractors must be names, as ({self.extractors!r},); got the text {self.extractors!r}")
        if not isinstance(self.extractors, Iterable) or not all(isinstance(name, str) for name in self.extractors):
            raise ValueError(f"extractors must be names, as ('web-incept',); got {self.extractors!r}")
        object.__setattr__(self, "extractors", tuple(self.extractors))  # a list cannot be hashed
        _numbers(self, Real, ("rho", "jitter", "spectrum", "smoothing", "coarse", "cap", "lead"))
        _numbers(self, Integral, ("steps", "seed"))
        _numbers(self, Real, ("enough",) if self.enough is not None else ())
        _numbers(self, Integral, ("turn",) if self.turn is not None else ())
        if not 0 < self.rho < 0.5:
            raise ValueError(f"rho must be in (0, 0.5), the paper uses .007; got {self.rho}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must be 1 to {MOST_STEPS}; got {self.steps}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to {2**32 - 1}; got {self.seed}")
        if not self.extractors:
            raise ValueError("extractors must name at least one; `cloak models` lists them")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"extractors must differ; got {', '.join(self.extractors)}")
        if not 0 <= self.jitter < 0.5:
            raise ValueError(f"jitter must be in [0, 0.5); got {self.jitter}")
        if not 0 <= self.spectrum <= 1:
            raise ValueError(f"spectrum must be in [0, 1]; got {self.spectrum}")
        if not 0 <= self.smoothing < CANVAS:
            raise ValueError(f"smoothing must be in [0, {CANVAS}) canvas pixels; got {self.smoothing}")
        if not 0 <= self.coarse <= MOST_COARSE:
            raise ValueError(f"coarse must be in [0, {MOST_COARSE:g}]; got {self.coarse}")
        if self.enough is not None and not 0 < self.enough < 2:
            raise ValueError(f"enough is a shift of embeddings and must be in (0, 2); got {self.enough}")
        if not 0 < self.cap <= 1:
            raise ValueError(f"cap is the largest change of a pixel and must be in (0, 1]; got {self.cap}")
        if self.turn is not None and not 1 <= self.turn <= len(self.extractors):
            raise ValueError(
                f"turn is how many of the {len(self.extractors)} extractors a step uses and must be 1 to "
                f"{len(self.extractors)}; got {self.turn}"
            )
        if not 0 <= self.lead <= MOST_LEAD:
            raise ValueError(f"lead must be in [0, {MOST_LEAD:g}]; got {self.lead}")
        if len(self.turns) > CHUNK:
            raise ValueError(
                f"with turn {self.turn} {len(self.extractors)} extractors need {len(self.turns)} steps, more than the "
                f"{CHUNK} after which turns begin anew: raise turn or name fewer extractors"
            )
        cls = type(self)
        turn = cls.turn if self.turn is None else self.turn
        choices = self.coarse, self.cap, self.colour, turn, self.lead
        if self.solver != cls.solver and choices != (cls.coarse, cls.cap, cls.colour, cls.turn, cls.lead):
            raise ValueError(
                f"coarse, cap, colour, turn and lead are choices of the solver {cls.solver!r}, not of {self.solver!r}"
            )

    @property
    def leads(self) -> bool:
        """Whether a cloak follows the way of its first steps."""
        return self.lead > 0 and self.solver == type(self).solver and self.objective != "target" and self.steps > LEAD

    @property
    def members(self) -> tuple[Member, ...]:
        """The ensemble."""
        return tuple(Member.parse(text) for text in self.extractors)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its extractors."""
        return tuple(member.name for member in self.members)

    @property
    def weights(self) -> tuple[float, ...]:
        """Their weights, as given."""
        return tuple(member.weight for member in self.members)

    @property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Extractors of each step, by index, as often as it takes until the first step's come again.

        Example:
            >>> Recipe(extractors=("a", "b", "c", "d"), turn=2).turns
            ((0, 1), (2, 3))
        """
        count = len(self.extractors)
        taken = count if self.turn is None or self.solver != type(self).solver else self.turn
        starts = range(0, math.lcm(count, taken), taken)
        return tuple(tuple(sorted((start + place) % count for place in range(taken))) for start in starts)

    def push(self, members: tuple[int, ...]) -> float:
        """How far a step with these extractors goes beside the mean of all steps of a chunk: 1 if all are equal.

        Each extractor's weight is spread over the steps of a chunk that use it.

        Example:
            >>> Recipe(extractors=("a", "b:3"), turn=1).push((1,))
            1.5
        """
        chunk = [self.turns[step % len(self.turns)] for step in range(CHUNK)]
        spread = {index: self.weights[index] / sum(index in turn for turn in chunk) for turn in chunk for index in turn}
        pushes = [sum(spread[index] for index in turn) for turn in chunk]
        return sum(spread[index] for index in members) * CHUNK / sum(pushes)

    @classmethod
    def of(cls, mode: Mode, **changes: object) -> Recipe:
        """The recipe of a mode, with some of its fields changed; None leaves a field as the mode has it.

        The solvers of others have the objective "away" unless another is given: none of them knows who is who.

        Example:
            >>> Recipe.of("high", steps=20).rho
            0.017
        """
        _choice("mode", mode, Mode)
        chosen = {name: value for name, value in changes.items() if value is not None}
        _choice("solver", str(chosen.get("solver", cls.solver)), SolverName)
        solver = str(chosen.get("solver", cls.solver))
        objective: Objective = cls.objective if solver == cls.solver else "away"
        return replace(cls(rho=RHO[mode], steps=STEPS[solver][mode], objective=objective), **chosen)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Output:
    """How photos are written. format: "keep" writes what was read. quality: 1-100, None keeps the source's."""

    format: Format = "keep"
    quality: int | None = None

    def __post_init__(self) -> None:
        _choice("format", self.format, Format)
        if self.quality is not None and not (_is_whole(self.quality) and 1 <= self.quality <= 100):
            raise ValueError(f"quality must be a whole number in 1-100; got {self.quality!r}")
