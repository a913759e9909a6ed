"""`cloak bench` with a tiny network: every section runs, its figures agree, and wrong arguments are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
import tiny_cloak
from PIL import Image

from engine import Recipe, cli
from engine.bench import bench, compiling, plan, samples, solving, stepping, tables
from engine.bulk.inputs import InputError
from engine.extractors import card, load
from engine.extractors.card import gflops

SETTINGS = ["--extractors", "tiny", "--steps", "4", "--batches", "2", "--devices", "1", "--faces", "3"]


@pytest.fixture(autouse=True, scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, quick_compiles: None) -> Iterator[None]:
    del quick_compiles
    tiny_cloak.provide(tmp_path_factory.mktemp("weights") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solving, "GOALS", (0.01, 1.9))
        yield


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, list[str]]:
    """Exit code, the last line of stdout as JSON, the lines before it."""
    code = cli.main(["bench", *map(str, arguments), *SETTINGS, "--repeats", "2"])
    *lines, last = capsys.readouterr().out.splitlines()
    return code, json.loads(last), lines


def assert_speed(row: dict) -> None:
    assert row["faces"] == 3
    assert row["batch"] == 2
    assert row["faces_per_s"] * row["s_per_face"] == pytest.approx(1, rel=1e-4)
    assert row["faces_per_s"] * row["seconds"] == pytest.approx(row["faces"], rel=1e-4)
    assert row["faces_per_s_per_device"] * row["devices"] == pytest.approx(row["faces_per_s"], rel=1e-4)
    assert 0 < row["occupancy"] <= 1
    assert row["compiled"] == 0
    assert 0.001 < row["dssim_median"] <= row["dssim_max"] <= row["rho"] == 0.007
    assert 0 < row["shift"]["tiny"] < 2


def test_each_section_of_faces_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, measure = [], compiling._needed
    monkeypatch.setattr(compiling, "_needed", lambda *arguments: needed.append(measure(*arguments)) or needed[-1])
    code, results, lines = call("--out", tmp_path / "bench.json", capsys=capsys)
    assert code == cli.OK
    assert json.loads((tmp_path / "bench.json").read_text()) == results
    sections = results["sections"]
    assert [*sections] == ["peak", "compile", "step", "solve", "goal"], "synthetic faces are not in files"
    assert results["settings"]["synthetic"]
    assert "synthetic" in "\n".join(lines)
    assert results["machine"]["platform"] == "cpu"
    assert results["max_rss_mb"] > 100
    for name, rows in sections.items():
        (start,) = [index for index, line in enumerate(lines) if line.startswith(f"{name}: ")]
        assert lines[start + len(rows) + 2 :][:1] in ([""], []), "a line for each row, and one of titles"

    product, copy = sections["peak"]
    assert product["best"] >= product["median"] > 1
    assert copy["best"] >= copy["median"] > 0.1

    *programs, whole = sections["compile"]
    assert {"_pull", "_move", "_embed", "begin"} <= {row["program"] for row in programs}
    assert whole["made"] == whole["from_cache"] == sum(row["made"] for row in programs)
    cold, warm = ([*programs.values()] for programs in needed)
    assert not any(program.loaded for program in cold)
    assert not any(program.compiled for program in warm)
    assert whole["cold_s"] == pytest.approx(sum(program.compile_seconds for program in cold), rel=1e-3)
    assert whole["cold_s"] == pytest.approx(sum(row["cold_s"] for row in programs), rel=1e-3)
    assert whole["warm_s"] == pytest.approx(sum(program.load_seconds for program in warm), rel=1e-3)

    (step,) = sections["step"]
    assert step["quality"] == stepping.NO_QUALITY
    assert 0 < step["step_ms_min"] <= step["step_ms"]
    assert step["step_gflop"] / step["step_ms"] * 1000 == pytest.approx(step["step_gflops"], rel=1e-3)
    assert step["step_gflop"] == pytest.approx(2 * card("tiny")["gflops"], abs=2e-3)
    assert 0 < step["share_of_peak"] == pytest.approx(step["step_gflops"] / product["best"], rel=1e-3)

    (solved,) = sections["solve"]
    assert_speed(solved)
    assert solved["steps"] == 4
    assert solved["occupancy"] == pytest.approx(3 / 4)
    assert 0 < solved["chunk_s"] <= solved["chunk_s_max"] <= solved["seconds"]

    for row, reached in zip(sections["goal"], (1, 0), strict=True):
        assert_speed(row)
        assert row["reached"] == reached
        assert row["steps_median"] == 4
        assert 0 < row["seconds_to_goal"] <= row["seconds"]


def test_photos_from_file_to_file(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut.png", "biden.jpg"):
        with Image.open(photos / name) as image:
            image.convert("RGB").resize((200, 200 * image.height // image.width)).save(folder / f"{name[:-4]}.png")
    (folder / "text.jpg").write_text("no picture")
    code, results, lines = call(folder, "--only", "photos,solve", "--json", capsys=capsys)
    assert (code, lines) == (cli.OK, [])
    assert [*results["sections"]] == ["solve", "photos"]
    assert not results["settings"]["synthetic"]
    assert_speed(results["sections"]["solve"][0])
    (row,) = results["sections"]["photos"]
    assert (row["photos"], row["faces"], row["failed"], row["compiled"]) == (2, 2, 1, 0)
    assert row["photos_per_hour"] == pytest.approx(3600 * row["photos_per_s"], rel=1e-4)
    assert row["photos_per_s"] * row["seconds"]["total"] == pytest.approx(2, rel=1e-4)
    assert 0 < row["dssim_mean"] <= row["dssim_max"] <= row["rho"]
    # The kernel counts the two apart, each in steps of some pages a thread.
    assert 1.02 * row["max_rss_mb"] >= row["host_mb"] > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batches", "0"], "batches must be at least 1"),
        (["--batches", "4,x"], "--batches must be numbers"),
        (["--devices", "99"], "devices must be 1 to"),
        (["--devices", "0"], "devices must be"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--faces", "-1"], "faces must be at least 1"),
        (["--only", "peak,speed"], "--only must be some of peak, compile"),
        (["--only", "photos"], "needs photos"),
        (["--extractors", "none-such"], "none-such"),
        (["--steps", "0"], "steps must be 1 to"),
        (["--out", "no/such/folder/bench.json"], "there is no folder"),
        (["gone.jpg"], "gone.jpg"),
        (["--mode", "lower"], "mode"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *arguments]) == cli.USAGE
    assert words in capsys.readouterr().err.lower()


def test_photos_without_a_face_are_a_usage_error(tmp_path: Path) -> None:
    Image.new("RGB", (90, 90)).save(tmp_path / "wall.png")
    with pytest.raises(InputError, match="no face was found in 1 photos"):
        samples.of_photos([tmp_path])


def test_faces_repeat_with_keys_of_their_own() -> None:
    jobs = samples.synthetic().jobs(2 * samples.TEXTURES, [5, 7])
    assert len({(job.sha256, job.index) for job in jobs}) == len(jobs)
    assert jobs[0].cut is jobs[samples.TEXTURES].cut
    assert [len(target) for target in jobs[0].target] == [5, 7]


def test_batches_are_multiples_of_the_devices() -> None:
    whole = plan.Plan(plan.Settings(Recipe(extractors=("tiny",)), batches=(1, 2, 3), devices=(1, 2)))
    pairs = [(batcher.size, devices) for batcher, devices in whole.batchers()]
    assert pairs == [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2)]


def test_every_section_has_columns_and_operations_are_counted() -> None:
    assert tables.COLUMNS.keys() == bench.SECTIONS.keys()
    # The products of the tiny network: 8x8x8 and 4x4x12 outputs of 4x4 kernels, and the dense layer. XLA leaves out
    # those with the padding.
    products = 2 * (8 * 8 * 8 * 48 + 4 * 4 * 12 * 128 + 192 * 16)
    tiny = load("tiny")
    assert 0.8 * products < 1e9 * gflops(tiny.graphdef, tiny.params, tiny.spec.size) < 1.1 * products


def test_the_compile_cache_is_as_it_was() -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    with compiling._empty_cache():
        assert jax.config.values["jax_compilation_cache_dir"] != before
    assert jax.config.values["jax_compilation_cache_dir"] == before
