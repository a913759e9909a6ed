"""Calls of the Python API: photos in, with who is in them if the caller knows it, and results out in order."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, TypeVar

import jax
import numpy as np
from PIL import Image

from engine import faults
from engine.bulk import budget, people, trouble
from engine.bulk.person import Person
from engine.bulk.pipeline import stream
from engine.bulk.prepare import Prepared, Source, prepare, still
from engine.bulk.results import Cloaked, Encoded, WeakerWarning
from engine.bulk.sightings import Sightings
from engine.bulk.stages import Stations, stages
from engine.config import Output
from engine.types import Photo, PhotoError

if TYPE_CHECKING:
    from engine.bulk.cloaker import Cloaker
    from engine.bulk.goals import Targets

Whose = Person | Sequence[Person | None] | None
"""People in a photo: one person, or one for each face that `Cloaker.look` finds, or None or () if nobody knows."""
Given = str | os.PathLike[str] | bytearray | memoryview | jax.Array | Source
"""A photo, as a caller may give it."""
Item = Given | tuple[Given, Whose]
"""A photo, or a photo and who is in it."""
NOT_NAMED = "Nobody said who is in it, so each face was moved from its own embedding, which protects less."
NOT_THERE = "The person is not among its faces, so each was moved from its own embedding, which protects less."
R = TypeVar("R", Cloaked, Encoded)
T = TypeVar("T")


class Work(NamedTuple):
    """A photo to be done."""

    source: Source
    whose: Whose = None


def works(cloaker: Cloaker, items: Iterable[Item]) -> Iterator[Work]:
    """The photos that a caller gives, checked. Warns once if cloaks will protect less than they could."""
    weaker = cloaker.asks and cloaker.recipe.objective == "person"
    for item in items:
        if isinstance(item, tuple) and len(item) != 2:
            raise ValueError(f"an item is a photo, or a pair of a photo and a person; this is a tuple of {len(item)}")
        photo, given = item if isinstance(item, tuple) else (item, None)
        whose = _persons(given)
        _check(cloaker, whose)
        if whose is None and weaker:
            weaker = False
            weaker_warning(
                'nobody says who is in a photo, so objective "person" acts as "away", which protects less: name the '
                'person, use .cloak(images) or .encode_all(photos), or ask for objective="away"'
            )
        yield Work(still(source_of(photo)), whose)


def results(
    cloaker: Cloaker,
    works: Iterable[Work],
    kind: type[R],
    output: Output | None,
    *,
    targets: Targets | None = None,
    sightings: Sightings | None = None,
) -> Iterator[R]:
    """Results of photos, in order. Whatever is wrong with one of them is its result.

    kind: what is made of an outcome. output: how files are written, None for pixels alone. targets: of all photos, if
    they were grouped. sightings: what was seen in them.
    """

    def failed(work: Work, error: Exception) -> R:
        if faults.of_device(error):
            raise error
        return kind.failed(trouble.reason(error, logged))

    def aim(work: Work, photo: Prepared) -> tuple[Prepared, Targets]:
        return (photo, targets) if targets is not None else _aimed(cloaker, photo, work.whose)

    stations: Stations[Work, R] = Stations(
        prepare=lambda work: prepare(work.source, cloaker.detector, sightings=sightings),
        aim=aim,
        deliver=lambda work, outcome: kind.of(outcome),
        failed=failed,
        cost=lambda work: budget.footprint(work.source),
        output=output,
    )
    with closing(stream(works, stages(cloaker, stations, sightings), cloaker.desk)) as pairs:  # type: ignore[type-var]
        for _, result in pairs:
            yield result


def several(images: Given | Iterable[T]) -> Iterable[Given | T]:
    """The photos that a caller gives, one in a list. Raises TypeError for what is neither a photo nor holds any."""
    if _is_one(images):
        return [images]
    advice = ""
    if hasattr(images, "read"):
        advice = ": pass its bytes, .read(), or its path"
    elif isinstance(images, Iterable) or hasattr(images, "__getitem__"):
        return images  # type: ignore[return-value]
    raise TypeError(
        "photos must be an array, a Pillow image, bytes, a path, or several of these; "
        f"got a {type(images).__name__}{advice}"
    )


def gathered(images: Given | Iterable[Given]) -> list[Source]:
    """All photos that a caller gives. Those of an iterator are copied as they come, as it may refill one buffer."""
    photos = several(images)
    return [source_of(photo) if isinstance(photos, Sequence) else still(source_of(photo)) for photo in photos]


def source_of(image: Given) -> Source:
    """A path of any kind as a Path, bytes as bytes, an array as NumPy's; all else as it is."""
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Path(os.fsdecode(image))
    if _is_one(image) and hasattr(image, "__array__") and not isinstance(image, np.ndarray):
        with suppress(Exception):  # an array that is on another device, or gone: `prepare` says what is wrong with it
            return np.asarray(image)
    return image  # type: ignore[return-value]


