"""`cloak run --runner ray` beside the same run without: real photos, a tiny network, a Ray of two workers here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_package
from PIL import Image
from test_readme import documented

from engine import cli
from engine.bulk import ray_runner
from engine.bulk.inputs import InputError
from engine.bulk.manifest import Manifest, Row
from engine.bulk.run import Options, fingerprint
from engine.config import LEAD, Detection, Output, Recipe

FACES = 12
STEPS = str(LEAD + 2)
"""So many that the ways people's faces go are found, by the workers as without them."""
((RUNNER,),) = documented("cloak run album --out cloaked --runner ")
RAY = ["--runner", RUNNER, "--ray-workers", "2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Photos of one face and of none, what is no photo, and a package that brings the extractor "tiny"."""
    folder = tmp_path_factory.mktemp("ray")
    tiny_package.install(folder)
    (folder / "photos").mkdir()
    with Image.open(photos / "astronaut.png") as image:
        face = image.convert("RGB").crop((100, 20, 340, 260))
    for index in range(FACES):
        frame = Image.new("RGB", (250 + index, 250), (index, 60, 90))
        frame.paste(face, (5, 5))
        frame.save(folder / "photos" / f"{index:02}.png")
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(folder / "photos" / "wall.png")
    (folder / "photos" / "text.jpg").write_text("not a picture")
    (folder / "photos" / "notes.txt").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def start(home: Path) -> Callable[..., subprocess.Popen]:
    """The command, in a process and with workers that know "tiny", called in the folder of the photos."""
    pytest.importorskip("ray.data")
    environment = tiny_package.environment(home)
    settings = ["--extractors", "tiny", "--steps", STEPS, "--batch", "2", "--json"]

    def begin(out: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "engine.cli", "run", "photos", "--out", out, *arguments, *settings]
        with (home / f"{out}.log").open("w") as log:
            return subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)

    return begin


@pytest.fixture(scope="module")
def whole(home: Path, start: Callable[..., subprocess.Popen]) -> Path:
    """What a run without Ray makes of them."""
    code, summary = ended(start("whole"))
    assert (code, summary["counts"]) == (cli.FAILED, {"cloaked": FACES, "no_face": 1, "skipped": 1, "failed": 1})
    return home / "whole"


def ended(process: subprocess.Popen) -> tuple[int, dict]:
    """Exit code and the last line of stdout as JSON."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, json.loads(said.splitlines()[-1])


def cloaked(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def rows(out: Path) -> list[Row]:
    with Manifest(out) as manifest:
        return list(manifest.rows())


def assert_alike(rows: list[Row], expected: list[Row]) -> None:
    """The same in all but the files' own stamps and the last digits of shifts.

    Those depend on which faces shared a batch, here as elsewhere.
    """
    assert [replace(row, faces=[], stamp="", state="") for row in rows] == [
        replace(row, faces=[], stamp="", state="") for row in expected
    ]
    for row, twin in zip(rows, expected, strict=True):
        for face, same in zip(row.faces, twin.faces, strict=True):
            assert face | {"shift": None} == same | {"shift": None}
            assert face["shift"] == pytest.approx(same["shift"], rel=1e-4)


def first_file(out: Path, process: subprocess.Popen) -> None:
    """Waits until the first photo is written."""
    deadline = time.monotonic() + 240
    while not list(out.glob("*.png")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def descendants(ancestor: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "status").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = int(status.split("PPid:")[1].split()[0])
        commands[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: commands[pid] for pid in below - {ancestor}}


def test_a_worker_killed_in_the_middle_loses_nothing_and_the_files_are_those_of_a_run_without_ray(
    home: Path, start: Callable[..., subprocess.Popen], whole: Path
) -> None:
    out = home / "workers"
    process = start("workers", *RAY)
    first_file(out, process)
    workers = [pid for pid, command in descendants(process.pid).items() if "_Cloaker" in command]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert len(list(out.glob("*.png"))) < FACES, "nothing was left to do"
    code, summary = ended(process)
    assert (code, summary["counts"]) == (cli.FAILED, {"cloaked": FACES, "no_face": 1, "skipped": 1, "failed": 1})
    assert summary["seconds"]["solve"] > 0
    assert cloaked(out) == cloaked(whole)
    assert_alike(rows(out), rows(whole))
    assert not list((out / ".cloak").glob("*.part"))
    report = (out / ".cloak" / "report.html").read_text()
    assert all(f"{index:02}.png" in report for index in range(FACES))
    assert "wall.png" in report
    assert not list((out / ".cloak").glob("*.spool"))
    for arguments in (RAY, []):
        code, summary = ended(start("workers", *arguments))
        assert (code, sum(summary["counts"].values())) == (cli.FAILED, 0)
        assert summary["earlier"] == {"cloaked": FACES, "no_face": 1, "skipped": 1, "failed": 1}


def test_a_run_without_ray_goes_on_where_one_with_ray_was_killed(
    home: Path, start: Callable[..., subprocess.Popen], whole: Path
) -> None:
    out = home / "driver"
    process = start("driver", *RAY)
    first_file(out, process)
    workers = [pid for pid, command in descendants(process.pid).items() if "_Cloaker" in command]
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any((Path("/proc") / str(pid)).exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlived the process that started them"
        time.sleep(0.1)
    assert len(list(out.glob("*.png"))) < FACES, "nothing was left to resume"
    code, summary = ended(start("driver"))
    assert code == cli.FAILED
    assert 0 < summary["counts"]["cloaked"] <= FACES
    assert cloaked(out) == cloaked(whole)
    assert_alike(rows(out), rows(whole))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runner", "ray"], "needs the extra \"ray\": pip install 'fawkes-engine[ray]'"),
        (["--ray-workers", "2"], "--ray-workers is for --runner ray"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    command = ["run", str(home / "photos"), "--out", str(tmp_path / "out"), *arguments]
    assert cli.main(command) == cli.USAGE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_worker_refuses_what_would_come_out_otherwise(tmp_path: Path) -> None:
    recipe = Recipe()
    settings = fingerprint(recipe, Detection(), Output())
    orders = ray_runner.Orders(recipe, Detection(), (), 2, 99, None, tmp_path, Options(), settings, Path.cwd())
    with pytest.raises(ValueError, match="file system that all workers share"):
        orders.here()
    with pytest.raises(ValueError, match="file system that all workers share"):
        replace(orders, folder=tmp_path / "gone").here()
    (tmp_path / ".cloak").mkdir()
    with pytest.raises(ValueError, match="other weights"):
        replace(orders, settings=settings.replace("weights", "others")).here()
    with pytest.raises(ValueError, match="devices must be"):
        orders.here()


def test_each_worker_has_a_gpu_or_else_a_machine() -> None:
    def node(**resources: float) -> dict:
        return {"Alive": True, "Resources": {"memory": 1.0, **resources}}

    head, plain, large = node(), node(CPU=8.0), node(CPU=8.0, GPU=4.0)
    gone = {"Alive": False, "Resources": {"CPU": 8.0}}
    assert ray_runner._shares([head, plain, plain, gone], None, None) == (2, {"num_cpus": 1})
    assert ray_runner._shares([plain], 5, None) == (5, {"num_cpus": 1})
    assert ray_runner._shares([plain, large, large], None, None) == (8, {"num_gpus": 1})
    assert ray_runner._shares([large, large], None, 4) == (2, {"num_gpus": 4})
    assert ray_runner._shares([node(CPU=8.0, TPU=4.0)], None, None) == (1, {"resources": {"TPU": 4}})
    with pytest.raises(InputError, match="devices must be 1 to 4"):
        ray_runner._shares([large], None, 5)
