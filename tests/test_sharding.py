"""engine.sharding: faces over 8 devices (of the CPU, see conftest), through the Batcher that the runner uses."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from there import there

from engine import sharding
from engine.bulk.batching import Batcher, FaceCloak, FaceJob
from engine.cloak import solver
from engine.config import Recipe
from engine.faces import Cut

pytestmark = pytest.mark.usefixtures("quick_compiles")

DEVICES = 8
SIDE = 48
RECIPE = Recipe(rho=0.007, steps=12, extractors=("tiny",), jitter=0.1, smoothing=1.0)
EXTRACTORS = (tiny.extractor(1, window=(6.0, 42.0)),)
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")


def job(index: int) -> FaceJob:
    mask = np.zeros((SIDE, SIDE, 1), np.float32)
    mask[6:-6, 6:-6] = 1
    cut = Cut(tiny.texture(index, SIDE, SIDE), mask, mask[..., 0] > 0, np.eye(2, 3))
    return FaceJob(cut, index % 3 == 0, f"{index + 1:064x}"[::-1], index, (np.zeros(tiny.DIM, np.float32),))


def batcher(devices: int, *, size: int = 8) -> Batcher:
    return Batcher(RECIPE, EXTRACTORS, size=size, mesh=sharding.faces_mesh(devices))


@functools.cache
def solved(devices: int) -> tuple[list[FaceCloak], list[str], list[str]]:
    """The cloaks of eight faces, and the programs that this compiled, and those that five other faces then did."""
    programs: list[str] = []

    def listen(event: str, duration_secs: float, *, fun_name: str = "", **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            programs.append(fun_name)

    whole = batcher(devices)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        cloaks = whole.solve([job(index) for index in range(8)])
        first = programs.copy()
        whole.solve([job(index) for index in range(20, 25)])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return cloaks, first, programs[len(first) :]


def assert_same(cloaks: list[FaceCloak], expected_cloaks: list[FaceCloak]) -> None:
    """Deltas within a quarter of a grey level: the devices' smaller batches sum floats in another order."""
    for cloak, expected in zip(cloaks, expected_cloaks, strict=True):
        np.testing.assert_allclose(cloak.delta, expected.delta, atol=0.25 / 255)
        assert cloak.dssim == pytest.approx(expected.dssim, abs=5e-6)
        assert cloak.shift == pytest.approx(expected.shift, abs=2e-3)
        assert np.abs(cloak.delta).max() > 2 / 255


@pytest.mark.parametrize("devices", [3, 8])
def test_any_number_of_devices_gives_the_same_cloaks(devices: int) -> None:
    """On 3 devices eight faces take nine slots, the last filled with a copy."""
    assert_same(solved(devices)[0], solved(1)[0])


def test_faces_are_spread_over_all_devices() -> None:
    mesh = sharding.faces_mesh(8)
    batch = sharding.split_faces(np.zeros((16, 5), np.float32), mesh)
    assert {shard.device for shard in batch.addressable_shards} == set(jax.devices()[:8])
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 5)}
    weights = sharding.replicate({"w": jnp.ones((3, 3))}, mesh)["w"]
    assert {shard.data.shape for shard in weights.addressable_shards} == {(3, 3)}
    assert len(weights.addressable_shards) == 8


def test_faces_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="should evenly divide"):
        sharding.split_faces(np.zeros((7, 5), np.float32), sharding.faces_mesh(8))


