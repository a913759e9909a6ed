"""Log of `--verbose`: what the modules of the engine log, on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine import terminal


class _Handler(logging.Handler):
    """Writes to what stderr is now, which a progress bar may have taken over, and cannot steer a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        print(terminal.lines(self.format(record)), file=sys.stderr)


@contextmanager
def verbose() -> Iterator[None]:
    """Everything that the engine logs is shown while the block lasts, tracebacks too."""
    logger, handler = logging.getLogger("engine"), _Handler()
    handler.setFormatter(logging.Formatter("%(relativeCreated)6d ms %(name)s: %(message)s"))
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # a handler of the root logger would show it again, as it is
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
