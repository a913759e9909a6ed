"""Ranks in small galleries by hand; extrapolation of distributions whose tails are known exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import fake_study
import numpy as np
import pytest
from fake_study import Seer
from PIL import Image
from scipy import stats
from there import there

from engine.evaluate import extremes, galleries, report
from engine.evaluate.presets import gallery
from engine.evaluate.trackers import HEADS

MILLION = 1_000_000
KNOWN = {"exponential": stats.expon(), "normal": stats.norm(), "Gumbel": stats.gumbel_r(), "cosine": stats.beta(30, 30)}
"""Tails of shape 0, near it from below, and that of a cosine in 61 dimensions."""


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def test_people_are_ranked_by_their_nearest_photo_or_their_mean() -> None:
    test = unit(np.array([[1.0, 0.0]]))
    near_and_far = unit(np.array([[1.0, 0.1], [-1.0, 0.1]]))  # the nearest photo, and a mean that is far
    steady = unit(np.array([[1.0, 0.4], [1.0, 0.5]]))
    nobody = unit(np.array([[-1.0, 0.0]]))
    people = [near_and_far, steady, nobody]
    assert galleries.to_photos(test, people).argsort().tolist() == [[0, 1, 2]]
    assert galleries.to_centroids(test, people).argsort().tolist() == [[1, 0, 2]]
    assert galleries.nearer(galleries.to_photos(test, people), np.array([1])).tolist() == [1]
    assert galleries.nearer(galleries.to_centroids(test, people), np.array([2])).tolist() == [2]


def test_best_guesses_are_those_of_the_heads() -> None:
    random = np.random.default_rng(0)
    people = [unit(random.standard_normal((1 + index % 3, 8))) for index in range(20)]
    labels = np.concatenate([np.full(len(rows), label) for label, rows in enumerate(people)])
    tests = unit(random.standard_normal((40, 8)))
    for name, distances in galleries.SEARCHES.items():
        labelled = HEADS[name](np.concatenate(people), labels)(tests)
        assert distances(tests, people).argmin(axis=1).tolist() == labelled.tolist()


def test_a_tie_counts_for_the_name() -> None:
    assert galleries.nearer(np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.9]]), np.array([0, 1])).tolist() == [1, 0]


def test_embeddings_have_length_one_and_people_without_a_face_none() -> None:
    class Sees(Seer):
        def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
            return [None if "none" in photo.name else np.array([3.0, 4.0], np.float32) for photo in photos]

    whole, half, empty = galleries.people(
        Sees("sees"), [[Path("a"), Path("b")], [Path("none"), Path("c")], [Path("none.jpg")]]
    )
    assert whole.tolist() == pytest.approx(np.array([[0.6, 0.8]] * 2))
    assert half.shape == (1, 2)
    assert not len(empty)


def test_further_people_are_the_unknown_with_two_photos_at_most(tmp_path: Path) -> None:
    for name, photos in (("known", 1), ("one", 1), ("many", 4)):
        (tmp_path / name).mkdir()
        for photo in range(photos):
            (tmp_path / name / f"{photo}.jpg").touch()
    people = galleries.further(tmp_path, {"known"})
    assert {name: len(paths) for name, paths in people.items()} == {"one": 1, "many": galleries.PHOTOS}


def test_the_shape_and_scale_of_a_pareto_tail_come_out() -> None:
    for shape in (-0.3, 0.0, 0.2):
        drawn = stats.genpareto(shape, scale=2).rvs(20_000, random_state=np.random.default_rng(0))
        assert extremes.pareto(np.sort(drawn)) == pytest.approx((shape, 2), abs=0.06)


@pytest.mark.parametrize("name", KNOWN)
def test_known_tails_are_extrapolated_within_the_interval(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 2,000 strangers to a million; what is asked of the tail lies from 10^-3 to 10^-7."""
    monkeypatch.setattr(gallery, "DRAWS", 60)
    known, random = KNOWN[name], np.random.default_rng(1)
    users, photos = 20, 4
    tests = users * photos
    # Each test has a place and a scale of its own: some faces are like many others.
    place, scale = random.normal(size=(tests, 1)), random.uniform(0.5, 2, (tests, 1))
    chance = 10 ** random.uniform(-7, -3, tests)
    to_user = place[:, 0] + scale[:, 0] * known.isf(chance)
    strangers = place + scale * known.rvs((tests, 2_000), random_state=random)
    user = np.repeat(np.arange(users), photos)
    similar = np.full((tests, users), -np.inf)
    similar[np.arange(tests), user] = to_user
    search = gallery.Search(user, similar, strangers)
    rates = gallery.foretold(search, 2_000, MILLION, seed=0)
    for guesses, rate in rates.items():
        truth = stats.binom.cdf(guesses - 1, MILLION, chance).mean()
        assert rate.low <= truth <= rate.high, (guesses, truth, rate)
        assert rate.value == pytest.approx(truth, abs={1: 0.25, 10: 0.12, 50: 0.06}[guesses])
        assert rate.low <= rate.value <= rate.high
    assert rates[1].value < rates[10].value < rates[50].value