def _is_one(images: object) -> TypeGuard[Given]:
    """Whether that is one photo, and not several."""
    kinds = str, os.PathLike, bytes, bytearray, memoryview, Photo, np.ndarray, jax.Array, Image.Image
    return isinstance(images, kinds) or (hasattr(images, "__array__") and getattr(images, "ndim", None) in (2, 3))


def logged(error: Exception) -> str:
    """Words for an exception that nobody foresaw; the logger "engine" gets its traceback."""
    logging.getLogger("engine").error("unexpected error with a photo", exc_info=error)
    return faults.mistake(error, ' with the traceback that the logger "engine" got')


def _persons(whose: Whose | Iterable[Person | None]) -> Whose:
    """The people that a caller names, as they will be looked at more than once. Raises TypeError for what is none."""
    if whose is None or isinstance(whose, Person):
        return whose
    alone = isinstance(whose, (str, bytes, bytearray, memoryview)) or not isinstance(whose, Iterable)
    persons: tuple[Person | None, ...] = (whose,) if alone else tuple(whose)  # type: ignore[bad-assignment]
    for person in persons:
        if person is not None and not isinstance(person, Person):
            raise TypeError(
                f"person must be made by Cloaker.person or Person.from_bytes; got a {type(person).__name__}"
            )
    return persons


def _check(cloaker: Cloaker, whose: Whose) -> None:
    """Raises ValueError for who is said to be in a photo, if this Cloaker cannot use that."""
    objective = cloaker.recipe.objective
    if whose is None:
        if cloaker.asks and objective == "target":
            raise ValueError(
                'objective "target" has to know who is who: name the person, or use .cloak(images) or '
                ".encode_all(photos), which group photos by person before they start"
            )
        return
    persons = [whose] if isinstance(whose, Person) else list(whose)
    if not cloaker.asks or objective == "away":
        setting = 'objective "away"' if cloaker.asks else "a goal"
        raise ValueError(f"with {setting} nobody asks who is in a photo: leave the person out")
    if any(person is not None and person.networks != cloaker.named for person in persons):
        raise ValueError("other networks describe this person: make it again by this Cloaker's .person(photos)")


def _aimed(cloaker: Cloaker, photo: Prepared, whose: Whose) -> tuple[Prepared, Targets]:
    """The photo with what its faces are moved from or to.

    The only face of a photo is taken for the person's; of several faces those that are like the person's.
    """
    if not whose:
        weaker = cloaker.asks and cloaker.recipe.objective == "person"
        return replace(photo, notes=(*photo.notes, NOT_NAMED)) if weaker else photo, {}
    if isinstance(whose, Person):
        person = whose
        canvases = [cut.canvas for cut in photo.cuts]
        identities = [person.identity] if len(canvases) == 1 else cloaker.identify(canvases)
        whose = [person if people.same_person(person.identity, identity) else None for identity in identities]
        if not any(whose):
            photo = replace(photo, notes=(*photo.notes, NOT_THERE))
    if len(whose) != len(photo.cuts):
        raise PhotoError(
            f"It has {len(photo.cuts)} faces that can be cloaked, and {len(whose)} persons were named for them: name "
            "one for each face, or one for the whole photo."
        )
    named = ((index, person) for index, person in enumerate(whose) if person is not None)
    return photo, {(photo.sha256, index): cloaker.goal_of(person) for index, person in named}


def weaker_warning(text: str) -> None:
    """Warn whoever called this package of cloaks that will protect less than they could."""
    warnings.warn(text, WeakerWarning, stacklevel=_outside(sys._getframe()))


def _outside(frame: FrameType | None) -> int:
    """The `stacklevel` of whoever called this package, for a warning that is raised in `frame`."""
    level = outside = 1
    while frame is not None:
        level += 1
        # If annotations are checked, what checks them stands between.
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("engine", "jaxtyping"):
            outside = level
        frame = frame.f_back
    return outside
