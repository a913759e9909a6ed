"""Face recognition service of the evaluation: a place to enrol faces, ask for names and delete everything.

Nothing in this module sends anything.
"""

from __future__ import annotations

import base64
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from engine.evaluate.services.upload import Limits
from engine.html import readable

UNKNOWN = -2
"""Label for a face that a service takes for none of those enrolled."""


SHORTEST = 4
"""Characters of a secret that is looked for in texts: what is shorter stands in any of them."""
LONGEST = 600
"""Characters of an error's text."""

_secrets: dict[str, re.Pattern[str]] = {}


def hide(*secrets: str | None) -> None:
    """From now on, no ServiceError of this process has these in its text, however a server writes them."""
    for secret in secrets:
        if secret and len(secret) >= SHORTEST:
            encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
            forms = "|".join(("".join(map(_written, secret)), re.escape(encoded)))
            # A real key is long; a short one might be a word of the sentence in another case.
            _secrets[secret] = re.compile(forms, re.IGNORECASE if len(secret) >= 12 else 0)


def _written(character: str) -> str:
    """A character as it stands in a text, in an address, in JSON and in HTML."""
    percent = "".join(f"%{byte:02X}" for byte in character.encode())
    code = ord(character)
    forms = [character, percent, percent.lower(), f"\\u{code:04x}", f"\\{character}", f"&#{code};", f"&#x{code:x};"]
    return f"(?:{'|'.join(map(re.escape, forms + (['+'] if character == ' ' else [])))})"


def _hidden(text: str) -> str:
    for pattern in _secrets.values():
        text = pattern.sub("(secret)", text)
    return readable(text[:LONGEST])


class ServiceError(RuntimeError):
    """A service refused or could not be reached. The message names the service, what it said and what to do.

    Every text of a server that is shown or kept passes through here: one line of bounded length, without keys.
    """

    def __init__(self, message: str) -> None:
        """message: in which a server's own words may be."""
        super().__init__(_hidden(message))


class NotAsked(ServiceError):
    """Nothing was sent, for want of consent, credentials or a package."""


class Service(Protocol):
    """One collection of faces at a service.

    name: of the service. where: of the collection, in the words of the service, for whoever must delete it by hand.
    The constructor sends nothing. Use it in a `session`.
    """

    name: str
    where: str

    def open(self) -> None:
        """Create the collection."""
        ...

    def enrol(self, label: int, photo: bytes) -> bool:
        """Add the largest face of a photo under a label; whether the service found one."""
        ...

    def ready(self) -> None:
        """Return when the service has learnt what was enrolled."""
        ...

    def identify(self, photo: bytes) -> int:
        """The label of the enrolled face most like the largest one of a photo.

        UNKNOWN if the service sees none that is like it, `protocol.NOBODY` if it finds no face.
        """
        ...

    def close(self) -> None:
        """Delete the collection; not being there is no error. Raises ServiceError if it may still be there."""
        ...


@dataclass(frozen=True)
class Load:
    """Load of one training and one test: how many people, photos to learn from, photos to name."""

    people: int
    scraped: int
    tests: int


@dataclass(frozen=True)
class Cost:
    """calls: about how many requests. usd: what they cost at list price without a free tier, None if not known here.

    source: of the price.
    """

    calls: int
    usd: float | None
    source: str

    def __str__(self) -> str:
        money = "at a price that is not known here" if self.usd is None else f"about US$ {self.usd:.2f}"
        return f"about {self.calls:,} calls, {money} ({self.source})"


@dataclass(frozen=True)
class Provider:
    """A service that could be asked.

    key: for --services. name: in tables. terms: what is sent, what the service keeps and for how long. usd: list price
    of one call, None if not known here. source: where and when it was read. pace: seconds a call takes, about. limits:
    of a photo. package: that the adapter imports. calls: how many requests a load takes. missing: what the environment
    lacks, in words, None if nothing. connect: an adapter; sends nothing.
    """

    key: str
    name: str
    terms: str
    usd: float | None
    source: str
    pace: float
    limits: Limits
    package: str
    calls: Callable[[Load], int]
    missing: Callable[[], str | None]
    connect: Callable[[], Service]

    def cost(self, load: Load, *, times: int = 1) -> Cost:
        """The cost of asking `times` times."""
        calls = self.calls(load) * times
        return Cost(calls, None if self.usd is None else calls * self.usd, self.source)

    def refusal(self, *, consent: bool) -> str | None:
        """Why the service may not be asked, None if it may. Without consent not even credentials are looked for."""
        if not consent:
            return "it was not named in --services"
        if importlib.util.find_spec(self.package) is None:
            return f"the package {self.package} is missing: pip install 'fawkes-engine[services]'"
        return self.missing()


@contextmanager
def session(service: Service, *, on_leftover: Callable[[str], None]) -> Iterator[Service]:
    """An open service whose collection is deleted at the end, whatever happens.

    on_leftover: gets a line that names the collection if it may still be there; an exception on its way out gets
    it as a note.
    """
    try:
        service.open()
        yield service
    except BaseException as error:
        _delete(service, on_leftover, error)
        raise
    _delete(service, on_leftover, None)


def _delete(service: Service, on_leftover: Callable[[str], None], cause: BaseException | None) -> None:
    def report(line: str) -> None:
        on_leftover(line)
        if cause is not None:
            cause.add_note(line)

    try:
        service.close()
    except ServiceError as error:
        report(f"{service.where} could not be deleted: {error}. Delete it by hand.")
    except BaseException:
        report(f"{service.where} may still be there: its deletion was interrupted. Delete it by hand.")
        raise
