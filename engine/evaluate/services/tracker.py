"""A service as a tracker of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from engine.evaluate.services.service import UNKNOWN, Load, NotAsked, Provider, ServiceError, session
from engine.evaluate.services.upload import upload


class ServiceTracker:
    """A `protocol.Tracker`: enrols the scraped photos at a service, asks it for the tests, deletes what it uploaded.

    consent: of the person who runs this to send these photos to this service. say: gets the price before the first
    call, and photos in which the service found no face. left: what could not be deleted, a line each.

    A face that the service finds but gives no name gets the first number that is nobody's label (k for k people). The
    service takes it for somebody else, which counts as protected. A photo in which it finds no face is NOBODY and does
    not count. Scraped photos in which it finds none are left out of what it learns.
    """

    extractors: tuple[str, ...] = ()

    def __init__(self, provider: Provider, *, consent: bool, say: Callable[[str], None] = lambda line: None) -> None:
        """Sends nothing."""
        self.name = provider.name
        self.provider = provider
        self.consent = consent
        self.say = say
        self.left: list[str] = []

    def names(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]
    ) -> Int[np.ndarray, "m"]:
        """See `protocol.Tracker`. Raises NotAsked if nothing may be sent, ServiceError if the service fails."""
        provider = self.provider
        reason = provider.refusal(consent=self.consent)
        if reason is not None:
            raise NotAsked(f"{self.name} was not asked: {reason}; nothing was sent")
        people = int(labels.max()) + 1 if len(labels) else 0
        load = Load(people, len(photos), len(tests))
        self.say(f"{self.name}: sending {load.scraped + load.tests:,} photos, {provider.cost(load)}")
        try:
            return self._learn_and_name(photos, labels, tests, people)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise ServiceError(f"{self.name} gave an answer of an unknown form: {error!r}") from error

    def _learn_and_name(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path], people: int
    ) -> Int[np.ndarray, "m"]:
        limits = self.provider.limits
        with session(self.provider.connect(), on_leftover=self._leave) as service:
            enrolled = [
                service.enrol(int(label), upload(photo, limits)) for photo, label in zip(photos, labels, strict=True)
            ]
            if not any(enrolled):
                raise ServiceError(f"{self.name} found no face in any of the {len(enrolled)} photos to learn from")
            if not all(enrolled):
                self.say(
                    f"{self.name} found no face in {enrolled.count(False)} of {len(enrolled)} photos to learn from"
                )
            service.ready()
            answers = np.array([service.identify(upload(test, limits)) for test in tests], int)
        return np.where(answers == UNKNOWN, people, answers)

    def _leave(self, line: str) -> None:
        self.left.append(line)
        self.say(line)
