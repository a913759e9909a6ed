"""engine.bulk.goals: what people's faces are moved from, and the way that they all go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_cloak
from PIL import Image

from engine import Cloaker, Person, Recipe, cli
from engine.bulk import goals, people
from engine.bulk.crowd import Crowd, Seen
from engine.bulk.goals import SAMPLES, Sample, Target, aims, common, goal_of, samples
from engine.bulk.prepare import digest, prepare
from engine.bulk.sightings import Sightings
from engine.config import LEAD

RECIPE = Recipe(extractors=("one", "two"), steps=LEAD + 1)
EAST, NORTH = np.eye(2, dtype=np.float32)


def face(number: int, person: np.ndarray, *, index: int = 0) -> Seen:
    """A face whose embeddings by both networks, and by the one that tells people apart, are `person`."""
    turn = np.float32(0.01 * number)
    embedding = (person + turn * person[::-1]) / np.hypot(1, turn)
    return Seen(f"{number:064x}", index, (embedding, embedding), np.pad(person, (0, 510)), 10 + number)


def fixed(ways: Sequence[Target | None], asked: list[list[Sample]]):
    def probe(wanted: Sequence[Sample]) -> list[Target | None]:
        asked.append(list(wanted))
        return list(ways)

    return probe


def test_a_person_of_several_photos_is_moved_one_way_and_a_lone_face_from_its_mean_alone() -> None:
    asked: list[list[Sample]] = []
    way = np.array([3.0, 4.0], np.float32)
    crowd = Crowd([face(0, EAST), face(1, EAST), face(2, NORTH)])
    targets = aims(RECIPE, crowd, (), probe=fixed([(way, way), (way, 2 * way)], asked))
    assert [[sample.place for sample in some] for some in asked] == [[10, 11]]
    (mean,) = {sample.mean[0].tobytes() for sample in asked[0]}
    anchor = np.frombuffer(mean, np.float32) - [0.6, 0.8]
    for number in (0, 1):
        for row in targets[f"{number:064x}", 0]:
            np.testing.assert_allclose(row, anchor, atol=1e-6)
    np.testing.assert_allclose(targets[f"{2:064x}", 0][0], crowd[2].own[0], atol=1e-6)


def test_only_people_in_photos_that_are_wanted_are_probed() -> None:
    asked: list[list[Sample]] = []
    crowd = Crowd([face(0, EAST), face(1, EAST), face(2, NORTH), face(3, NORTH)])
    targets = aims(RECIPE, crowd, (), probe=fixed([None, None], asked), wanted={f"{3:064x}"})
    assert [[sample.sha256 for sample in some] for some in asked] == [[f"{2:064x}", f"{3:064x}"]]
    assert sorted(targets) == [(f"{2:064x}", 0), (f"{3:064x}", 0)], (
        "the other one is known as well, from its whole person"
    )
    assert all(abs(np.linalg.norm(row) - 1) < 1e-6 for goal in targets.values() for row in goal), "no way was found"


def test_a_few_faces_are_probed_whatever_their_order_and_a_photo_that_is_there_twice_once() -> None:
    faces = [face(number, EAST) for number in range(SAMPLES + 3)]
    mean = (EAST, EAST)
    chosen = samples(RECIPE, faces, mean)
    assert len(chosen) == SAMPLES
    assert [sample.sha256 for sample in samples(RECIPE, [*faces[::-1], faces[0]], mean)] == [
        sample.sha256 for sample in chosen
    ]
    assert samples(RECIPE, [faces[0], faces[0]], mean) == []


@pytest.mark.parametrize(
    "changes", [{"lead": 0.0}, {"objective": "away"}, {"objective": "target"}, {"steps": LEAD}], ids=str
)
def test_without_a_lead_nothing_is_probed(changes: dict) -> None:
    recipe = replace(RECIPE, **changes)
    assert samples(recipe, [face(0, EAST), face(1, EAST)], (EAST, EAST)) == []
    if recipe.objective == "person":
        np.testing.assert_array_equal(goal_of(recipe, (EAST,), (NORTH,), ())[0], EAST)


def test_the_common_way_is_of_length_one_and_faces_that_found_none_do_not_count() -> None:
    assert common([]) is common([None]) is None
    assert common([(EAST, NORTH), (-EAST, NORTH)]) is None, "they go nowhere together"
    assert common([(np.array([np.nan, 1], np.float32),)]) is None
    lead = common([(3 * EAST, NORTH), None, (EAST, NORTH)])
    assert lead is not None
    np.testing.assert_array_equal(lead, (EAST, NORTH))


def test_many_people_are_probed_in_blocks_and_each_gets_the_way_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "BLOCK", 3)
    monkeypatch.setattr(people, "group", lambda identities: np.arange(len(identities)) // 2)
    crowd = Crowd(face(number, EAST) for number in range(10))
    asked: list[int] = []

    def probe(wanted: Sequence[Sample]) -> list[Target | None]:
        asked.append(len(wanted))
        ways = [np.array([1.0, sample.place // 2], np.float32) for sample in wanted]
        return [(way, way) for way in ways]

    targets = aims(RECIPE, crowd, (), probe=probe)
    assert asked == [4, 4, 2]
    for number in range(10):
        pair = [crowd[i].own[0] for i in (number // 2 * 2, number // 2 * 2 + 1)]
        mean = np.sum(pair, axis=0) / np.linalg.norm(np.sum(pair, axis=0))
        way = np.array([1.0, (10 + number) // 2]) / np.hypot(1, (10 + number) // 2)
        np.testing.assert_allclose(targets[f"{number:064x}", 0][0], mean - way, atol=1e-5)


@pytest.fixture
def album(photos: Path, tmp_path: Path) -> Path:
    """Three photos of one person, one of another."""
    folder = tmp_path / "album"
    folder.mkdir()
    with Image.open(photos / "obama.jpg") as image:
        person = image.convert("RGB").crop((200, 0, 800, 700)).resize((300, 350))
    for name, size in (("a", (300, 350)), ("b", (240, 280)), ("c", (270, 315))):
        person.resize(size).save(folder / f"{name}.png")
    with Image.open(photos / "astronaut.png") as image:
        image.convert("RGB").resize((300, 300)).save(folder / "d.png")
    return folder


@pytest.fixture
def cloaker(tmp_path: Path) -> Cloaker:
    tiny_cloak.provide(tmp_path / "tiny")
    return Cloaker(recipe=Recipe(extractors=("tiny",), steps=LEAD + 2), batch=2, workers=2)


@pytest.mark.slow
def test_real_photos_of_a_person_go_one_way_which_is_found_once(
    album: Path, cloaker: Cloaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[int | None] = []
    solve = cloaker.batcher.solve

    def counted(jobs):
        jobs = list(jobs)
        solved.extend(job.until for job in jobs)
        return solve(jobs)

    monkeypatch.setattr(cloaker.batcher, "solve", counted)
    sources = sorted(album.iterdir())
    seen, steps = Sightings(cloaker.detector), []
    targets = cloaker.targets(sources, sightings=seen, probing=lambda done, faces: steps.append((done, faces)))
    assert solved == [LEAD] * 3, "one face of another person goes its own way"
    assert steps == [(3, 3)]
    goals = {path.name: targets[digest(path), 0][0] for path in sources}
    np.testing.assert_array_equal(goals["a.png"], goals["b.png"])
    assert np.linalg.norm(goals["a.png"]) > 1.01
    assert np.linalg.norm(goals["d.png"]) == pytest.approx(1, abs=1e-5)
    again = cloaker.targets(sources, sightings=seen)
    assert len(solved) == 3, "what is known is not looked for again"
    np.testing.assert_array_equal(again[digest(sources[0]), 0][0], goals["a.png"])
    # What it is for: the cloaks of a person agree better than without.
    alone = Cloaker(recipe=replace(cloaker.recipe, lead=0.0), batch=2, workers=2)
    assert _agreement(cloaker, sources[:3]) > _agreement(alone, sources[:3])
    # A person whom the caller knows is moved the same way, also after having been kept.
    me = cloaker.person(sources[:3])
    restored = Person.from_bytes(me.to_bytes())
    assert restored.to_bytes() == me.to_bytes()
    np.testing.assert_allclose(cloaker.goal_of(restored)[0], goals["a.png"], atol=1e-5)
    single = cloaker.person(sources[0])
    assert single.lead is None
    assert np.linalg.norm(cloaker.goal_of(single)[0]) == pytest.approx(1, abs=1e-5)


def _agreement(cloaker: Cloaker, sources: list[Path]) -> float:
    """Mean cosine between the ways that the embeddings of these photos go."""
    ways = []
    for path, result in zip(sources, cloaker.cloak(sources), strict=True):
        assert result.image is not None
        pair = [prepare(source, cloaker.detector).cuts[0].canvas for source in (path, result.image)]
        (before,), (after,) = cloaker.batcher.embed(pair)
        ways.append((after - before) / np.linalg.norm(after - before))
    cosines = np.array(ways) @ np.array(ways).T
    return float(cosines[np.triu_indices(len(ways), 1)].mean())


@pytest.mark.slow
def test_shards_make_the_files_of_one_run(album: Path, tmp_path: Path) -> None:
    tiny_cloak.provide(tmp_path / "tiny")
    settings = ["--extractors", "tiny", "--steps", str(LEAD + 2), "--batch", "2", "--no-report"]
    whole, shards = tmp_path / "whole", tmp_path / "shards"
    assert cli.main(["run", str(album), "--out", str(whole), *settings]) == cli.OK
    for shard in ("0/2", "1/2"):
        assert cli.main(["run", str(album), "--out", str(shards), "--shard", shard, *settings]) == cli.OK
    for path in sorted(whole.glob("*.png")):
        assert path.read_bytes() == (shards / path.name).read_bytes()
