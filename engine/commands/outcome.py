"""How a command ends: its exit code, and what is said if it did not come to its end."""

from __future__ import annotations

import math
import sys
from typing import Any

from engine import terminal

OK, FAILED, USAGE, NOTHING, INTERRUPTED = 0, 1, 2, 3, 130


def say(text: str) -> None:
    """A line on stderr."""
    print(terminal.lines(text), file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """A line of JSON on stdout. Numbers that JSON has no words for are null."""
    import json  # not for the help

    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def usage(message: str, *, as_json: bool) -> int:
    """Something has to be put right before anything can begin. Returns the exit code, as all of these."""
    failed(message, as_json=as_json)
    return USAGE


def failed(message: str, *, as_json: bool) -> int:
    """The command was cut short. The exception that is being handled, if any, is shown with `--verbose`."""
    if sys.exc_info()[0] is not None:
        import logging

        logging.getLogger(__name__).debug("it arose here", exc_info=True)
    say(f"cloak: {message}")
    if as_json:
        print_json({"error": message})
    return FAILED


def interrupted(message: str, *, as_json: bool) -> int:
    """Ctrl-C."""
    say(f"Interrupted. {message}")
    if as_json:
        print_json({"error": "interrupted"})
    return INTERRUPTED
