"""engine.compiles: a compile is seen, one from the cache told apart, and after the first photo there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_cloak
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from engine import Cloaker, Recipe, cli, compiles

SIZES = (170, 233, 400)


@pytest.fixture(scope="module")
def cloaker(tmp_path_factory: pytest.TempPathFactory) -> Cloaker:
    tiny_cloak.provide(tmp_path_factory.mktemp("weights") / "tiny")
    return Cloaker(recipe=Recipe(extractors=("tiny",), steps=3, objective="away"), batch=4, devices=1, workers=2)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[None]:
    """An empty persistent cache that keeps everything."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path / "cache"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: jax.config.values[name] for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def image(path: Path, side: int) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("RGB").resize((side, side * photo.height // photo.width))


def test_after_the_first_photo_nothing_is_compiled(cloaker: Cloaker, photos: Path) -> None:
    """Photos of many sizes, without a face, with one, with more than there are slots, and a grey one."""
    with compiles.record() as first:
        cloaker.cloak(image(photos / "astronaut.png", 200))
    assert {"_embed", "_pull"} <= set(first.made)
    names = ["astronaut.png", "obama.jpg", "biden.jpg"]
    several = [image(photos / name, side) for name in names for side in SIZES]
    crowd = Image.new("RGB", (6 * 256, 256))
    for index in range(6):
        crowd.paste(image(photos / names[index % 3], 256).crop((0, 0, 256, 256)), (256 * index, 0))
    wall = np.full((90, 120, 3), 77, np.uint8)
    with compiles.record() as later:
        results = cloaker.cloak([*several, crowd, wall, several[0].convert("L")])
    counts = [len(result.faces) for result in results]
    assert min(counts[: len(several)]) == 1
    assert counts[-3] > cloaker.batcher.size
    assert counts[-2:] == [0, 1]
    assert later.made == {}
    assert later.as_dict() == {"programs": 0, "seconds": 0, "from_cache": 0, "by_program": {}}


@pytest.mark.usefixtures("cloaker", "quick_compiles")
def test_a_run_tells_what_it_compiled_and_only_if_it_did(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(photos / "astronaut.png", 200).save(tmp_path / "photo.png")

    def run(out: str, *more: str) -> str:
        arguments = [str(tmp_path / "photo.png"), "--out", str(tmp_path / out), "--devices", "1", *more]
        assert cli.main(["run", *arguments, "--extractors", "tiny", "--steps", "2", "--no-report"]) == cli.OK
        return capsys.readouterr().out

    figures = json.loads(run("first", "--json").splitlines()[-1])["compiles"]
    assert figures["programs"] == sum(program["made"] for program in figures["by_program"].values()) >= 5
    assert figures["from_cache"] == sum(program["from_cache"] for program in figures["by_program"].values())
    assert figures["seconds"] == pytest.approx(
        sum(program["seconds"] for program in figures["by_program"].values()), abs=0.02
    )
    assert "Compiling took" not in run("second")
    jax.clear_caches()
    assert "Compiling took" in run("third", "--verbose")
    jax.clear_caches()
    assert "Compiling took" not in run("fourth")


@pytest.mark.usefixtures("cache")
def test_a_compile_is_seen_and_what_the_cache_spares_is_told_apart() -> None:
    def cubes(x: jax.Array) -> jax.Array:
        return jnp.sin(x) ** 3

    def compiled_for(x: np.ndarray) -> compiles.Program:
        with compiles.record() as compiled:
            jax.block_until_ready(jax.jit(cubes)(x))
        assert set(compiled.made) == {"cubes"}
        assert compiled.as_dict()["by_program"]["cubes"]["from_cache"] == compiled.by_program["cubes"].loaded
        return compiled.by_program["cubes"]

    small, large = np.ones(3, np.float32), np.ones(5, np.float32)
    first = compiled_for(small)
    assert (first.traced, first.lowered, first.compiled, first.loaded, first.stored) == (1, 1, 1, 0, 1)
    assert min(first.trace_seconds, first.lower_seconds, first.compile_seconds) > 0
    jax.clear_caches()
    second = compiled_for(small)
    assert (second.compiled, second.loaded, second.stored) == (0, 1, 0)
    assert second.load_seconds > 0
    assert compiled_for(large).compiled == 1


def test_blocks_nest_and_end() -> None:
    with compiles.record() as outer:
        with compiles.record() as inner:
            jax.jit(lambda x: x + 1)(np.ones(7, np.float32))
        jax.jit(lambda x: x + 2)(np.ones(7, np.float32))
    jax.jit(lambda x: x + 3)(np.ones(7, np.float32))
    assert (inner.as_dict()["programs"], outer.as_dict()["programs"]) == (1, 2)