def compiled_text(program: str) -> str:
    solved(8)  # whose compilations another test counts: they must not be spared by what is compiled here
    mesh = sharding.faces_mesh(8)
    whole = Batcher(RECIPE, EXTRACTORS, size=8, mesh=mesh)
    jobs = [job(index) for index in range(8)]
    batch = sharding.split_faces(
        solver.Batch(
            canvas=jnp.asarray(np.stack([each.cut.canvas for each in jobs])),
            mask=jnp.asarray(np.stack([each.cut.mask for each in jobs])),
            region=jnp.asarray(np.stack([each.cut.region for each in jobs])),
            target=(jnp.zeros((8, tiny.DIM)),),
            grey=jnp.zeros(8, bool),
            identity=jnp.arange(32, dtype=jnp.uint32).reshape(8, 4),
        ),
        mesh,
    )
    clean = solver.embed(whole.extractors, batch.canvas)
    fresh = sharding.split_faces(np.ones(8, bool), mesh)
    slots = sharding.split_faces(solver.begin(RECIPE, batch, clean, fresh), mesh)
    turn, push = solver.Turn(RECIPE, RECIPE.turns[0]), jnp.float32(1)
    lowered = {
        "embed": lambda: solver._embed.lower(whole.extractors[0], batch.canvas),
        "begin": lambda: solver.begin.lower(RECIPE, batch, clean, fresh),
        "enter": lambda: solver.enter.lower(slots, slots, fresh),
        "pull": lambda: solver._pull_kept.lower(turn, whole.extractors, slots),
        "move": lambda: solver._move_kept.lower(RECIPE, slots, solver._pull_kept(turn, whole.extractors, slots), push),
        "steps": lambda: solver._steps.lower(RECIPE, whole.extractors, slots, jnp.int32(3)),
        "settle": lambda: solver._settle.lower(RECIPE, slots, clean),
        "result": lambda: solver.result.lower(RECIPE, slots),
    }[program]()
    return there(lowered.compile().as_text())


@pytest.mark.parametrize("program", ["embed", "begin", "enter", "pull", "move", "steps", "settle", "result"])
def test_devices_do_not_talk_to_each_other(program: str) -> None:
    """No collective in what XLA made for 8 devices, and each works on one face of the eight."""
    text = compiled_text(program)
    assert "num_partitions=8" in text
    assert f"f32[1,{SIDE},{SIDE},3]" in text
    if program != "begin":  # what starts as a constant is whole on every device; `solve` splits it
        assert f"f32[8,{SIDE},{SIDE},3]" not in text
    assert [name for name in COLLECTIVES if name in text] == []


@pytest.mark.parametrize("devices", [1, 3, 8])
def test_devices_do_not_add_compilations(devices: int) -> None:
    """A state whose sharding changed between the steps would compile the step again: minutes on the real networks."""
    _, first, second = solved(devices)
    assert [sum(name in program for program in first) for name in ("_pull", "_move")] == [1, 1]
    assert sorted(first) == sorted(set(first))
    assert second == []


def test_a_collective_would_be_seen() -> None:
    """The check above on a program that does couple the faces."""
    batch = sharding.split_faces(np.ones((8, 5), np.float32), sharding.faces_mesh(8))
    compiled = jax.jit(lambda x: x - x.mean(axis=0, keepdims=True)).lower(batch).compile()
    assert any(name in there(compiled.as_text()) for name in COLLECTIVES)


@pytest.mark.parametrize("devices", [0, -1, 9])
def test_devices_that_are_not_there_are_refused(devices: int) -> None:
    with pytest.raises(ValueError, match=rf"devices must be 1 to 8, the number of cpu devices here; got {devices}"):
        sharding.faces_mesh(devices)


def test_all_devices_by_default() -> None:
    assert sharding.faces_mesh().size == 8
    assert sharding.faces_mesh(3).axis_names == ("face",)


# --- the Batcher's slots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "devices", "slots"), [(1, 1, 1), (8, 3, 9), (1, 8, 8), (16, 8, 16)])
def test_slots_are_a_multiple_of_the_devices(size: int, devices: int, slots: int) -> None:
    assert batcher(devices, size=size).size == slots


