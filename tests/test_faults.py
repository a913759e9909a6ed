"""A part of the trials of tools/faults.py, and that they would see what they look for."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fault_shim
import pytest
from fault_shim import Action, Fault, Kinds, Shim
from fault_trials import faults

TOOL = Path(fault_shim.__file__).with_name("faults.py")
TRIALS = len(faults())
"""One of each kind."""

pytestmark = pytest.mark.skipif(bool(fault_shim.missing()), reason=fault_shim.missing())

WRITER = """
import fcntl, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
try:
    folder.stat()
    (folder / "sub").mkdir()
    with open(folder / "part", "wb") as file:
        file.write(b"12345678")
        file.flush()
        os.fsync(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX)
    (folder / "part").rename(folder / "sub" / "whole")
    (folder / "sub" / "whole").chmod(0o600)
    (folder / "sub" / "whole").read_bytes()
    (folder / "sub" / "whole").unlink()
except OSError as error:
    sys.exit(error.errno)
"""
"""A process that does one thing of every kind below a folder."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fault_shim.build(tmp_path_factory.mktemp("library"))


def disturbed(
    fault: Fault, library: Path, folder: Path, *, guarded: Path | None = None
) -> tuple[int, fault_shim.Found]:
    """Exit code of WRITER, and what the library saw."""
    shim = Shim(folder.parent / "state")
    folder.mkdir()
    shim.order(fault, watched=folder, guarded=guarded or folder.parent / "nothing")
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAULTS_STATE": str(shim.path), "FAULTS_START": "1"}
    process = subprocess.run([sys.executable, "-S", "-c", WRITER, str(folder)], env=environment, check=False)
    return process.returncode, shim.found()


@pytest.mark.parametrize(
    ("kinds", "call"),
    [
        (Kinds.MAKE, "mkdir"),
        (Kinds.DATA, "write"),
        (Kinds.SYNC, "fsync"),
        (Kinds.LOCK, "flock"),
        (Kinds.MOVE, "rename"),
        (Kinds.ATTRIBUTE, "chmod"),
        (Kinds.LOOK, "stat"),
        (Kinds.REMOVE, "unlink"),
    ],
)
def test_the_first_call_of_a_kind_fails(kinds: Kinds, call: str, library: Path, tmp_path: Path) -> None:
    fault = Fault(Action.FAIL, kinds, nth=1, error=errno.EIO)
    code, account = disturbed(fault, library, tmp_path / "watched")
    assert code == errno.EIO
    assert account.done == 1
    assert re.match(rf"{call}(at|64)* {tmp_path}/watched", account.what)


def test_nothing_happens_elsewhere_and_every_kind_is_counted(library: Path, tmp_path: Path) -> None:
    code, account = disturbed(Fault(), library, tmp_path / "watched")
    assert code == 0
    assert account.done == 0
    assert min(account.counts.values()) >= 1
    assert account.counts[Kinds.MAKE] == 2
    assert account.counts[Kinds.DATA] == 1


def test_a_torn_write_leaves_half_and_no_process(library: Path, tmp_path: Path) -> None:
    code, account = disturbed(Fault(Action.TEAR, Kinds.DATA, nth=1), library, tmp_path / "watched")
    assert (code, account.done) == (-9, 1)
    assert (tmp_path / "watched" / "part").read_bytes() == b"1234"


def test_a_full_disk_takes_half_and_no_more(library: Path, tmp_path: Path) -> None:
    fault = Fault(Action.FILL, Kinds.DATA, nth=1, error=errno.ENOSPC, stays=True)
    code, account = disturbed(fault, library, tmp_path / "watched")
    assert code == errno.ENOSPC
    assert account.done >= 2
    assert (tmp_path / "watched" / "part").read_bytes() == b"1234"


def test_a_trespass_is_seen(library: Path, tmp_path: Path) -> None:
    _, account = disturbed(Fault(), library, tmp_path / "watched", guarded=tmp_path / "watched")
    assert account.trespasses >= 5
    assert account.trespass == f"mkdir {tmp_path}/watched/sub"


def test_runs_that_are_disturbed_lose_nothing() -> None:
    command = [sys.executable, str(TOOL), "--trials", str(TRIALS), "--seed", "12", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode in (0, 1), process.stderr
    summary = json.loads(process.stdout.splitlines()[-1])
    assert summary["kinds"] == dict.fromkeys(faults(), 1)
    assert sum(summary["took_place"].values()) >= TRIALS * 0.9
    assert not any(summary["violations"].values()), process.stdout
