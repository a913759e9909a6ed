"""Trouble with one photo, which becomes its row, and with a run, which becomes one sentence.

Every exception of a run goes through here, so that what is said of a kind of trouble is said in one place.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from engine import faults, files
from engine.bulk.inputs import OWN_FOLDER, InputError
from engine.bulk.manifest import BusyError, Row, Status
from engine.checkpoint import CheckpointError
from engine.types import PhotoError, UnsettledError

log = logging.getLogger(__name__)

RESUME = "What was done is in {out}; the same command, without any --restart, goes on from there."
DISK_FULL = "The disk of the output folder is full"
OF_RUN = (sqlite3.OperationalError, sqlite3.InternalError)
"""Errors in a photo's stage through no fault of the photo: the manifest cannot be written."""


class SetupError(InputError):
    """Trouble that has to be put right before anything can begin: the output folder, the devices."""


class RunError(RuntimeError):
    """A run had to end before it was done; the message is one sentence, and one on how to go on."""


class Doing(Protocol):
    """A photo at work, as `plan.Task`."""

    def row(self, status: Status, reason: str, **more: object) -> Row:
        """The row of its outcome."""
        ...


def row(task: Doing, error: Exception, *, out: Path | None, writing: bool = False) -> Row:
    """The row of a photo that raised: the run goes on. What is not the photo's own fault is tried again next time.

    writing: as in `reason`. Whatever nobody foresaw is noted in the run's log, with its place.
    """
    folder, source = None if out is None else out / OWN_FOLDER, task.row("failed", "").source
    why = reason(error, lambda error: faults.unexpected(error, folder, about=source), writing=writing)
    failed = task.row("failed", why)
    if isinstance(error, PhotoError):
        # What could be read when the run was planned may be back, or whole, the next time.
        again = isinstance(error, UnsettledError) and (failed.size or failed.modified)
        return replace(failed, key="") if again else failed
    log.debug("%s: %s", source, faults.words(error), exc_info=error)
    return replace(failed, key="")


def reason(error: Exception, unexpected: Callable[[Exception], str], *, writing: bool = False) -> str:
    """Why a photo failed, in words for its owner. unexpected: says and notes what nobody foresaw.

    writing: its cloaked file was being written.
    """
    if isinstance(error, PhotoError):
        return str(error)
    if faults.full(error):
        return f"{DISK_FULL} ({faults.words(error)}): make room, then run the same command again."
    if isinstance(error, files.NotAFileError) and writing:
        return f"It could not be written: {faults.words(error)}. Move that away, or choose another --out."
    if isinstance(error, OSError) and writing:
        return f"It could not be written ({faults.words(error)}): see to the output folder and its permissions."
    if isinstance(error, OSError):
        return f"The file cannot be read ({faults.words(error)}): check that it is there and readable."
    if isinstance(error, MemoryError):
        return "There was not enough memory for this photo: use fewer --workers, or make it smaller."
    return unexpected(error)


def ends_run(row: Row) -> str:
    """Why a photo's row means that no other photo can be written either, "" if it does not."""
    if row.status != "failed" or not row.reason.startswith(DISK_FULL):
        return ""
    return row.reason.partition("): ")[0] + ")"


def _expected(error: BaseException) -> bool:
    return isinstance(error, (InputError, BusyError, CheckpointError, RunError, PhotoError))


@contextmanager
def opening(out: Path) -> Iterator[None]:
    """Whatever stands in the way of a run into `out` before it begins as SetupError, a full disk as RunError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if faults.full(error):
            raise RunError(f"{DISK_FULL} ({faults.words(error)}): make room in {out}.") from error
        if isinstance(error, (FileExistsError, NotADirectoryError)) and not isinstance(error, files.NotAFileError):
            raise SetupError(f"--out {out}: a file lies there, a folder is needed: choose another") from error
        if isinstance(error, sqlite3.Error):
            why = f"a manifest in it cannot be used ({faults.words(error)})"
            raise SetupError(f"--out {out}: {why}: put a copy of it in its place, or choose another --out") from error
        said = f"nothing can be written there ({faults.words(error)})"
        raise SetupError(f"--out {out}: {said}: choose another folder, or see to this one") from error


@contextmanager
def starting() -> Iterator[None]:
    """A missing device is raised as SetupError, missing memory as RunError. All else stays as it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and not _expected(error):
            raise InputError(str(error)) from error
        if _expected(error) or not (said := faults.of_machine(error)):
            raise
        raise (SetupError if faults.no_devices(error) else RunError)(said) from error


@contextmanager
def during(out: Path) -> Iterator[None]:
    """Errors that end a begun run become RunErrors with one sentence. Those foreseen elsewhere stay as they are."""
    resume = RESUME.format(out=out)
    try:
        yield
    except Exception as error:
        if _expected(error):
            raise
        if faults.full(error) or (isinstance(error, sqlite3.Error) and faults.no_room(out)):
            raise RunError(f"{DISK_FULL} ({faults.words(error)}): make room. {resume}") from error
        if isinstance(error, sqlite3.Error):
            where = out / OWN_FOLDER
            raise RunError(f"The manifest in {where} cannot be used ({faults.words(error)}). {resume}") from error
        if isinstance(error, OSError):
            raise RunError(f"The run cannot go on ({faults.words(error)}). {resume}") from error
        if said := faults.of_machine(error):
            raise RunError(f"{said[0].upper()}{said[1:]}. {resume}") from error
        raise RunError(f"{faults.unexpected(error, out / OWN_FOLDER)} {resume}") from error
