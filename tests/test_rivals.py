"""The files that the rivals of the benchmark read and write; the rivals too where FAWKES_RIVALS names their folder."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_keras
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from engine.cloak.objective import window_weights
from engine.config import CANVAS
from engine.extractors import crop, embed_batch, load

RIVALS = Path(__file__).resolve().parent.parent / "benchmarks" / "rivals"
sys.path.insert(0, str(RIVALS))

import fawkes_rival  # noqa: E402
import problem as maker  # noqa: E402
import problem_file  # noqa: E402

EXTRACTORS = ("mobilefacenet-192-robust:3", "web-incept-robust")
NAMES = ("mobilefacenet-192-robust", "web-incept-robust")


def faces() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two canvases, masks and regions, the second region smaller."""
    canvases = np.stack([tiny.texture(seed, CANVAS, CANVAS) for seed in (0, 1)])
    region = np.zeros((2, CANVAS, CANVAS), bool)
    region[0, 20:150, 20:150] = region[1, 60:120, 50:130] = True
    return canvases, region[..., None].astype(np.float32), region


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rivals") / "problem"
    maker.write(path, EXTRACTORS, *faces(), grey=np.array([False, True]), goals=np.array([0.5, 0.0]), rho=0.01)
    return path


@pytest.fixture(scope="module")
def problem(path: Path) -> problem_file.Problem:
    return problem_file.read(path)


def test_problem_holds_the_faces_as_the_engine_has_them(problem: problem_file.Problem) -> None:
    canvases, masks, regions = faces()
    np.testing.assert_array_equal(problem.canvas, canvases)
    np.testing.assert_array_equal(problem.mask, masks)
    for windows, region in zip(problem.windows, regions, strict=True):
        np.testing.assert_array_equal(windows, window_weights(jnp.asarray(region)))
    assert problem.grey.tolist() == [False, True]
    assert problem.goals.tolist() == [0.5, 0.0]
    assert problem.rho == 0.01
    assert problem.reference == {}


def test_first_iterate_is_the_photo_and_a_little_noise_that_differs_by_face(problem: problem_file.Problem) -> None:
    noise = (np.tanh(problem.start) + 1) / 2 - problem.canvas
    assert 0 < np.abs(noise).max() < 0.05
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_problem_of_some_faces(problem: problem_file.Problem) -> None:
    single = problem.faces(slice(1, 2))
    np.testing.assert_array_equal(single.start, problem.start[1:])
    np.testing.assert_array_equal(problem.faces(np.array([0, 1, 0])).canvas[2], problem.canvas[0])


@pytest.mark.parametrize("name", NAMES)
def test_network_sees_what_ours_sees(problem: problem_file.Problem, name: str) -> None:
    network, spec = problem.network(name), load(name).spec
    assert (network.rows is None) == (spec.size == spec.window[1] - spec.window[0])
    window = jnp.array([spec.window, spec.window], jnp.float32)
    ours = np.stack([crop(jnp.asarray(canvas), size=spec.size, window_yx=window) for canvas in problem.canvas])
    rivals_crops = problem_file.crops(network, problem.canvas)
    np.testing.assert_allclose(rivals_crops, ours, atol=1e-6)
    scaled = (ours.astype(np.float64) * 255 - np.array(spec.mean)) / spec.scale
    np.testing.assert_allclose(problem_file.inputs(network, problem.canvas), scaled, atol=1e-4)


def test_shares_sum_to_one_in_the_ratio_of_the_weights(problem: problem_file.Problem) -> None:
    assert [network.share for network in problem.networks] == [0.75, 0.25]