def test_empty_slots_change_nothing() -> None:
    """One, three or eight faces in the same eight slots: bit for bit the same cloaks."""
    for count in (1, 3):
        some = batcher(1).solve([job(index) for index in range(count)])
        for cloak, expected in zip(some, solved(1)[0][:count], strict=True):
            np.testing.assert_array_equal(cloak.delta, expected.delta)
            assert (cloak.dssim, cloak.shift) == (expected.dssim, expected.shift)


@pytest.mark.parametrize("devices", [1, 3])
def test_embeds_any_number_of_canvases_in_order(devices: int) -> None:
    canvases = [job(index).cut.canvas for index in range(11)]
    embeddings = batcher(devices, size=4).embed(canvases)
    expected = np.asarray(solver.embed(EXTRACTORS, jnp.asarray(np.stack(canvases)))[0])
    np.testing.assert_allclose(np.stack([each[0] for each in embeddings]), expected, atol=1e-5)
    assert batcher(1).embed([]) == []


# --- configure, in a process of its own ------------------------------------------------------------------------

CONFIGURE = """
import os, sys, pathlib
from engine import sharding
sharding.configure(cache=pathlib.Path(sys.argv[1]))
import jax, jax.numpy as jnp
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((64, 64))).block_until_ready()
print(os.environ["XLA_FLAGS"].strip())
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("given", ["", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INVALID"])
def test_configure_sets_the_flag_and_the_cache_unless_the_user_has(given: str, tmp_path: Path) -> None:
    users = {"XLA_FLAGS": given} | ({"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if given else {})
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURE, str(tmp_path / "cache")],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **users},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    flags, cache = done.stdout.splitlines()
    tried = version("jaxlib").startswith(sharding.CPU_FLAG_VERSIONS)
    assert flags == (given or (sharding.CPU_FLAG if tried else ""))
    assert cache == str(tmp_path / ("own" if given else "cache"))


@pytest.mark.parametrize(
    ("platform", "devices", "slots"), [("cpu", 1, 8), ("cpu", 8, 8), ("gpu", 1, 64), ("tpu", 4, 256)]
)
def test_accelerators_get_more_slots_each(platform: str, devices: int, slots: int) -> None:
    assert sharding.slots(platform, devices) == slots


CACHED = """
import sys, pathlib
from engine import sharding
folder = sharding.configure(cache=pathlib.Path(sys.argv[1]))
import jax
print(jax.config.jax_enable_compilation_cache, folder is not None)
"""


@pytest.mark.parametrize(("mode", "named"), [(0o777, False), (0o777, True), (0o775, True), (0o755, False), (0, False)])
def test_a_cache_that_others_can_write_is_not_used(mode: int, named: bool, tmp_path: Path) -> None:
    """Compiled programs are run, whoever put them there. A mode of 0 is a folder that is not there yet."""
    cache = tmp_path / "cache"
    if mode:
        cache.mkdir()
        cache.chmod(mode)
    done = subprocess.run(
        [sys.executable, "-c", CACHED, str(tmp_path / "other" if named else cache)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"} | ({"JAX_COMPILATION_CACHE_DIR": str(cache)} if named else {}),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    used = not mode & 0o022
    assert done.stdout.split() == [str(used)] * 2
    assert oct(cache.stat().st_mode & 0o777) == oct(0o700 if used else mode)


@pytest.mark.parametrize("asked", ["cuda", "nosuch", "tpu"])
def test_a_platform_that_is_not_there_is_one_sentence(asked: str, tmp_path: Path, photos: Path) -> None:
    command = ["run", str(photos / "obama.jpg"), "--out", str(tmp_path / "out"), "--no-report"]
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *command],
        env={**os.environ, "JAX_PLATFORMS": asked, "XDG_CACHE_HOME": str(tmp_path / "home")},
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert f"JAX cannot use the platform '{asked}' here" in done.stderr
    assert "JAX_PLATFORMS=cpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_64_bits_are_refused() -> None:
    with jax.enable_x64(True), pytest.raises(ValueError, match="JAX_ENABLE_X64"):
        sharding.configure()
