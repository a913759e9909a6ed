"""Needs of several presets: the study's trackers, photos leaked by chance, draws pooled to a row, rates in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.bulk.prepare import Prepared
from engine.evaluate.dataset import Person
from engine.evaluate.presets import Value
from engine.evaluate.protocol import Answers, Part, classify, measure, part
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Cloaks, CloakSet, Study
from engine.evaluate.tables import percent
from engine.evaluate.trackers import HEADS, EmbeddingTracker
from engine.extractors import registry
from engine.faces import central

K = TypeVar("K")
MAIN_HEADS = ("linear head", "1-NN")
"""The heads of the paper (a last layer trained) and of its critics (1-NN), where a preset does without the third."""


def each_tracker(
    recognisers: Sequence[Recogniser], heads: Sequence[str] = tuple(HEADS)
) -> Iterator[tuple[dict[str, Value], EmbeddingTracker]]:
    """Every tracker with the columns that name it in a table."""
    for recogniser in recognisers:
        for head in heads:
            yield {"recogniser": recogniser.name, "head": head}, EmbeddingTracker(recogniser, head)


def apart(recognisers: Sequence[Recogniser], made_with: Sequence[str]) -> dict[Part, list[Recogniser]]:
    """Recognisers a network of which took part in the cloaks, and the held-out; of these the engine's own first."""
    groups: dict[Part, list[Recogniser]] = {"in": [], "held-out": []}
    for recogniser in sorted(recognisers, key=lambda recogniser: not recogniser.extractors):
        groups[part(recogniser, made_with)].append(recogniser)
    return groups


def few(recognisers: Sequence[Recogniser], made_with: Sequence[str]) -> list[Recogniser]:
    """At most two that took part and one held-out, for presets with many conditions."""
    groups = apart(recognisers, made_with)
    return [*groups["in"][:2], *groups["held-out"][:1]]


def robust(recognisers: Sequence[Recogniser]) -> list[Recogniser]:
    """Recognisers of an extractor that was trained adversarially, by its card."""
    return [
        recogniser
        for recogniser in recognisers
        if any(registry.about(name).get("robust") for name in recogniser.extractors)
    ]


def photos_cloaked(people: Sequence[Person]) -> int:
    """How many photos of theirs a cloak set has."""
    return sum(len(person.scraped) for person in people)


def central_face(photo: Prepared) -> int:
    """Index of the face nearest to the middle. The photo must have one."""
    return central([face.box for face in photo.faces], photo.photo.size)


def unpublished(cloaks: Cloaks) -> dict[Path, None]:
    """Photos in which no face was found, left out of the floor as well: fewer photos are no cloak."""
    return {photo: None for photo, file in cloaks.files.items() if file is None}


def leaked(
    users: Sequence[Person], cloaked: Mapping[Path, Path | None], share: float, random: np.random.Generator
) -> dict[Path, Path | None]:
    """`cloaked` with a share of each user's scraped photos clean; the rest of a photo is leaked with that chance.

    A photo that was not published, as no face was found in it, stays unpublished.
    """
    shown = dict(cloaked)
    for user in users:
        published = [photo for photo in user.scraped if cloaked.get(photo) is not None]
        count = int(share * len(published) + random.random())
        for index in random.permutation(len(published))[:count]:
            del shown[published[index]]
    return shown


def pooled(draws: Sequence[Answers]) -> Answers:
    """Several draws of one experiment as one: a user's tests of all draws together, the others' accuracy averaged."""
    missed = tuple(np.concatenate(per_user) for per_user in zip(*(draw.missed for draw in draws), strict=True))
    return Answers(missed, float(np.nanmean([draw.others for draw in draws])))


def by_set(
    study: Study, sets: Mapping[K, CloakSet], people: Sequence[Person]
) -> dict[K, tuple[Cloaks, list[dict[str, Value]]]]:
    """The cloaks of each set, and a row for every tracker of MAIN_HEADS; the floors are measured once."""
    trackers = list(each_tracker(study.recognisers, MAIN_HEADS))
    others = study.people.others
    floors = {tracker.name: classify(tracker, people, others) for _, tracker in trackers}
    made = {}
    for key, wanted in sets.items():
        cloaks = study.cloaks(wanted)
        rows: list[dict[str, Value]] = []
        for columns, tracker in trackers:
            measured = measure(
                tracker,
                people,
                others,
                cloaked=cloaks.files,
                made_with=cloaks.made_with,
                floor=floors[tracker.name],
            )
            rows.append({**columns, **measured.row(), **cloaks.quality()})
        made[key] = cloaks, rows
        study.say(f"{wanted.label}: in {rates(where(rows, part='in'))}; held out {rates(where(rows, part='held-out'))}")
    return made


def mean(rows: Sequence[Mapping[str, Value]], key: str = "protection") -> float:
    """The mean of a column; NaN without rows."""
    return float(np.mean([float(row[key]) for row in rows])) if rows else float("nan")


def where(rows: Sequence[dict[str, Value]], **values: Value) -> list[dict[str, Value]]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def rates(rows: Sequence[Mapping[str, Value]]) -> str:
    """Protection with its floor and the spread over rows: "52 % (24 % to 80 %), floor 1.5 %"."""
    if not rows:
        return "not measured"
    values = [float(row["protection"]) for row in rows]
    least, most = percent(min(values)), percent(max(values))
    spread = f" ({least} to {most})" if least != most else ""
    return f"{percent(mean(rows))}{spread}, floor {percent(mean(rows, 'floor'))}"


def by_part(rows: Sequence[dict[str, Value]]) -> list[str]:
    """A sentence for the recognisers that took part in the cloaks and one for the held-out."""
    said = []
    for kind, who in (("in", "that took part in making the cloaks"), ("held-out", "that took no part")):
        part_rows = where(rows, part=kind)
        names = ", ".join(dict.fromkeys(str(row["recogniser"]) for row in part_rows))
        if part_rows:
            said.append(f"Recognisers {who} ({names}): {rates(part_rows)}.")
        else:
            said.append(f"There was no recogniser {who}: nothing is said about those.")
    return said


def setting(study: Study, cloaks: Cloaks) -> list[str]:
    """How the data differ from the paper's, for every preset that uses the study's people."""
    people = study.people
    photos = sorted({len(user.scraped) for user in people.users})
    return [
        f"{len(people.users)} users cloak at once, {'-'.join(map(str, photos))} photos each, against "
        f"{len(people.others)} other people; the paper and its critics cloak one person at a time in PubFig and "
        "FaceScrub, with tens of photos each.",
        f"The cloaks are this engine's (solver {cloaks.recipe.solver}, objective {cloaks.recipe.objective}, "
        f"{cloaks.recipe.steps} steps, {', '.join(cloaks.recipe.names)}), and so is the region of the DSSIM budget.",
    ]
