"""engine.programs: what one process compiled the next one loads, and never anything else than what it would make."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from engine import cli, compiles, files, private, programs
from engine.bulk import ahead
from engine.config import Recipe

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with programs.kept_in(tmp_path / "programs"):
        yield tmp_path / "programs"


def scaled(power: int, tree: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    return x**power * tree["scale"], tree


def fresh() -> programs.Kept:
    """The function as a new process has it."""
    return programs.kept(static=0, donated=2)(scaled)


def ones(*shape: int) -> jax.Array:
    return jax.device_put(np.ones(shape, np.float32))


def kept_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_program_is_loaded_without_being_traced(folder: Path) -> None:
    tree = {"scale": jax.device_put(np.float32(3))}
    with compiles.record() as first:
        fresh()(2, tree, ones(5))
    assert (first.by_program["scaled"].traced, first.by_program["scaled"].compiled) == (1, 1)
    made = kept_in(folder)
    assert len(made) == 1
    with compiles.record() as second:
        program = fresh()
        x = 2 * ones(5)
        result, same = program(2, tree, x)
        again, _ = program(2, tree, 3 * ones(5))
    assert second.by_program["scaled"].loaded == 1
    assert (second.by_program["scaled"].traced, second.by_program["scaled"].compiled) == (0, 0)
    np.testing.assert_array_equal(result, np.full(5, 12))
    np.testing.assert_array_equal(again, np.full(5, 27))
    assert same.keys() == tree.keys()
    assert x.is_deleted(), "what is donated is used up"
    assert kept_in(folder) == made


def test_whatever_the_program_depends_on_makes_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"scale": jax.device_put(np.float32(3))}
    calls = {
        "first": lambda: fresh()(2, tree, ones(5)),
        "static": lambda: fresh()(3, tree, ones(5)),
        "shape": lambda: fresh()(2, tree, ones(6)),
        "type": lambda: fresh()(2, tree, ones(5).astype(jnp.bfloat16)),
        "tree": lambda: fresh()(2, tree | {"other": ones(1)}, ones(5)),
    }
    for number, (name, call) in enumerate(calls.items()):
        with jax.numpy_dtype_promotion("standard"):
            call()
        assert len(kept_in(folder)) == number + 1, name
    np.testing.assert_array_equal(fresh()(3, tree, 2 * ones(5))[0], np.full(5, 24))
    program = fresh()
    for device in jax.devices()[:2]:
        result, _ = program(2, jax.device_put(tree, device), jax.device_put(ones(5), device))
        assert result.devices() == {device}
    before = len(kept_in(folder))
    for change in (
        partial(monkeypatch.setattr, programs, "version", lambda name: "0"),
        partial(monkeypatch.setenv, "XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " "),
        partial(monkeypatch.setattr, programs, "_processor", lambda: ["another"]),
        partial(jax.config.update, "jax_disable_most_optimizations", True),
    ):
        change()
        programs._surroundings.cache_clear()
        calls["first"]()
        before += 1
        assert len(kept_in(folder)) == before, change
    jax.config.update("jax_disable_most_optimizations", False)
    programs._surroundings.cache_clear()


def test_the_source_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "programs.py").write_text("one")
    monkeypatch.setattr(programs, "__file__", str(tmp_path / "programs.py"))
    hashes = set()
    for name, text in (("programs.py", "one"), ("programs.py", "two"), ("other.py", ""), ("another.py", "")):
        (tmp_path / name).write_text(text)
        hashes.add(programs._surroundings.__wrapped__())
    assert len(hashes) == 4


def test_a_damaged_one_is_made_again(folder: Path) -> None:
    tree = {"scale": jax.device_put(np.float32(3))}
    fresh()(2, tree, ones(5))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", b"no pickle", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(fresh()(2, tree, ones(5))[0], np.full(5, 3))
        assert path.stat().st_size > len(whole) // 2
    assert len(kept_in(folder)) == 1


class Bomb:
    """What a pickle may do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def plant(folder: Path, tmp_path: Path, how: str) -> None:
    """Somebody else's file in place of the one program that is there."""
    (path,) = folder.iterdir()
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    key = (folder.parent / "programs.key").read_bytes()
    planted = {
        "pickle": bomb,
        "digest": hashlib.sha256(bomb).digest() + bomb,
        "other key": hmac.digest(bytes(32), path.name.encode() + b"\0" + bomb, "sha256") + bomb,
        "other name": programs._mac(key, path.with_name("other.program"), bomb) + bomb,
        "old mac": path.read_bytes()[:32] + bomb,
    }[how]
    path.write_bytes(planted)


