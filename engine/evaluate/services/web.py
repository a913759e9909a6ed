"""Base of the adapters over plain HTTP: requests with bounds on time and size, whose failures are ServiceErrors."""

from __future__ import annotations

import email.utils
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from engine.evaluate.services.service import ServiceError

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

AGAIN = (429, 500, 502, 503, 504)
"""Status codes after which a request is sent again: throttling and faults of the server."""
TIMEOUT = (10, 60)
"""Seconds to connect, seconds to wait for more of an answer."""
TOTAL = 120.0
"""Seconds for one answer in all: a server that sends a byte now and then never lets the other timeout pass."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""
LARGEST = 4 * 2**20
"""Bytes of an answer at most: those of all three services are some thousand."""
LOCAL = ("127.0.0.1", "::1", "localhost")


def unset(variables: Sequence[str]) -> str | None:
    """Environment variables that are not set, in words."""
    absent = [name for name in variables if not os.environ.get(name)]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set" if absent else None


def insecure(endpoint: str) -> str | None:
    """Fault of an endpoint that keys and photos would go to, in words; None if it may be used."""
    try:
        parts = urlsplit(endpoint)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)
        if parts.hostname and safe and parts.username is None and parts.password is None:
            return None
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    except ValueError:
        shown = endpoint.rpartition("@")[2]
    return f"the endpoint must be https://HOST, because keys and photos go there; got {shown!r}"


@dataclass(frozen=True)
class Session:
    """Connections to one service. attempts: of a request, in all. backoff: seconds before the second one, doubled after
    each.
    """

    http: requests.Session
    attempts: int
    backoff: float

    @property
    def headers(self) -> Any:
        """The headers of every request."""
        return self.http.headers

    def close(self) -> None:
        """Let go of the connections."""
        self.http.close()


@dataclass(frozen=True)
class Answer:
    """Answer, whatever its status. data: the body."""

    status_code: int
    data: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.data.decode("utf-8", "replace")


def open_session(*, attempts: int = 8, backoff: float = 1.0) -> Session:
    """A session that repeats a request up to `attempts` times in all.

    It waits with exponential backoff from `backoff` seconds, or as long as the server asks for (Retry-After),
    LONGEST_WAIT at most.
    """
    import requests

    http = requests.Session()
    http.trust_env = False  # requests would send passwords of ~/.netrc; proxies are given to it by `_once`
    return Session(http, attempts, backoff)


def send(session: Session, name: str, method: str, url: str, **arguments: Any) -> Answer:
    """The answer, whatever its status. Raises ServiceError if there is none within TOTAL seconds and LARGEST bytes.

    Redirections are not followed: they would carry photos and keys to another host.
    """
    import requests

    for attempt in range(1, session.attempts + 1):
        last = attempt == session.attempts
        wait = min(session.backoff * 2 ** (attempt - 1), LONGEST_WAIT)
        try:
            answer, asked = within(TOTAL, lambda: _once(session.http, method, url, arguments))
        except TimeoutError:
            raise ServiceError(f"{name} has not answered within {TOTAL:g} s") from None
        except TooLargeError:
            raise ServiceError(f"{name} gave an answer of more than {LARGEST:,} bytes") from None
        except (requests.RequestException, OSError) as error:
            if last:
                raise ServiceError(f"{name} could not be reached: {error}") from error
        else:
            if answer.status_code not in AGAIN or last:
                return answer
            wait = wait if asked is None else asked
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


class TooLargeError(Exception):
    """An answer of more than LARGEST bytes."""


def _once(http: requests.Session, method: str, url: str, arguments: dict[str, Any]) -> tuple[Answer, float | None]:
    """The answer, and for how many seconds the server asks to wait."""
    import requests

    verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    proxies = requests.utils.get_environ_proxies(url)
    begun = time.monotonic()
    with http.request(
        method, url, timeout=TIMEOUT, allow_redirects=False, stream=True, verify=verify, proxies=proxies, **arguments
    ) as response:
        asked, data = _asked(response.headers.get("Retry-After")), bytearray()
        for chunk in response.iter_content(2**14):
            data += chunk
            if len(data) > LARGEST:
                raise TooLargeError
            if time.monotonic() - begun > TOTAL:
                raise TimeoutError
        return Answer(response.status_code, bytes(data)), asked


def _asked(text: str | None) -> float | None:
    """Seconds of a Retry-After header (a number, or a date), from 0 to LONGEST_WAIT; None if it says nothing."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return max(0.0, min(seconds, LONGEST_WAIT))  # NaN gives 0


def within(seconds: float, work: Callable[[], T]) -> T:
    """Result or error of `work`. Raises TimeoutError if it takes longer; it is then left to itself in a thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def content(answer: Answer) -> Any:
    """The JSON of an answer; None if it is none, or nested without end."""
    try:
        return json.loads(answer.data)
    except (ValueError, RecursionError):
        return None
