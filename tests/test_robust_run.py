"""`cloak train-robust` on synthetic people: every preset, kill -9 and resume, the guard, two processes, the export."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_robust

from engine import cli, extractors
from engine.robust import checkpoints, log, validation
from engine.robust import train as step
from engine.robust.checkpoints import Position
from engine.robust.presets import FAST
from engine.robust.validation import Validation

pytestmark = pytest.mark.usefixtures("quick_compiles")

STEPS, EVERY = 12, 4
SCRIPT = Path(tiny_robust.__file__)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `people`, their aligned `faces`, and the extractor "small" in `engine`, known to the registry."""
    root = tmp_path_factory.mktemp("robust")
    tiny_robust.people(root / "people", root / "faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAWKES_ENGINE_HOME", str(root / "engine"))
        tiny_robust.provide(root / "engine")
        yield root
        sys.modules.pop("engine.extractors.small_network")


def arguments(home: Path, out: Path, *more: str, steps: int = STEPS) -> list[str]:
    values = {
        "--data": str(home / "people"),
        "--cache": str(home / "faces"),
        "--learning-rate": "0.003",
        "--steps": str(steps),
        "--every": str(EVERY),
        "--validation": "4",
        "--batch": "8",
        "--epsilon": "0.0314",
    }
    sizes = [word for option, value in values.items() if option not in more for word in (option, value)]
    return ["train-robust", "small", "--out", str(out), *sizes, *more]


def train(home: Path, out: Path, *more: str, devices: int = 1, **changes: int) -> None:
    assert cli.main(arguments(home, out, "--devices", str(devices), *more, **changes)) == cli.OK


