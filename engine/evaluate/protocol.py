"""Protection success rate, floor and interval: one tracker, one set of cloaks.

A tracker learns from what it scraped: users' cloaked photos and everybody else's clean ones, each with the right name.
It is then shown clean photos that it never saw. Protection success rate: the share of a user's clean photos that it
does not name as the user, mean over users. It is that of Fawkes (Shan et al. 2020, section 5.1). Floor: the same
tracker, the same photos, nothing cloaked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Int

from engine.evaluate.dataset import Person
from engine.extractors import registry

NOBODY = -1
"""Label for a photo on which a tracker finds no face."""
Part = Literal["in", "held-out"]


class Sees(Protocol):
    """Whatever looks at faces through networks. extractors: as in a Tracker."""

    @property
    def extractors(self) -> tuple[str, ...]: ...  # noqa: D102


class Tracker(Protocol):
    """Somebody who scrapes photos, learns faces and names them.

    name: in tables, e.g. "linear head on dlib". extractors: networks of the engine's registry that it is made of, under
    the registry's names; empty for anything else. They tell whether the tracker's network took part in a cloak, so that
    it is marked so.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def extractors(self) -> tuple[str, ...]: ...  # noqa: D102

    def names(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]
    ) -> Int[np.ndarray, "m"]:
        """Learn from `photos` with their labels 0..k-1, then name each test photo: a label, or NOBODY."""
        ...


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % bootstrap interval over users, in [0, 1]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """One tracker, one set of cloaks.

    protection, floor: see the module. others: share of everybody else's clean test photos that the tracker names
    rightly. others_floor: the same with nothing cloaked. faceless: users' test photos on which the tracker finds no
    face; they count neither for nor against the cloak.
    """

    tracker: str
    part: Part
    protection: Rate
    floor: Rate
    others: float
    others_floor: float
    users: int
    scraped: int
    tests: int
    other_people: int
    faceless: int

    def row(self) -> dict[str, str | float | int]:
        """Flat, for tables; rates in [0, 1]."""
        flat = {key: value for key, value in asdict(self).items() if not isinstance(value, dict)}
        for key in ("protection", "floor"):
            rate: Rate = getattr(self, key)
            flat |= {key: rate.value, f"{key}_low": rate.low, f"{key}_high": rate.high}
        return flat


def part(tracker: Sees, made_with: Sequence[str]) -> Part:
    """Whether a network of the tracker, or recogniser, took part in making the cloaks."""
    return part_of(tracker.extractors, made_with)


def part_of(extractors: Sequence[str], made_with: Sequence[str]) -> Part:
    """Whether one of these networks took part, itself or as a relation.

    A robust extractor, the clean one that it was trained from, and another robust one of the same origin are all of one
    family.
    """
    return "in" if registry.lineage(extractors) & registry.lineage(made_with) else "held-out"


@dataclass(frozen=True)
class Answers:
    """Answers of a tracker for the test photos: right or wrong by user, NaN if it found no face; others' accuracy."""

    missed: tuple[np.ndarray, ...]
    others: float


def classify(
    tracker: Tracker,
    users: Sequence[Person],
    others: Sequence[Person],
    *,
    shown: Mapping[Path, Path | None] | None = None,
) -> Answers:
    """Train a tracker and show it the tests.

    shown: for any photo the file that is there instead (a cloaked one, a purified one), None if it is not there at all.
    Photos that it does not name are there as they are. Users' labels come first.
    """

    def files(photos: Sequence[Path]) -> list[Path]:
        there = [photo if shown is None else shown.get(photo, photo) for photo in photos]
        return [photo for photo in there if photo is not None]

    everybody = [*users, *others]
    learnt = [(path, label) for label, person in enumerate(everybody) for path in files(person.scraped)]
    asked = [files(person.tests) for person in everybody]
    labels = np.array([label for _, label in learnt])
    missing = sorted(set(range(len(everybody))) - set(labels.tolist()))
    if missing:
        raise ValueError(f"no photo is left for the tracker to learn {everybody[missing[0]].name} from")
    answers = tracker.names([path for path, _ in learnt], labels, [path for part in asked for path in part])
    ends = np.cumsum([len(part) for part in asked])
    missed, right = [], []
    for label, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        named = answers[start:end]
        if label < len(users):
            missed.append(np.where(named == NOBODY, np.nan, named != label))
        else:
            right += [value == label for value in named.tolist() if value != NOBODY]
    return Answers(tuple(missed), float(np.mean(right)) if right else float("nan"))


def rate(missed: Sequence[np.ndarray], *, seed: int = 0) -> Rate:
    """Mean over users of the share missed, with its bootstrap interval; users without a test left do not count."""
    shares = np.array([np.nanmean(user_missed) for user_missed in missed if np.isfinite(user_missed).any()])
    if not len(shares):
        return Rate(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).choice(shares, (10_000, len(shares))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Rate(float(shares.mean()), float(low), float(high))


def measure(
    tracker: Tracker,
    users: Sequence[Person],
    others: Sequence[Person],
    *,
    cloaked: Mapping[Path, Path | None],
    made_with: Sequence[str],
    clean: Mapping[Path, Path | None] | None = None,
    floor: Answers | None = None,
) -> Measured:
    """Protection success rate of `cloaked` (scraped photo: its cloaked file, None if it was not published).

    clean: replacements for photos in the floor, and for those that `cloaked` does not name (a tracker that purifies
    does so to all). floor: what `classify` returned for the same tracker, people and `clean`, if known. It is measured
    anew if some photos were not published. They are left out of the floor too, since fewer photos are no cloak.
    """
    with_cloaks = classify(tracker, users, others, shown={**(clean or {}), **cloaked})
    unpublished = {photo: None for photo, file in cloaked.items() if file is None}
    if floor is None or unpublished:
        floor = classify(tracker, users, others, shown={**(clean or {}), **unpublished})
    return judged(
        tracker,
        made_with,
        with_cloaks=with_cloaks,
        without=floor,
        users=users,
        scraped=sum(cloaked.get(photo, photo) is not None for user in users for photo in user.scraped),
        other_people=len(others),
    )


def judged(
    tracker: Tracker,
    made_with: Sequence[str],
    *,
    with_cloaks: Answers,
    without: Answers,
    users: Sequence[Person],
    scraped: int,
    other_people: int,
) -> Measured:
    """The same as `measure`, from answers that are there already. scraped: photos of users that the tracker learnt."""
    return Measured(
        tracker=tracker.name,
        part=part(tracker, made_with),
        protection=rate(with_cloaks.missed),
        floor=rate(without.missed),
        others=with_cloaks.others,
        others_floor=without.others,
        users=len(users),
        scraped=scraped,
        tests=sum(len(user.tests) for user in users),
        other_people=other_people,
        faceless=int(sum(np.isnan(user_missed).sum() for user_missed in with_cloaks.missed)),
    )
