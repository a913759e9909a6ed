"""The two ways in which tools/faults.py calls `cloak`: a fork with a stand-in for the networks, and the command."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import fault_folder
import fault_shim
from fault_shim import Fault, Found, Shim

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ended:
    """How a call ended. code: its exit code, minus the signal if one killed it, None if it hung and was stopped."""

    code: int | None
    out: str
    err: str
    found: Found


class Caller(Protocol):
    """Calls `cloak` with these arguments while a fault is made."""

    def __call__(self, arguments: list[str], fault: Fault, *, watched: Path, guarded: Path) -> Ended: ...


class Forked:
    """Forks this process, which has to have been started with the library and `fault_standin.install`ed."""

    def __init__(self, scratch: Path, *, patience: float = 120) -> None:
        """patience: seconds after which a call counts as hung."""
        import fault_standin

        from engine import cli

        fault_standin.install()
        self._main, self._memory = cli.main, fault_standin.Remembered
        self._scratch, self._patience = scratch, patience
        self._shim = Shim(Path(os.environ["FAULTS_STATE"]))
        self._warm()

    def __call__(self, arguments: list[str], fault: Fault, *, watched: Path, guarded: Path) -> Ended:
        out, err, known = (self._scratch / name for name in ("stdout", "stderr", "known.json"))
        self._shim.order(fault, watched=watched, guarded=guarded)
        child = os.fork()
        if not child:
            self._disturbed(arguments, out, err, known)
        code = _awaited(child, self._patience)
        if known.exists():
            self._memory.load(known)
            known.unlink()
        return Ended(code, _text(out), _text(err), self._shim.found())

    def _warm(self) -> None:
        """Import and compile what a call does, once and not in every child."""
        photos = fault_folder.good(self._scratch / "warm" / "photos")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self._main(["run", str(photos), "--out", str(photos.parent / "out"), "--json"])
        gc.freeze()  # or its marks would be written to, and copied, in every child

    def _disturbed(self, arguments: list[str], out: Path, err: Path, known: Path) -> None:
        code = 70
        try:
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), number)
            before = len(self._memory.known)
            fault_shim.start()
            code = self._main(arguments)
            if len(self._memory.known) > before:
                self._memory.save(known)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


class Command:
    """Starts `python -m engine.cli`, networks and all."""

    def __init__(self, scratch: Path, library: Path, *, patience: float = 120) -> None:
        """library: as of `fault_shim.build`. patience: seconds after which a call counts as hung."""
        self._library, self._patience = library, patience
        self._state = scratch / "state"
        self._shim = Shim(self._state)

    def __call__(self, arguments: list[str], fault: Fault, *, watched: Path, guarded: Path) -> Ended:
        self._shim.order(fault, watched=watched, guarded=guarded)
        environment = {
            **os.environ,
            "LD_PRELOAD": str(self._library),
            "FAULTS_STATE": str(self._state),
            "FAULTS_START": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = [sys.executable, "-m", "engine.cli", *arguments]
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=err, cwd=REPOSITORY)
            try:
                code = process.wait(self._patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
            out.seek(0)
            err.seek(0)
            return Ended(code, out.read(), err.read(), self._shim.found())


def _awaited(child: int, patience: float) -> int | None:
    watch = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([watch], [], [], patience)
        if not ready:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(watch)
    return code if ready else None


def _text(path: Path) -> str:
    return path.read_text(errors="backslashreplace") if path.exists() else ""
