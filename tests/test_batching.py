"""engine.bulk.batching: faces that come and go in a lane's slots get the cloaks that they get alone."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
import pytest
import tiny

from engine import compiles, programs, sharding
from engine.bulk import budget
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Lane
from engine.cloak.solver import CHUNK
from engine.config import CANVAS, Recipe
from engine.faces import Cut

pytestmark = pytest.mark.usefixtures("quick_compiles")

DEVICES = 8
SIDE = 48
RECIPE = Recipe(rho=0.007, steps=23, extractors=("tiny",), jitter=0.1, smoothing=1.0)
SHORT = replace(RECIPE, enough=0.07)
EXTRACTORS = (tiny.extractor(1, window=(6.0, 42.0)),)


def job(index: int, *, side: int = SIDE, networks: int = 1) -> FaceJob:
    mask = np.zeros((side, side, 1), np.float32)
    mask[6:-6, 6:-6] = 1
    picture = tiny.texture(index, side, side, contrast=0.05 + 0.05 * (index % 4))
    cut = Cut(picture, mask, mask[..., 0] > 0, np.eye(2, 3))
    nothing = (np.zeros(tiny.DIM, np.float32),) * networks
    return FaceJob(cut, index % 3 == 0, f"{index + 1:064x}"[::-1], index, nothing)


@functools.cache
def batcher(recipe: Recipe, devices: int = 1, size: int = 4) -> Batcher:
    return Batcher(recipe, EXTRACTORS, size=size, mesh=sharding.faces_mesh(devices))


@functools.cache
def alone(recipe: Recipe, index: int) -> FaceCloak:
    return batcher(recipe).solve([job(index)])[0]


def staggered(lane: Lane[int], count: int, *, at_once: int) -> dict[int, FaceCloak]:
    """The faces 0 to count - 1, so many more offered before every chunk."""
    cloaks: dict[int, FaceCloak] = {}
    offered = 0
    while offered < count or lane.busy:
        for _ in range(min(at_once, count - offered)):
            lane.add(offered, job(offered))
            offered += 1
        cloaks.update(lane.advance())
    return cloaks


def assert_equal(actual: FaceCloak, expected: FaceCloak) -> None:
    np.testing.assert_array_equal(actual.delta, expected.delta)
    assert actual[1:] == expected[1:]


@pytest.mark.parametrize("at_once", [1, 3, 7])
@pytest.mark.parametrize("recipe", [RECIPE, SHORT, replace(RECIPE, solver="fawkes1", objective="away")])
def test_a_face_gets_the_cloak_it_gets_alone(recipe: Recipe, at_once: int) -> None:
    """Bit for bit, whenever it enters, whatever is in the other slots and how far they are."""
    cloaks = staggered(batcher(recipe).lane(), 7, at_once=at_once)
    assert sorted(cloaks) == list(range(7))
    for index, cloak in cloaks.items():
        assert_equal(cloak, alone(recipe, index))
        assert np.abs(cloak.delta).max() > 1 / 255


def test_a_face_that_is_wanted_early_leaves_then_and_disturbs_nobody() -> None:
    early = job(1)._replace(until=2 * CHUNK)
    cloaks = batcher(RECIPE).solve([job(0), early, *(job(index) for index in range(2, 6))])
    assert [cloak.steps for cloak in cloaks] == [23, 20, 23, 23, 23, 23]
    for index in (0, 2, 3, 4, 5):
        assert_equal(cloaks[index], alone(RECIPE, index))
    assert_equal(batcher(RECIPE).solve([early])[0], cloaks[1])
    late = batcher(RECIPE).solve([job(1)._replace(until=4 * CHUNK)])
    assert_equal(late[0], alone(RECIPE, 1))


def test_any_number_of_devices_gives_the_same_cloaks() -> None:
    """Three devices, slots that are filled one by one: within a quarter of a grey level, as smaller batches sum."""
    cloaks = staggered(batcher(RECIPE, 3, 6).lane(), 7, at_once=2)
    for index, cloak in cloaks.items():
        np.testing.assert_allclose(cloak.delta, alone(RECIPE, index).delta, atol=0.25 / 255)


def test_faces_that_have_enough_leave_and_others_take_their_slots() -> None:
    lane: Lane[int] = batcher(SHORT).lane()
    cloaks = staggered(lane, 12, at_once=12)
    steps = {cloak.steps for cloak in cloaks.values()}
    assert len(steps) > 1
    assert steps <= {*range(CHUNK, SHORT.steps, CHUNK), SHORT.steps}
    assert all(cloak.shift[0] >= 0.07 or cloak.steps == SHORT.steps for cloak in cloaks.values())
    # Faces in batches of four would have cost as many chunks as the slowest of each four needs.
    assert lane.usage.worked == sum(cloak.steps for cloak in cloaks.values())
    assert lane.usage.faces == 12


def test_slots_are_full_as_long_as_faces_wait() -> None:
    lane: Lane[int] = batcher(SHORT).lane()
    for index in range(16):
        lane.add(index, job(index))
    while lane.backlog >= lane.batcher.size:
        lane.advance()
    # Only the last chunk of a face whose steps are no multiple of the chunk leaves steps unused.
    assert lane.usage.worked / lane.usage.slot_steps > 0.85
    exact: Lane[int] = batcher(replace(SHORT, steps=20)).lane()
    for index in range(16):
        exact.add(index, job(index))
    while exact.backlog >= exact.batcher.size:
        exact.advance()
    assert exact.usage.worked == exact.usage.slot_steps


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    events: list[str] = []

    def listen(event: str, duration_secs: float, *, fun_name: str = "", **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            events.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("devices", [1, 3])
def test_one_face_compiles_all_there_is(compiled: list[str], devices: int) -> None:
    whole = Batcher(SHORT, EXTRACTORS, size=6, mesh=sharding.faces_mesh(devices))
    whole.solve([job(0)])
    compiled.clear()
    staggered(whole.lane(), 13, at_once=2)
    whole.solve([job(index) for index in range(9)])
    assert compiled == []


def test_solve_takes_any_number_in_order() -> None:
    whole = batcher(RECIPE)
    assert whole.solve([]) == []
    for index, cloak in enumerate(whole.solve(job(index) for index in range(6))):
        assert_equal(cloak, alone(RECIPE, index))


def test_an_empty_lane_has_nothing_to_do() -> None:
    lane: Lane[int] = batcher(RECIPE).lane()
    assert lane.advance() == []
    assert not lane.busy
    assert lane.vacant == 4
    lane.add(0, job(0))
    assert (lane.vacant, lane.backlog, lane.active) == (3, 1, 0)
    lane.advance()
    assert (lane.vacant, lane.backlog, lane.active) == (3, 0, 1)


def makers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "programs-ahead"]


class Maker(programs.Kept):
    """A kept function that is always missing, and calls another one to be made."""

    def __init__(self, make: Callable[[], None]) -> None:
        self.make = make

    def missing(self, *arguments: object) -> bool:
        return True

    def ahead(self, *arguments: object) -> None:
        self.make()


def no_helper() -> NoReturn:
    raise AssertionError("one thread needs no helper")


@pytest.mark.usefixtures("quick_compiles")
def test_every_program_is_made_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cloaks then makes none. On tiny networks in turn."""
    monkeypatch.setattr(budget, "cores", lambda: 1)
    recipe = Recipe.of("mid", extractors=("one", "two"), steps=12)
    networks = (tiny.extractor(1), tiny.extractor(2))
    with programs.kept_in(tmp_path / "programs"):
        whole = Batcher(recipe, networks, size=2, mesh=sharding.faces_mesh(1))
        assert not makers(), "there may be no face"
        with compiles.record() as ahead:
            whole.prepare()
            while working := makers():
                working[0].join()
        with compiles.record() as cloaking:
            whole.solve([job(index, side=CANVAS, networks=2) for index in range(3)])
    assert (ahead.made["_embed"].made, ahead.made["_pull"].made, ahead.made["_move"].made) == (2, 2, 1)
    assert {"begin", "enter", "_cloaked", "_settle", "result"} <= set(ahead.made)
    assert not set(ahead.made) & set(cloaking.made)


def test_what_is_not_begun_is_not_made_once_nothing_is_kept(tmp_path: Path) -> None:
    """A run that was interrupted does not go on compiling."""
    made: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait()
        made.append("first")

    with programs.kept_in(tmp_path / "programs"):
        calls: list[programs.Call] = [(Maker(first), ()), (Maker(lambda: made.append("second")), ())]
        programs.ahead(lambda: calls, threads=1, helper=no_helper)
        (thread,) = makers()
        assert begun.wait(10)
    go_on.set()
    thread.join(10)
    assert made == ["first"]