@pytest.mark.parametrize("how", ["pickle", "digest", "other key", "other name", "old mac"])
def test_a_planted_program_is_not_run(how: str, folder: Path, tmp_path: Path) -> None:
    tree = {"scale": jax.device_put(np.float32(3))}
    fresh()(2, tree, ones(5))
    plant(folder, tmp_path, how)
    np.testing.assert_array_equal(fresh()(2, tree, ones(5))[0], np.full(5, 3))
    assert not (tmp_path / "ran").exists()
    with compiles.record() as record:
        fresh()(2, tree, ones(5))
    assert record.by_program["scaled"].loaded == 1, "it was made again and kept"


def test_a_flipped_bit_anywhere_is_seen(folder: Path) -> None:
    tree = {"scale": jax.device_put(np.float32(3))}
    fresh()(2, tree, ones(5))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole) * 8, 8).tolist():
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with compiles.record() as record:
            np.testing.assert_array_equal(fresh()(2, tree, ones(5))[0], np.full(5, 3))
        assert record.by_program["scaled"].loaded == 0


@pytest.mark.parametrize("kind", ["written by others", "a link", "of a group", "file for others"])
def test_a_folder_that_others_can_write_is_not_used(kind: str, folder: Path, tmp_path: Path) -> None:
    tree = {"scale": jax.device_put(np.float32(3))}
    fresh()(2, tree, ones(5))
    (path,) = folder.iterdir()
    if kind == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file for others":
        path.chmod(0o646)
    else:
        folder.chmod({"written by others": 0o777, "of a group": 0o770}[kind])
    before = path.stat()
    with compiles.record() as record:
        np.testing.assert_array_equal(fresh()(2, tree, ones(5))[0], np.full(5, 3))
    assert record.by_program["scaled"].loaded == 0
    if kind != "file for others":
        assert path.stat() == before


def test_what_is_kept_is_the_users_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        fresh()(2, {"scale": ones()}, ones(5))
    finally:
        os.umask(before)
    files = [*folder.iterdir(), folder.parent / "programs.key"]
    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 2
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_a_key_that_others_can_read_is_replaced(folder: Path) -> None:
    tree = {"scale": ones()}
    fresh()(2, tree, ones(5))
    key = folder.parent / "programs.key"
    before = key.read_bytes()
    key.chmod(0o644)
    with compiles.record() as record:
        fresh()(2, tree, ones(5))
    assert record.by_program["scaled"].loaded == 0
    assert key.read_bytes() != before


def test_a_program_that_cannot_be_kept_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(program: object) -> None:
        raise pickle.PicklingError("not this one")

    monkeypatch.setattr(programs.serialize_executable, "serialize", refuse)
    np.testing.assert_array_equal(fresh()(2, {"scale": ones()}, ones(5))[0], np.ones(5))
    assert kept_in(folder) == set()


def test_what_only_its_place_in_memory_tells_apart_is_not_kept(folder: Path) -> None:
    for power in (1, 3):
        program = programs.kept(static=0)(lambda function, x: function(x))
        np.testing.assert_array_equal(program(lambda x, power=power: x**power, 2 * ones(2)), [2**power] * 2)
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with programs.kept_in(tmp_path / "file" / "programs"):
        np.testing.assert_array_equal(fresh()(2, {"scale": ones()}, ones(5))[0], np.ones(5))


def test_what_another_process_is_making_is_waited_for(folder: Path) -> None:
    """Its lock is held by an open file, so one process can play both."""
    tree = {"scale": jax.device_put(np.float32(3))}
    function, arguments = fresh(), (2, tree, ones(13))
    key = function._key(arguments)
    assert key is not None
    path = function._path(key)
    assert path is not None
    assert function.missing(*arguments)
    with compiles.record() as made, ThreadPoolExecutor() as pool:
        private.made(folder)
        with files.locked(path.with_suffix(".lock"), wait=True):
            waiting = pool.submit(function.ahead, *arguments)
            programs._make(path, fresh().jitted, arguments)
            assert not waiting.done()
        waiting.result(60)
    assert (made.by_program["scaled"].compiled, made.by_program["scaled"].loaded) == (1, 1)
    assert not function.missing(*arguments)
    assert kept_in(folder) == {path.name}


