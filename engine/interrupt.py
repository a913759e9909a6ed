"""Ctrl-C ends the command promptly: in order if that is quick, else without waiting for what still runs.

Python hands an interrupt to the main thread, which may be inside a compiler, and waits for all threads at its end. Both
can take long, and nothing is lost by not waiting: whatever is cut off is done again.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE = 4.0
"""Seconds for an end in order, in which photos that are all but done are written."""
CODE = 130
SAID = b"Interrupted. The same command, without any --restart, goes on from where it ended.\n"


@contextmanager
def prompt() -> Iterator[None]:
    """After an interrupt in this block the process ends within `GRACE` seconds, and at once after a second one.

    For the main thread of a process of its own. Exit code 130.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or somebody else's
        yield
        return
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)  # the watcher stays: the interpreter's own end may take long, too


def _watch(reading: int) -> None:
    timeout: float | None = None
    while True:
        ready, _, _ = select.select([reading], [], [], timeout)
        if ready and signal.SIGINT not in os.read(reading, 64):
            continue
        if timeout is not None:
            _end()
        timeout = GRACE


def _end() -> None:
    if (files := sys.modules.get("engine.files")) is not None:  # nothing is half-written without it
        files.abandon()
    with suppress(OSError):
        os.write(2, SAID)
    os._exit(CODE)
