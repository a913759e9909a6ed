"""Stages of one photo from its bytes to its cloaked file: one path for `cloak run`, the Python API and Ray Data.

They differ in where photos come from and in what is made of the outcome, which `Stations` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from engine import photo as photos
from engine.bulk.batching import FaceCloak, FaceJob
from engine.bulk.pipeline import Stages
from engine.bulk.prepare import Prepared
from engine.bulk.results import Outcome
from engine.bulk.sightings import Sightings
from engine.config import Output

if TYPE_CHECKING:
    from engine.bulk.cloaker import Cloaker
    from engine.bulk.goals import Targets

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Stations(Generic[S, R]):
    """Origins and outcomes of photos.

    prepare: reads a photo and finds its faces. aim: the photo with what its faces are moved from or to. begin: is told
    of a photo before it is cloaked. deliver: what is made of an outcome. failed: what is made of an exception, unless
    it raises it as no fault of the photo. cost: as in `pipeline.Stages`. output: how files are written; None for pixels
    alone.
    """

    prepare: Callable[[S], Prepared]
    aim: Callable[[S, Prepared], tuple[Prepared, Targets]]
    deliver: Callable[[S, Outcome], R]
    failed: Callable[[S, Exception], R]
    cost: Callable[[S], int]
    begin: Callable[[S], None] = lambda source: None
    output: Output | None = field(default_factory=Output)


def stages(cloaker: Cloaker, stations: Stations[S, R], sightings: Sightings | None = None) -> Stages[S, R]:
    """The stages of photos that this Cloaker cloaks. Whatever goes wrong with one of them is its result.

    sightings: may know whose faces they are.
    """

    def nothing(source: S, photo: Prepared) -> R:
        return stations.deliver(source, Outcome(photo.photo, *cloaker.nothing(photo)))

    def prepare(source: S) -> Prepared | R:
        try:
            photo = stations.prepare(source)
            return photo if photo.cuts else nothing(source, photo)
        except Exception as error:
            return stations.failed(source, error)

    def admit(source: S, photo: Prepared) -> tuple[Prepared, list[FaceJob]] | R:
        try:
            photo = cloaker.selected(photo, sightings)
            if not photo.cuts:
                return nothing(source, photo)
            if stations.output is not None:
                photos.writer(photo.photo, stations.output.format)
            photo, targets = stations.aim(source, photo)
            stations.begin(source)
            return photo, cloaker.jobs(photo, targets)
        except Exception as error:
            return stations.failed(source, error)

    def finish(source: S, photo: Prepared, cloaks: list[FaceCloak]) -> R:
        try:
            outcome = _cloaked(cloaker, photo, cloaks, stations.output)
        except Exception as error:
            return stations.failed(source, error)
        return stations.deliver(source, outcome)

    return Stages[S, R](prepare=prepare, admit=admit, finish=finish, cost=stations.cost)


def _cloaked(cloaker: Cloaker, prepared: Prepared, cloaks: Sequence[FaceCloak], output: Output | None) -> Outcome:
    photo = prepared.photo
    if output is None:
        fitted = cloaker.fit(
            prepared,
            cloaks,
            encode=lambda pixels: pixels.tobytes(),
            decode=lambda data: np.frombuffer(data, np.uint8).reshape(photo.pixels.shape),
        )
    else:
        encoder = photos.Encoder(photo, output.format, output.quality)
        fitted = cloaker.fit(prepared, cloaks, encode=encoder, decode=photos.decode_pixels)
    return Outcome(
        photo,
        "cloaked",
        " ".join(prepared.unusable),
        cloaker.describe(prepared, cloaks, fitted),
        (*prepared.notes, *fitted.notes),
        fitted.data,
        fitted.pixels,
    )