def test_the_check_foretells_a_gallery_that_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "DRAWS", 60)
    random = np.random.default_rng(2)
    user = np.repeat(np.arange(20), 5)
    strangers = random.normal(size=(100, 4_000))
    similar = np.full((100, 20), -np.inf)
    similar[np.arange(100), user] = random.uniform(2.5, 4.5, 100)
    search = gallery.Search(user, similar, strangers)
    foretold = gallery.foretold(search, 1_000, 4_000, seed=0, check=True)
    for guesses, truth in gallery.measured(search, 4_000).items():
        assert foretold[guesses].low <= truth.value <= foretold[guesses].high
        assert foretold[guesses].high - foretold[guesses].low < 0.35


def test_what_is_certain_stays_certain() -> None:
    """Nobody is nearer however many come, or half of them are: no tail has a word in it."""
    strangers = np.tile(np.linspace(0, 1, 500), (4, 1))
    for similarity, share in ((5.0, 1.0), (0.5, 0.0)):
        search = gallery.Search(np.array([0, 0, 1, 1]), np.where(np.eye(2)[[0, 0, 1, 1]], similarity, -9), strangers)
        for rate in gallery.foretold(search, 500, MILLION, seed=0).values():
            assert (rate.value, rate.low, rate.high) == pytest.approx((share, share, share), abs=0.01)


def test_a_fit_needs_enough_strangers() -> None:
    with pytest.raises(ValueError, match=f"at least {extremes.fewest()} strangers; got 30"):
        extremes.fitted(np.zeros((3, 30)))


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_study.FakeStudy:
    """Three users, and 39 others of whom the lists name nine; a fit is content with few."""
    monkeypatch.setattr(gallery, "SIZES", (4, 20, 5_000))
    monkeypatch.setattr(gallery, "DRAWS", 10)
    monkeypatch.setattr(extremes, "LEAST", 2)
    made = fake_study.study(tmp_path, recognisers=[Seer("alpha", ("alpha",)), Seer("beta", ("beta",), 8)])
    made.faces = tmp_path / "people"
    for person in range(100, 130):
        (made.faces / f"further {person}").mkdir()
        for shot in range(3):
            Image.fromarray(fake_study.picture(person, shot)).save(made.faces / f"further {person}" / f"{shot}.png")
    return made


def test_a_crowd_is_everybody_but_the_users_in_an_order_of_chance(crowded: fake_study.FakeStudy) -> None:
    crowd = gallery.strangers(crowded)
    names = [paths[0].parent.name for paths in crowd]
    assert len(set(names)) == 39
    assert not set(names) & {user.name for user in crowded.people.users}
    assert {len(paths) for paths in crowd} == {2}
    assert names != sorted(names)
    assert crowd == gallery.strangers(crowded)


def test_users_are_found_without_a_cloak_and_lost_with_another_picture(crowded: fake_study.FakeStudy) -> None:
    findings = gallery.PRESET.run(crowded)
    assert findings.figure is not None
    json.dumps(findings.rows, allow_nan=False)
    assert [(row["people"], row["figure"]) for row in findings.rows[:5]] == [
        (4, "measured"),
        (20, "measured"),
        (39, "measured"),
        (39, "foretold from 20"),
        (MILLION, "extrapolated"),
    ]
    assert len(findings.rows) == 2 * 2 * 5
    rows = fake_study.rows_of(findings)
    for row in rows:
        assert row["users"] == 3
        if row["figure"] == "measured":
            assert row["top_1_uncloaked"] == 1
            assert row["top_1"] < 0.5
            # With 7 people in all everybody is among 10 guesses.
            assert row["top_10"] == 1 or row["people"] > 4
        for key in ("top_1", "top_10", "top_50", "top_1_uncloaked"):
            assert row[f"{key}_low"] <= row[key] + 1e-9
            assert row[key] <= row[f"{key}_high"] + 1e-9
    million = rows[4]
    assert million["top_50"] <= rows[2]["top_50"]
    said = " ".join(findings.sentences)
    assert "has 39 besides the users: a gallery of 5,000 could not be measured" in said
    assert "Check of the extrapolation: from 20 people" in said


def test_no_change_is_found_as_without_a_cloak(tmp_path: Path) -> None:
    findings = gallery.PRESET.run(fake_study.study(tmp_path, change=lambda pixels, wanted: pixels))
    for row in findings.rows:
        assert row["top_1"] == row["top_1_uncloaked"] == 1
    assert {row["figure"] for row in findings.rows} == {"measured"}, "too few people for an extrapolation"
    assert f"needs {extremes.fewest()} people" in findings.sentences[-1]


def test_the_price_counts_the_photos_that_only_the_gallery_has(
    crowded: fake_study.FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.registry, "find", lambda name: SimpleNamespace(sha256=name))
    public = 3 * galleries.PHOTOS
    assert gallery.PRESET.embeddings(crowded) == 30 * galleries.PHOTOS + public
    before = report.about(crowded)["people"]
    faces = there(crowded.faces)
    (faces / "one more").mkdir()
    (faces / "one more" / "0.png").touch()
    after = report.about(crowded)["people"]
    assert after["further"]["count"] == before["further"]["count"] + 1 == 31
    assert after["further"]["sha256"] != before["further"]["sha256"]
