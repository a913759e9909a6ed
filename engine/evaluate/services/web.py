"""What the adapters over plain HTTP share: sessions that try again, and requests whose failures are ServiceErrors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.evaluate.services.service import ServiceError

if TYPE_CHECKING:
    import requests

AGAIN = (429, 500, 502, 503, 504)
"""Status codes after which a request is sent again: throttling and faults of the server."""
TIMEOUT = (10, 60)
"""Seconds to connect, seconds to wait for an answer."""
LOCAL = ("127.0.0.1", "::1", "localhost")


def unset(variables: Sequence[str]) -> str | None:
    """In words, which environment variables are not set."""
    absent = [name for name in variables if not os.environ.get(name)]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set" if absent else None


def insecure(endpoint: str) -> str | None:
    """In words, what is wrong with an endpoint that keys and photos would go to; None if it may be used."""
    parts = urlsplit(endpoint)
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)):
        return None
    return f"the endpoint must be https://HOST, because keys and photos go there; got {endpoint!r}"


def open_session(*, attempts: int = 8, backoff: float = 1.0) -> requests.Session:
    """A session that repeats a request up to `attempts` times in all: urllib3's Retry, exponential backoff from
    `backoff` seconds, or as long as the server asks for (Retry-After).
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    session = requests.Session()
    retry = Retry(
        total=attempts - 1,
        backoff_factor=backoff,
        status_forcelist=AGAIN,
        allowed_methods=None,
        raise_on_status=False,
    )
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def send(session: requests.Session, name: str, method: str, url: str, **arguments: Any) -> requests.Response:
    """The answer, whatever its status. Raises ServiceError where there is none.

    Redirections are not followed: they would carry photos and keys to another host.
    """
    import requests

    try:
        return session.request(method, url, timeout=TIMEOUT, allow_redirects=False, **arguments)
    except requests.RequestException as error:
        raise ServiceError(f"{name} could not be reached: {error}") from error


def content(response: requests.Response) -> Any:
    """The JSON of an answer; None where it is none."""
    try:
        return response.json()
    except ValueError:
        return None
