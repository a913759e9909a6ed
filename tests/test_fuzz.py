"""The fuzzer of tools/fuzz.py: a few hundred inputs of every target, and the fuzzer itself."""

from __future__ import annotations

import base64
import zlib
from random import Random

import fuzz
import numpy as np
import pytest
from fuzzing import corpus, mutate, pieces, planting, pool, targets
from PIL import Image
from there import there

from engine import photo

INPUTS = {"photo": 150, "leak": 150, "convert": 100, "manifest": 100, "cards": 60}


@pytest.mark.parametrize("target", INPUTS)
def test_hostile_inputs_are_refused_or_done(target: str) -> None:
    summary = fuzz.Summary()
    settings = {"seed": 1} | ({"shared": False} if target in ("photo", "leak") else {})
    for outcome in pool.run(target, range(INPUTS[target]), settings, workers=2):
        summary.add(outcome)
    assert not summary.findings, "\n".join(
        f"input {finding.number}: {finding.verdict}: {finding.detail}" for finding in summary.findings
    )
    assert sum(summary.verdicts.values()) == INPUTS[target]
    assert summary.verdicts["done"] > INPUTS[target] // 20  # most are not so broken that nothing is tried
    assert target == "leak" or summary.verdicts["refused"] > INPUTS[target] // 20


def test_an_input_is_made_of_its_number_alone() -> None:
    for target in ("photo", "leak", "convert", "manifest", "cards"):
        first, again, third = (targets.TARGETS[target](seed=seed) for seed in (3, 3, 4))
        for number in (0, 4, 9):
            assert first.make(number) == again.make(number)
        assert target == "leak" or any(first.make(number) != third.make(number) for number in range(9))


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_a_file_is_its_pieces(name: str) -> None:
    data = corpus.seeds()[name]
    assert len(pieces.split(data)) > 1
    assert pieces.join(pieces.container(data), pieces.split(data)) == data


def test_mutations_reach_every_container() -> None:
    seen = set()
    for number in range(300):
        name, data = Random(number).choice(corpus.photos(1, shared=False))
        changed = mutate.mutate(data, Random(number), [data])
        seen |= {name.partition(" ")[0]} if changed != data else set()
    assert seen == {name.partition(" ")[0] for name, _ in corpus.photos(1, shared=False)}


@pytest.mark.parametrize("payload", planting.payloads(), ids=lambda payload: payload.form)
def test_a_planted_picture_is_found_in_every_form(payload: planting.Payload) -> None:
    plain = corpus.seeds()["png"]
    assert planting.leaked(plain, payload) == (0, "")
    half = payload.data[: len(payload.data) // 2]
    for written in (
        plain + half,
        plain + zlib.compress(half),
        plain + base64.b64encode(half),
        plain + half.hex().encode(),
    ):
        length, form = planting.leaked(written, payload)
        assert length >= planting.SUBSTANTIAL
        assert form
    assert planting.leaked(plain + payload.data[:200], payload)[0] == 0


def test_pictures_that_are_written_are_not_taken_for_planted_ones() -> None:
    for name, data in corpus.seeds().items():
        for payload in planting.payloads():
            assert planting.leaked(data, payload) == (0, ""), name


class Broken:
    """A target whose every input has a fault of its own."""

    def make(self, number: int) -> targets.Case:
        return targets.Case("test", str(number), bytes(number))

    def check(self, case: targets.Case) -> targets.Verdict:
        return "done", "", 0, False


def test_a_leak_and_a_foreign_exception_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = targets.Leaks(0)
    case = leaks.make(0)
    payload = there(case.payload).data
    read, written = photo.read, planting.save(Image.fromarray(np.zeros((8, 8, 3), np.uint8)), "PNG")
    monkeypatch.setattr(photo, "encode", lambda picture, pixels: written + payload)
    assert leaks.check(case._replace(data=written))[::3] == ("leaks", True)
    monkeypatch.setattr(photo, "encode", lambda picture, pixels: b"no photo")
    assert leaks.check(case._replace(data=written))[::3] == ("writes what cannot be read", True)
    monkeypatch.setattr(photo, "read", lambda data: read(data).nothing)  # type: ignore[missing-attribute]
    assert leaks.check(case._replace(data=written))[::3] == ("raises AttributeError", True)


def test_time_and_memory_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Broken):
        size = 30_000_000

        def check(self, case: targets.Case) -> targets.Verdict:
            return "done", str(np.ones(self.size).sum()), 0, False

    for _ in range(2):  # what the first gave back may still be this process's, and counts all the same
        outcome = pool.examine(Large(), 1)
        assert 200 < outcome.megabytes < 300
        assert not outcome.finding
    monkeypatch.setattr(pool, "MEGABYTES", 100)
    assert pool.examine(Large(), 1).verdict == "large"
    monkeypatch.setattr(pool, "SECONDS", 0.0)
    assert pool.examine(Broken(), 1).verdict == "slow"
