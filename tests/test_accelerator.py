"""benchmarks/accelerator.py from end to end with tiny sizes: prepare, every slice, a stop in between, judge."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest
import tiny_robust
from PIL import Image, ImageEnhance

from engine.extractors import load

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def accelerator(quick_compiles: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The script, and the tiny network of its dry run."""
    del quick_compiles
    pytest.importorskip("grain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAWKES_ENGINE_HOME", "")
        tiny_robust.provide(tmp_path_factory.mktemp("home"))
        patch.syspath_prepend(BENCHMARKS)
        import accelerator

        yield accelerator


def people(folder: Path, photos: Path) -> Path:
    """Five people with two photos each, which differ in their light alone."""
    for number in range(5):
        place = folder / f"person {number}"
        place.mkdir(parents=True)
        for shot in range(2):
            with Image.open(photos / ("obama.jpg" if number % 2 else "biden.jpg")) as image:
                image = image.convert("RGB")
            image.thumbnail((250, 250))
            ImageEnhance.Brightness(image).enhance(0.7 + 0.06 * (2 * number + shot)).save(place / f"{shot}.jpg")
    return folder


def test_all_slices_run_dry(
    accelerator: ModuleType,
    tmp_path: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faces = people(tmp_path / "faces", photos)
    bring, work, out = (tmp_path / name for name in ("bring", "work", "out"))
    folders = ["--bring", str(bring), "--work", str(work), "--out", str(out), "--dry"]
    with pytest.raises(SystemExit):
        accelerator.main(["check", *folders])
    assert "run `prepare` first" in capsys.readouterr().err

    assert accelerator.main(["prepare", str(faces), *folders]) == 0
    assert "MiB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        accelerator.main(["check,benches", *folders])
    assert "got benches" in capsys.readouterr().err
    assert accelerator.main(["check", *folders, "--minutes", "0"]) == 3, "no time is left for any part"
    assert "3 parts are left, the next is machine" in capsys.readouterr().out

    with monkeypatch.context() as patch:
        stopped = stops_after_one_step(accelerator, patch)
        assert accelerator.main(["train", *folders, "--minutes", "0.01"]) == 3
        assert json.loads(capsys.readouterr().out)["status"] == "cut"
        assert stopped.wait(300)

    assert accelerator.main(["all", *folders]) == 0, capsys.readouterr().out
    rows = {row["part"]: row for row in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    listed = accelerator.slices(accelerator.DRY)
    assert set(rows) == {part.name for parts in listed.values() for part in parts}
    assert {name: {row["slice"] for row in rows.values()} >= {name} for name in listed} == dict.fromkeys(listed, True)
    assert {row["status"] for row in rows.values()} == {"done"}

    exact, rough = rows["parity highest"], rows["parity bfloat16"]
    assert min(exact["cosine_of_cloaks"]) > 0.999, "the same machine made the reference"
    assert exact["dssim_max"] == pytest.approx(exact["dssim_max_on_cpu"], rel=1e-3)
    assert rough["shift"]["small"] == pytest.approx(exact["shift"]["small"], rel=0.1)
    solved = rows["bench 2 bfloat16"]["sections"]["solve"][0]
    assert solved["compiled"] == 0
    assert solved["dssim_max"] <= solved["rho"]
    assert rows["profile 2"]["milliseconds"]
    assert rows["train small"]["summary"]["steps"] == 2
    logged = map(json.loads, (work / "trained" / "small" / "log.jsonl").read_text().splitlines())
    assert [row["step"] for row in logged if "figures" in row] == [1, 2], "the cut training went on"
    assert rows["machine"]["networks"] == [tiny_robust.NAME]
    assert rows["machine"]["versions"]["jax"] == jax.__version__
    assert rows["pipeline 300"]["faces"] == 2
    assert rows["pipeline 300"]["failed"] == 0

    capsys.readouterr()
    assert accelerator.main(["all", *folders]) == 0, "all is done: nothing runs again"
    assert capsys.readouterr().out == ""
    assert {path.name for path in out.iterdir()} == {"results.jsonl", "deltas-0.npz", "small-robust.zip"}
    assert max(path.stat().st_size for path in out.iterdir()) <= accelerator.carried.FILE
    with monkeypatch.context() as patch, zipfile.ZipFile(out / "small-robust.zip") as weights:
        weights.extractall(tmp_path / "home" / "extractors")
        patch.setenv("FAWKES_ENGINE_HOME", str(tmp_path / "home"))
        assert load("small-robust").dim == tiny_robust.DIM
    assert accelerator.main(["judge", str(out), *folders, "--judges", "small,mobileface"]) == 0
    judged = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["recipe"] for row in judged] == list(accelerator.DRY.recipes)
    networks = judged[0]["networks"]
    assert {name: figures["part"] for name, figures in networks.items()} == {"small": "in", "mobileface": "held-out"}
    assert networks["mobileface"]["shift"] == judged[0]["held_out"] > 0
    told = rows[f"recipe {accelerator.DRY.recipes[0]}"]
    assert networks["small"]["shift"] == pytest.approx(told["shift"]["small"], rel=0.1), (
        "what came back is what was made"
    )


def stops_after_one_step(accelerator: ModuleType, patch: pytest.MonkeyPatch) -> threading.Event:
    """Have the next training die once its first step is kept; the event says that it did."""
    train, ended = accelerator.parts.training.train, threading.Event()

    def dies(plan: Any, *, restart: bool, report: Callable[[str], None]) -> None:
        def told(line: str) -> None:
            report(line)
            if (plan.out / "checkpoints" / "1").exists():
                raise RuntimeError("the machine is taken away")

        try:
            train(plan, restart=restart, report=told)
        finally:
            ended.set()

    patch.setattr(accelerator.parts.training, "train", dies)
    return ended


def test_a_tree_for_training_alone_has_no_reference(
    accelerator: ModuleType, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the default recipe's networks is in it, so there is nothing to make a cloak with."""
    sizes = replace(accelerator.DRY, networks=("away:2",))
    monkeypatch.setattr(accelerator.parts, "is_installed", lambda name: name != "away")
    accelerator.prepare(people(tmp_path / "faces", photos), BENCHMARKS / "lfw-people.json", tmp_path / "bring", sizes)
    assert {path.name for path in (tmp_path / "bring").iterdir()} == {"faces.zip"}


def test_what_comes_back_is_in_files_that_are_not_too_large(
    accelerator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = accelerator.carried
    monkeypatch.setattr(carried, "FILE", 1000)
    monkeypatch.setattr(carried, "ALL", 5000)
    carried.put(tmp_path, "a.zip", b"x" * 2500)
    assert sorted(path.stat().st_size for path in tmp_path.iterdir()) == [500, 1000, 1000]
    carried.put(tmp_path, "a.zip", b"y" * 700)  # the newer one takes its place
    assert [(path.name, path.read_bytes()[:1]) for path in tmp_path.iterdir()] == [("a.zip", b"y")]
    with pytest.raises(carried.FullError, match=r"no room for b\.zip"):
        carried.put(tmp_path, "b.zip", b"z" * 4500)
    for number in range(carried.FILES - 1):
        carried.put(tmp_path, f"{number}", b"1")
    with pytest.raises(carried.FullError, match="give an empty --out"):
        carried.put(tmp_path, "one more", b"1")


def test_a_part_that_fails_or_hangs_ends_alone(
    accelerator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "parts.py"
    script.write_text(
        "import json, os, sys, time\n"
        "if 'bad' in sys.argv: sys.exit('the driver is too old')\n"
        "if 'slow' in sys.argv: print('autotuning', file=sys.stderr, flush=True); time.sleep(60)\n"
        "if 'path' in sys.argv: print(json.dumps({'path': os.environ['PYTHONPATH']})); sys.exit()\n"
        "print('noise'); print('{\"unfinished\": true, \"found\": 1}' if 'again' in sys.argv else '{\"found\": 1}')\n"
    )
    monkeypatch.setattr(accelerator, "HERE", script)
    places = accelerator.Places(tmp_path, tmp_path, tmp_path)
    status, outcome = accelerator._apart(accelerator.Part("bad"), places, 20)
    assert (status, outcome["code"]) == ("failed", 1)
    assert "the driver is too old" in outcome["said"]
    assert accelerator._apart(accelerator.Part("good"), places, 20) == ("done", {"found": 1})
    assert accelerator._apart(accelerator.Part("again"), places, 20) == ("cut", {"found": 1})
    monkeypatch.setenv("PYTHONPATH", "wheels")
    _, outcome = accelerator._apart(accelerator.Part("path"), places, 20)
    assert outcome["path"].split(os.pathsep)[1:] == [os.path.abspath("wheels")], "packages that were brought are found"
    assert accelerator._apart(accelerator.Part("slow"), places, 3) == ("cut", {"said": "autotuning"})
    hangs = accelerator.Part("slow", seconds=1)
    assert accelerator._apart(hangs, places, 60) == ("hung", {"said": "autotuning"}), "there is time for the next part"
    assert "the driver is too old" in (tmp_path / "log.txt").read_text()
    results = accelerator.Results(places)
    for part, status in (("bad", "failed"), ("good", "done"), ("slow", "cut"), ("endless", "hung")):
        results.add({"part": part, "status": status})
    assert results.ended() == {"bad", "good", "endless"}
