"""engine.bulk.desk: many threads fill one set of slots, and none of them can harm another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import test_batching
from test_batching import RECIPE, alone, assert_equal, job

from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Lane
from engine.bulk.desk import ClosedError, Desk
from engine.bulk.pipeline import BEHIND, Stages, stream
from engine.bulk.prepare import Prepared
from engine.types import Photo

pytestmark = pytest.mark.usefixtures("quick_compiles")
STEPS = replace(RECIPE, steps=10)
"""Whole chunks, so that no step of a slot is wasted for other reasons than want of faces."""
PHOTO = Photo(np.zeros((8, 8, 3), np.uint8), "PNG")


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk(batcher(), workers=2)
    yield made
    made.close()


def batcher() -> Batcher:
    return test_batching.batcher(STEPS)


def stages(cost: int = 0) -> Stages[int, FaceCloak | str]:
    """A photo is a number with one face; those below 0 are bad."""

    def prepare(number: int) -> Prepared | str:
        return Prepared(PHOTO, f"{number:064x}") if number >= 0 else "bad"

    def admit(number: int, prepared: Prepared) -> tuple[Prepared, list[FaceJob]]:
        return prepared, [job(number)]

    def finish(number: int, prepared: Prepared, cloaks: list[FaceCloak]) -> FaceCloak | str:
        return cloaks[0]

    return Stages(prepare=prepare, admit=admit, finish=finish, cost=lambda number: cost)


def cloaks(desk: Desk, numbers: Iterable[int]) -> list[tuple[int, FaceCloak | str]]:
    return list(stream(numbers, stages(), desk))


def assert_alone(cloak: FaceCloak | str, number: int) -> None:
    """It is a cloak, and the one that the face gets by itself."""
    assert isinstance(cloak, FaceCloak)
    assert_equal(cloak, alone(STEPS, number))


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """The results, or exceptions, of so many threads that begin together."""
    barrier = threading.Barrier(count)

    def run(index: int) -> object:
        barrier.wait()
        try:
            return work(index)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_32_threads_fill_the_slots_and_each_gets_its_own_in_order(desk: Desk) -> None:
    mine = [[(thread + part) % 16 for part in range(2)] for thread in range(32)]
    mine[5] = [-1, 5, -1]
    outcomes = at_once(32, lambda thread: cloaks(desk, mine[thread]))
    for numbers, results in zip(mine, outcomes, strict=True):
        assert isinstance(results, list)
        assert [number for number, _ in results] == numbers
        for number, cloak in results:
            if number < 0:
                assert cloak == "bad"
            else:
                assert_alone(cloak, number)
    faces = 31 * 2 + 1
    assert desk.usage.faces == faces
    assert desk.usage.worked == faces * STEPS.steps
    # Each thread for itself would leave three of four slots empty.
    assert desk.usage.worked / desk.usage.slot_steps > 0.75
    assert desk.vacant == desk.batcher.size


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_who_fails_while_it_leads_harms_nobody(
    error: type[BaseException], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, chunks, lock = Lane.advance, iter(range(1000)), threading.Lock()

    def fails(lane: Lane) -> list:
        with lock:
            chunk = next(chunks)
        done = advance(lane)
        if chunk == 1:  # after the device has worked: what it found is lost
            raise error
        return done

    monkeypatch.setattr(Lane, "advance", fails)
    outcomes = at_once(6, lambda thread: cloaks(desk, [thread, thread + 6]))
    (failed,) = (result for result in outcomes if isinstance(result, BaseException))
    assert isinstance(failed, error)
    for thread, results in enumerate(outcomes):
        if results is not failed:
            assert isinstance(results, list)
            assert [number for number, _ in results] == [thread, thread + 6]
            for number, cloak in results:
                assert_alone(cloak, number)
    assert desk.vacant == desk.batcher.size


def test_a_stream_that_is_left_gives_back_its_slots(desk: Desk) -> None:
    endless = stream(iter(lambda: 3, None), stages(), desk)
    assert_alone(next(endless)[1], 3)
    assert desk.vacant < desk.batcher.size  # how many wait for the next chunk depends on the clock
    assert_alone(cloaks(desk, [4])[0][1], 4)  # beside one that nobody goes on with
    assert_alone(next(endless)[1], 3)
    endless.close()
    assert (desk.vacant, desk.active) == (desk.batcher.size, 0)
    before = desk.usage.worked
    cloaks(desk, [5])
    assert desk.usage.worked == before + STEPS.steps


def test_what_was_begun_is_finished_when_it_is_closed_and_nothing_else_is_begun(desk: Desk) -> None:
    begun = stream(iter(lambda: 3, None), stages(), desk)
    next(begun)
    desk.close()
    done: list[FaceCloak | str] = []
    with pytest.raises(ClosedError, match="closed before all photos were begun"):
        done.extend(cloak for _, cloak in begun)
    assert len(done) >= desk.workers
    for cloak in done:
        assert_alone(cloak, 3)
    with pytest.raises(ClosedError, match="make another one"):
        cloaks(desk, [1])
    with pytest.raises(RuntimeError, match="shutdown"):
        desk.pool.submit(print)


def test_a_stream_whose_last_photo_was_begun_ends_well_though_it_is_closed(desk: Desk) -> None:
    begun = stream([1, 2], stages(), desk)
    next(begun)
    desk.close()
    assert [number for number, _ in begun] == [2]


def test_bytes_are_counted_over_all_callers_and_one_photo_of_each_is_let_in(desk: Desk) -> None:
    with desk.caller() as first, desk.caller() as second:
        assert desk.fits(first, 10**15)
        first.bytes = desk._room - 10
        assert desk.fits(second, 10**15)
        second.bytes = 5
        assert desk.fits(second, 5)
        assert not desk.fits(second, 6)
        assert not desk.fits(first, 6)


def test_what_a_callers_iterator_raises_comes_after_what_it_gave(desk: Desk) -> None:
    def numbers() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("the camera is gone")

    done: list[int] = []
    with pytest.raises(OSError, match="the camera is gone"):
        done.extend(number for number, _ in stream(numbers(), stages(), desk))
    assert done == [1, 2]


@pytest.mark.parametrize("first", [[], [0]])
def test_results_come_though_no_other_photo_has_a_face(desk: Desk, first: list[int]) -> None:
    taken = 0

    def feed() -> Iterator[int]:
        nonlocal taken
        for number in [*first, *[-1] * 5000]:
            taken += 1
            yield number

    results = stream(feed(), stages(), desk)
    assert next(results)[0] == [*first, -1][0]
    assert taken <= BEHIND * desk.batcher.size + 2 * desk.workers + 2
    before = taken
    assert [number for number, _ in islice(results, 100)] == [-1] * 100
    assert taken - before <= 100 + BEHIND * desk.batcher.size
    results.close()


def test_a_stream_that_is_collected_in_a_thread_of_the_desk_does_not_wait_for_itself() -> None:
    """Rubbish is collected in whatever thread makes some."""
    one = Desk(batcher(), workers=1)
    begun, left = threading.Event(), threading.Event()

    def prepare(number: int) -> Prepared | str:
        if number == 1:
            begun.set()
            left.wait(60)
            leaving.clear()  # the stream's last reference
        return "bad"

    leaving = [stream(range(5), replace(stages(), prepare=prepare), one)]
    next(leaving[0])
    assert begun.wait(60)
    left.set()
    assert [number for number, _ in stream([-1, -2], stages(), one)] == [-1, -2]
    assert not leaving
    one.close()


def test_a_forked_process_is_told_instead_of_left_waiting(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.bulk.desk.os.getpid", lambda: desk._process + 1)
    with desk.lock, pytest.raises(ClosedError, match="made in another process"):
        cloaks(desk, [1])