def test_a_helper_makes_what_is_missing(folder: Path) -> None:
    calls: list[programs.Call] = [(fresh(), (power, {"scale": ones()}, ones(11))) for power in (2, 3, 4)]
    calls[1][0].ahead(*calls[1][1])
    with compiles.record() as made:
        programs.from_the_end(calls)
    assert made.by_program["scaled"].compiled == 2
    assert len(kept_in(folder)) == 3


def test_the_ones_used_last_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST", 2)
    tree = {"scale": ones()}
    fresh()(2, tree, ones(1))
    (first,) = folder.iterdir()
    fresh()(2, tree, ones(2))
    (second,) = set(folder.iterdir()) - {first}
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    fresh()(2, tree, ones(1))
    fresh()(2, tree, ones(3))
    assert first.exists()
    assert not second.exists()
    assert len(kept_in(folder)) == 2


def test_under_a_trace_and_on_several_devices_it_is_a_jitted_function(folder: Path) -> None:
    tree = {"scale": ones()}
    program = programs.kept(static=0)(scaled)
    assert jax.jit(lambda x: program(2, tree, x)[0])(3 * ones(2)).tolist() == [9, 9]
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("face",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("face"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    assert program(2, jax.device_put(tree, whole), jax.device_put(ones(2), split))[0].tolist() == [1, 1]
    assert not folder.exists()


def test_programs_are_kept_for_the_run_alone(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever became of it: this one ends where the reference photo is found to be nobody's, networks loaded."""
    Image.new("RGB", (64, 64)).save(tmp_path / "nobody.png")
    told: list[Path | None] = []
    kept_in = programs.kept_in

    @contextmanager
    def seen(folder: Path | None) -> Iterator[None]:
        try:
            with kept_in(folder):
                told.append(programs._folder)
                yield
        finally:
            told.append(programs._folder)

    monkeypatch.setattr(programs, "kept_in", seen)
    arguments = [str(photos / "obama.jpg"), "--out", str(tmp_path / "out"), "--only", str(tmp_path / "nobody.png")]
    assert cli.main(["run", *arguments, "--extractors", "mobileface"]) == cli.USAGE
    assert "must show one face" in capsys.readouterr().err
    assert [key is None for key in told] == [False, True]


def test_a_run_whose_programs_are_there_traces_nothing_and_writes_the_same(tmp_path: Path, photos: Path) -> None:
    """All of them by the process that would help a first run; beside it a first run with a folder of its own."""
    options = ["--extractors", "mobileface", "--steps", "12", "--no-report", "--json"]
    recipe = Recipe.of("mid", extractors=("mobileface",), steps=12)

    def run(out: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", "run", photos / "obama.jpg", "--out", tmp_path / out, *options],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / f"cache of {out}"), "JAX_PLATFORMS": "cpu"},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0
        return json.loads(done.stdout)["compiles"]["by_program"]

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of second"))
        environment.setenv("JAX_PLATFORMS", "cpu")
        with ahead.helper(recipe, 1) as helper:
            assert helper.wait(300) == 0
    names = {"_embed", "begin", "enter", "_pull", "_move", "_cloaked", "_settle", "result"}
    first, second = run("first"), run("second")
    assert set(first) >= names
    assert any(program["made"] > program["from_cache"] for program in first.values())
    assert {name for name, program in second.items() if program["from_cache"] == program["made"]} >= names
    assert sum(second[name]["seconds"] for name in names) < sum(first[name]["seconds"] for name in names) / 4
    made = [(tmp_path / out / "obama.jpg").read_bytes() for out in ("first", "second")]
    assert made[0] == made[1]


def test_a_helper_ends_with_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is left to end it: what tells it is its input, whose other end the system closes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ahead.helper(Recipe.of("mid"), 8) as helper:
        assert helper.stdin is not None
        helper.stdin.close()
        assert helper.wait(120) == 1


def test_a_helper_ends_with_the_run(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as helper:
        with programs.kept_in(folder / "inner"):
            calls: list[programs.Call] = [(fresh(), (power, {"scale": ones()}, ones(7))) for power in range(2, 7)]
            programs.ahead(lambda: calls, threads=2, helper=lambda: helper)
            until = time.monotonic() + 60
            while not programs._helpers:
                assert time.monotonic() < until, "no helper was begun"
                time.sleep(0.01)
        assert helper.returncode is not None