@pytest.mark.parametrize("name", NAMES)
def test_rival_takes_every_weight_once(problem: problem_file.Problem, name: str) -> None:
    network = problem.network(name)
    assert {array.dtype for array in network.weights.values()} == {np.dtype(np.float32)}
    fawkes_rival.build(fake_keras, network)
    last = max(network.weights)
    with pytest.raises(ValueError, match="no weights"):
        fawkes_rival.build(
            fake_keras, network._replace(weights={k: v for k, v in network.weights.items() if k != last})
        )
    with pytest.raises(ValueError, match="does not have: odd"):
        fawkes_rival.build(fake_keras, network._replace(weights=network.weights | {"odd": np.zeros(1)}))
    with pytest.raises(ValueError, match="is a vit"):
        fawkes_rival.build(fake_keras, network._replace(network="vit"))


@pytest.mark.parametrize("name", NAMES)
def test_rival_has_the_network_that_ours_is(
    problem: problem_file.Problem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fawkes_rival, "published", lambda: (SimpleNamespace(keras=fake_keras), None, None))
    ours = {f"embedding/{name}": np.asarray(embed_batch(load(name), problem.canvas))}
    single = problem._replace(networks=(problem.network(name),), reference=ours)
    assert fawkes_rival.check_command(single, argparse.Namespace())["passed"]


def test_unknown_extractor_is_named(problem: problem_file.Problem) -> None:
    assert problem.network(None).name == NAMES[0]
    with pytest.raises(ValueError, match="web-incept-robust"):
        problem.network("other")


def test_recorder_reads_the_loop_of_every_batch() -> None:
    recorder = fawkes_rival.Recorder()

    def loop(dist_raw: np.ndarray, internal_dist: np.ndarray) -> None:
        bar = recorder(2, width=30)
        for step in (1, 2):
            bar.update(step)

    class Eager(np.ndarray):
        def numpy(self) -> np.ndarray:
            return np.asarray(self)

    for batch in ([0.1, 0.2], [0.3]):
        loop(np.array(batch).view(Eager), np.array(batch).view(Eager) * 2)
    arrays = recorder.arrays()
    np.testing.assert_allclose(arrays["step_dssim"], [[0.1, 0.2, 0.3]] * 2)
    np.testing.assert_allclose(arrays["step_distance"], [[0.2, 0.4, 0.6]] * 2)
    assert arrays["step_seconds"].shape == (2, 3)
    assert arrays["step_seconds"].min() > 0


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32"):
        maker.write(tmp_path / "problem", ["web-incept:bfloat16"], *faces())


def test_result_round_trip(tmp_path: Path) -> None:
    delta = np.arange(6, dtype=np.float32)
    problem_file.write_result(tmp_path / "result", {"seconds": 1.5, "reached": [1, 0]}, delta=delta)
    summary, arrays = problem_file.read_result(tmp_path / "result")
    assert summary == {"seconds": 1.5, "reached": [1, 0]}
    np.testing.assert_array_equal(arrays["delta"], delta)


def test_no_pickle_is_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle can hold: odd"):
        problem_file.write_result(tmp_path / "result", {}, odd=np.array([{}]))
    assert not (tmp_path / "result").exists()
    np.savez(tmp_path / "odd.npz", extractors=np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle"):
        problem_file.read(tmp_path / "odd.npz")


def test_build_script_is_a_script() -> None:
    subprocess.run(["sh", "-n", str(RIVALS / "build")], check=True)
    assert os.access(RIVALS / "build", os.X_OK)


@pytest.mark.slow
@pytest.mark.parametrize(("rival", "environment"), [("torch_rival", "torch"), ("fawkes_rival", "tensorflow")])
def test_rival_agrees_with_our_engine(rival: str, environment: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = os.environ.get("FAWKES_RIVALS")
    if not folder:
        pytest.skip("FAWKES_RIVALS does not name the folder that benchmarks/rivals/build made")
    python = Path(folder) / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no {python}; benchmarks/rivals/build makes it")
    path = tmp_path_factory.getbasetemp() / "checked"
    if not path.exists():
        maker.write(path, EXTRACTORS[:1], *faces(), reference=True)
    done = subprocess.run([python, RIVALS / f"{rival}.py", "check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["passed"]
