"""The cloud services of the paper's section 6 as trackers: Amazon Rekognition, Azure AI Face, Face++.

A service is sent photos only if it was named (consent) and has credentials in the environment. The price is said first.
What was uploaded is deleted at the end, also after an error or Ctrl-C. Names of people and of files are never sent: a
person is a number there. `pip install 'fawkes-engine[services]'` brings what the adapters need.

Example:
    >>> tracker = ServiceTracker(SERVICES["rekognition"], consent=False)
    >>> tracker.names([], np.array([], int), [])
    Traceback (most recent call last):
    engine.evaluate.services.service.NotAsked: Amazon Rekognition was not asked: it was not named in --services; ...
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.evaluate.services import azure, facepp, rekognition
from engine.evaluate.services.service import UNKNOWN, Cost, Load, NotAsked, Provider, Service, ServiceError, session
from engine.evaluate.services.tracker import ServiceTracker

__all__ = [
    "SERVICES",
    "UNKNOWN",
    "Cost",
    "Load",
    "NotAsked",
    "Provider",
    "Service",
    "ServiceError",
    "ServiceTracker",
    "check",
    "session",
]

SERVICES: dict[str, Provider] = {
    provider.key: provider for provider in (rekognition.PROVIDER, azure.PROVIDER, facepp.PROVIDER)
}
"""Services by the name that `--services` takes, in the order of the report."""


def check(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once. Raises ValueError for one that is no service's."""
    chosen = tuple(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in SERVICES]
    if unknown:
        raise ValueError(f"services must be of {', '.join(SERVICES)}; got {unknown[0]!r}")
    return chosen