def figures(out: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    clock = {"seconds", "seconds_left", "images_per_second"}
    return [{key: value for key, value in row.items() if key not in clock} for row in log.read(out / "log.jsonl")]


def validations(out: Path) -> list[Validation]:
    return [Validation(**row["validation"]) for row in figures(out) if "validation" in row]


def start(home: Path, *calls: list[str], devices: int) -> subprocess.Popen[bytes]:
    """A process that makes these calls of `cloak`, one after the other."""
    joined = [word for call in calls for word in ("--then", *call)][1:]
    command = [sys.executable, str(SCRIPT), str(home / "engine"), *joined]
    paths = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parent.parent)])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "TINY_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def interrupted(home: Path) -> Path:
    """A training that was killed after a checkpoint, with half a line at the end of its log."""
    out = home / "interrupted"
    process = start(home, arguments(home, out), devices=1)
    deadline = time.monotonic() + 600
    while not any((out / "checkpoints").glob("step-0000000[48]")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 99, "figures"')
    return out


@pytest.fixture(scope="module")
def finished(home: Path, interrupted: Path) -> Path:
    """A training that nothing interrupted. The same process went on with the interrupted one before."""
    assert figures(interrupted)[-1]["step"] < STEPS
    out = home / "finished"
    process = start(home, arguments(home, interrupted), arguments(home, out), devices=1)
    told = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, told
    assert f"step {STEPS} of {STEPS}" in told
    return out


def test_the_network_becomes_more_robust_and_stays_a_recogniser(finished: Path) -> None:
    before, *_, after = validations(finished)
    assert before.cosine == pytest.approx(1, abs=1e-5)
    assert after.shift < before.shift - 0.1
    assert after.robust_margin > before.robust_margin + 0.1
    assert after.accuracy >= 0.75
    assert after.cosine > 0.7
    svg = (finished / "training.svg").read_text()
    assert "<svg" in svg


def test_the_log_has_figures_and_every_checkpoint_a_validation(finished: Path) -> None:
    rows = figures(finished)
    assert [row["step"] for row in rows if "validation" in row] == [0, 4, 8, 12]
    learned = [row for row in rows if "figures" in row]
    assert learned[-1]["figures"]["loss"] < learned[0]["figures"]["loss"]
    timed = [row for row in log.read(finished / "log.jsonl") if "figures" in row]
    assert all(row["images_per_second"] > 0 and row["seconds_left"] >= 0 for row in timed)
    *_, before, last = [row for row in log.read(finished / "log.jsonl") if "validation" in row]
    assert timed[-1]["step"] == last["step"] == STEPS
    assert timed[-1]["seconds_left"] == pytest.approx(before["seconds"], abs=1e-3)  # the last validation is to come


def test_the_best_network_is_an_extractor_that_the_registry_loads(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvases = np.stack([tiny_robust.face(n, 5) for n in range(4)]).astype(np.float32) / 255
    clean = np.asarray(extractors.embed_batch(extractors.load("small"), canvases))
    monkeypatch.setenv("FAWKES_ENGINE_HOME", str(finished))
    card = extractors.card("small-robust")
    assert card["robust"] is True
    assert card["licence"] == "none"
    best = max(validations(finished)[1:], key=lambda scores: scores.score)
    assert card["training"]["robust_margin"] == pytest.approx(best.robust_margin, abs=1e-4)
    assert card["command"].startswith("cloak train-robust small --data DIR --out DIR --preset fast --steps 12")
    assert str(finished.parent) not in (finished / "extractors" / "small-robust" / "card.toml").read_text()
    cosine = (np.asarray(extractors.embed_batch(extractors.load("small-robust"), canvases)) * clean).sum(axis=1)
    assert (cosine > 0.5).all()
    assert (cosine < 0.9999).all()


@pytest.mark.parametrize("preset", ["paper", "pgd", "free"])
def test_every_preset_runs(preset: str, home: Path, tmp_path: Path) -> None:
    more = ["--attack-steps", "2"] if preset in ("paper", "pgd") else []
    train(home, tmp_path / "out", "--preset", preset, *more, steps=4)
    rows = figures(tmp_path / "out")
    loss = "classification" if preset == "paper" else "distillation"
    assert np.isfinite([row["figures"][loss] for row in rows if "figures" in row]).all()
    assert (tmp_path / "out" / "extractors" / "small-robust" / "card.toml").exists()


def test_a_killed_training_goes_on_as_if_nothing_had_happened(interrupted: Path, finished: Path) -> None:
    assert figures(interrupted) == figures(finished)
    cards = [(path / "extractors" / "small-robust" / "card.toml").read_text() for path in (interrupted, finished)]
    assert cards[0] == cards[1]  # with the SHA-256 of the weights
    states = [checkpoints.restore(path / "checkpoints", STEPS, _like()) for path in (interrupted, finished)]
    assert states[0][1] == states[1][1]
    jax.tree.map(np.testing.assert_array_equal, states[0][0], states[1][0])


def test_a_finished_training_is_told_again_and_another_one_refused(
    home: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "log.jsonl").read_text()
    capsys.readouterr()
    train(home, finished, "--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == STEPS
    assert summary["best"]["shift"] < summary["before"]["shift"]
    assert (finished / "log.jsonl").read_text() == before
    assert cli.main(arguments(home, finished, "--seed", "1", "--devices", "1")) == cli.USAGE
    assert "another faces, seed; give another --out, or --restart" in capsys.readouterr().err


def test_other_photos_are_another_training_and_the_same_in_another_cache_are_not(
    home: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "log.jsonl").read_text()
    tiny_robust.people(tmp_path / "same", tmp_path / "turned", backwards=True)
    train(home, finished, "--cache", str(tmp_path / "turned"))
    assert (finished / "log.jsonl").read_text() == before
    tiny_robust.people(tmp_path / "others", tmp_path / "faces", first=50)
    (tmp_path / "people.json").write_text(json.dumps({"users": {"person-03": {}}, "others": {}, "public": {}}))
    others = ["--data", str(tmp_path / "others"), "--cache", str(tmp_path / "faces")]
    for more in (others, ["--without", str(tmp_path / "people.json")]):
        capsys.readouterr()
        assert cli.main(arguments(home, finished, *more)) == cli.USAGE
        assert "another faces; give another --out, or --restart" in capsys.readouterr().err


def test_a_collapse_goes_back_to_the_last_checkpoint(home: Path, tmp_path: Path, monkeypatch) -> None:
    script = [(1.9, 0.1), (0.6, 0.9), (1.5, 0.2), (0.6, 0.9)]
    seen: list[dict[str, np.ndarray]] = []

    def scripted(attack: Any, network: Any, held: Any) -> Validation:
        seen.append({name: np.array(leaf["kernel"]) for name, leaf in network.params.items()})
        shift, robust = script[len(seen) - 1]
        return Validation(1.0, 0.5, robust, robust - 0.5, 0.9, shift)

    monkeypatch.setattr(validation, "measure", scripted)
    out = tmp_path / "out"
    train(home, out)
    assert [row.get("collapsed") for row in figures(out) if "validation" in row] == [None, False, True, False]
    state, position = checkpoints.restore(out / "checkpoints", 8, _like())
    np.testing.assert_array_equal(state.trained["network/stem/kernel"], seen[1]["stem"])
    assert np.abs(seen[2]["stem"] - seen[1]["stem"]).max() > 0
    assert float(state.shrink) == 0.5
    assert position.history.collapses == 1
    assert position.best_step == 4


def test_a_training_that_is_stopped_before_its_second_checkpoint_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, out = checkpoints.save, tmp_path / "out"

    def first_only(folder: Path, state: Any, position: Position) -> None:
        if position.step:
            raise KeyboardInterrupt
        save(folder, state, position)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", first_only)
        assert cli.main(arguments(home, out)) == cli.INTERRUPTED
    assert checkpoints.steps(out / "checkpoints") == [0]
    tiny_robust.people(tmp_path / "same", tmp_path / "turned", backwards=True)
    train(home, out, "--cache", str(tmp_path / "turned"))  # the order of a store's rows is nothing to a training
    train(home, tmp_path / "straight")
    for seen, straight in zip(validations(out), validations(tmp_path / "straight"), strict=True):
        assert seen == pytest.approx(straight, rel=1e-4)


def test_a_restart_leaves_nothing_of_the_training_before(
    home: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    shutil.copytree(home / "engine" / "extractors" / "small", out / "extractors" / "mine")
    (out / "notes.txt").touch()
    save = checkpoints.save

    def first_only(folder: Path, state: Any, position: Position) -> None:
        save(folder, state, position)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", first_only)
        assert cli.main(arguments(home, out, "--restart", "--seed", "1")) == cli.INTERRUPTED
        assert (
            f"The same command without --restart goes on from the last checkpoint in {out}." in capsys.readouterr().err
        )
    assert [path.name for path in (out / "extractors").iterdir()] == ["mine"]
    assert {path.name for path in out.iterdir()} == {
        *("checkpoints", "extractors", "lock", "log.jsonl", "notes.txt", "training.json")
    }
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", first_only)
        assert cli.main(arguments(home, out, "--seed", "1")) == cli.INTERRUPTED
        assert f"The same command goes on from the last checkpoint in {out}." in capsys.readouterr().err
    assert checkpoints.steps(out / "checkpoints") == [0, 4]
    assert (out / "extractors" / "small-robust").exists()


def test_a_restart_keeps_what_no_training_made_and_the_network_that_it_starts_from(
    home: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", interrupt)
    mine = shutil.copytree(home / "engine" / "extractors" / "small", tmp_path / "mine" / "extractors" / "small-robust")
    assert cli.main(arguments(home, tmp_path / "mine", "--restart")) == cli.INTERRUPTED
    assert (mine / "card.toml").exists()
    out = shutil.copytree(finished, tmp_path / "further")
    monkeypatch.setenv("FAWKES_ENGINE_HOME", str(out))
    words = arguments(home, out, "--restart", "--name", "small-robust")
    assert cli.main([words[0], "small-robust", *words[2:]]) == cli.INTERRUPTED
    assert checkpoints.steps(out / "checkpoints") == []
    assert (out / "extractors" / "small-robust" / "card.toml").exists()


def test_settings_that_cannot_be_read_are_named(finished: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = finished / "training.json"
    whole = settings.read_bytes()
    for damage in (whole[:20], b"[1]", b"\xff"):
        settings.write_bytes(damage)
        assert cli.main(arguments(home, finished)) == cli.USAGE
        assert f"{settings} cannot be read" in capsys.readouterr().err
    settings.write_bytes(whole)


def _like() -> Any:
    return step.init(FAST.training(STEPS), extractors.load("small"))


def test_two_processes_are_one_with_two_devices(home: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    running = [start(home, arguments(home, tmp_path / "two", *together, str(n)), devices=1) for n in range(2)]
    told = [process.communicate(timeout=600)[0].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(told)
    train(home, tmp_path / "one", devices=2)
    for double, single in zip(figures(tmp_path / "two"), figures(tmp_path / "one"), strict=True):
        kind = "figures" if "figures" in double else "validation"
        assert double["step"] == single["step"]
        assert double[kind] == pytest.approx(single[kind], abs=2e-3)


def test_a_dry_run_tells_the_cost_and_writes_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(home, tmp_path / "out", "--dry-run", "--json", "--devices", "1")) == cli.OK
    cost = json.loads(capsys.readouterr().out)
    assert (cost["photos"], cost["people"], cost["steps"], cost["faces"], cost["passes"]) == (42, 14, STEPS, 8, 2)
    assert cost["total"] == pytest.approx(STEPS * cost["seconds"] + 4 * cost["validation"])
    assert cost["seconds"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("every", "validations"), [(12, 2), (5, 4), (11, 3), (100, 2)])
def test_a_dry_run_counts_the_validations_that_a_training_makes(
    every: int, validations: int, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(home, tmp_path, "--every", str(every), "--dry-run", "--json", "--devices", "1")) == cli.OK
    cost = json.loads(capsys.readouterr().out)
    assert cost["total"] == pytest.approx(STEPS * cost["seconds"] + validations * cost["validation"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--preset", "slow"], "must be one of paper, pgd, fast, free; got 'slow'"),
        (["--losses", "kindness=1"], "with the names classification, consistency, distillation, clean"),
        (["--losses", "distillation=nan"], "weights of losses must be finite"),
        (["--learning-rate", "inf"], "learning_rate must be positive and finite"),
        (["--name", "sface"], "comes with a package; choose another"),
        (["--validation", "40"], "too few to hold out 40"),
        (["--validation", "40", "--dry-run"], "too few to hold out 40"),
        (["--batch", "6", "--devices", "4"], "cannot be split over 4 devices"),
        (["--norm", "dssim"], "needs an epsilon and a step size"),
        (["--frozen", "neck"], "no parameter lies below 'neck'"),
        (["--without", "nobody.json"], "nobody.json is no list of people"),
        (["--coordinator", "here"], "must be HOST:PORT"),
        (["--processes", "2"], "--processes and --process need the --coordinator, HOST:PORT of process 0"),
        (["--process", "1", "--dry-run"], "--processes and --process need the --coordinator"),
        (["--seed", "-1"], "--seed must be 0 or more; got -1"),
        (["--seed", "-1", "--dry-run"], "--seed must be 0 or more; got -1"),
    ],
)
def test_what_cannot_be_done_is_exit_2(
    more: list[str], message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments(home, tmp_path / "out", *more)) == cli.USAGE
    assert message in capsys.readouterr().err


def test_an_output_that_is_a_file_is_exit_2(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.main(arguments(home, out)) == cli.USAGE
        assert f"{out} can be no folder" in capsys.readouterr().err


def test_the_presets_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-robust", "--presets"]) == cli.OK
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in ("paper", "pgd", "fast", "free"))
    assert cli.main(["train-robust", "small"]) == cli.USAGE
