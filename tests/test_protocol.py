"""engine.evaluate.protocol: what a tracker is shown, and how its answers become rates."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engine.evaluate import protocol
from engine.evaluate.dataset import Person
from engine.evaluate.protocol import NOBODY, Answers, classify, measure, rate


def person(label: str, scraped: int, tests: int) -> Person:
    def paths(kind: str, count: int) -> tuple[Path, ...]:
        return tuple(Path(f"{label}/{kind}{number}") for number in range(count))

    return Person(label, paths("s", scraped), paths("t", tests))


USERS = (person("ann", 3, 4), person("bob", 3, 2))
OTHERS = (person("cat", 2, 1), person("dan", 2, 1), person("eve", 2, 1))
EVERYBODY = (*USERS, *OTHERS)
NAMES = [member.name for member in EVERYBODY]


class Clerk:
    """Names a photo by its folder, unless `says` has another answer; keeps what it was given."""

    name = "clerk"

    def __init__(self, *, extractors: tuple[str, ...] = (), says: dict[str, int] | None = None) -> None:
        self.extractors = extractors
        self.says = says or {}
        self.calls: list[tuple[list[Path], list[int], list[Path]]] = []

    def names(self, photos, labels, tests):
        self.calls.append((list(photos), list(labels), list(tests)))
        return np.array([self.says.get(p.as_posix(), NAMES.index(p.parent.name)) for p in tests])


class Believer(Clerk):
    """A tracker that has learnt wrong if any photo it learnt was cloaked: it then never names that user."""

    def names(self, photos, labels, tests):
        right = super().names(photos, labels, tests)
        fooled = {label for photo, label in zip(photos, labels, strict=True) if photo.suffix == ".cloaked"}
        return np.array([len(NAMES) if label in fooled else label for label in right])


def cloaks(users=USERS) -> dict[Path, Path | None]:
    return {photo: photo.with_suffix(".cloaked") for user in users for photo in user.scraped}


def test_the_tracker_learns_everybodys_scraped_photos_and_is_shown_all_tests():
    clerk = Clerk()
    classify(clerk, USERS, OTHERS)
    ((photos, labels, tests),) = clerk.calls
    assert photos == [photo for member in EVERYBODY for photo in member.scraped]
    assert [NAMES[label] for label in labels] == [photo.parent.name for photo in photos]
    assert tests == [photo for member in EVERYBODY for photo in member.tests]


def test_what_is_shown_stands_in_for_photos_or_leaves_them_out():
    clerk = Clerk()
    shown = {USERS[0].scraped[0]: None, USERS[0].scraped[1]: Path("ann/new"), OTHERS[0].tests[0]: Path("cat/new")}
    classify(clerk, USERS, OTHERS, shown=shown)
    ((photos, labels, tests),) = clerk.calls
    assert photos[:2] == [Path("ann/new"), USERS[0].scraped[2]]
    assert labels[:3] == [0, 0, 1]
    assert Path("cat/new") in tests
    assert OTHERS[0].tests[0] not in tests


def test_somebody_without_a_photo_left_is_an_error_that_names_them():
    with pytest.raises(ValueError, match="bob"):
        classify(Clerk(), USERS, OTHERS, shown=dict.fromkeys(USERS[1].scraped))


def test_answers_become_misses_by_user_and_accuracy_of_the_others():
    says = {"ann/t0": 1, "ann/t1": NOBODY, "bob/t1": 4, "cat/t0": NOBODY, "dan/t0": 0}
    named = classify(Clerk(says=says), USERS, OTHERS)
    np.testing.assert_array_equal(named.missed[0], [1, np.nan, 0, 0])
    np.testing.assert_array_equal(named.missed[1], [0, 1])
    assert named.others == 0.5  # cat has no face, dan is called ann, eve is right


def test_the_rate_is_the_mean_over_users_not_over_photos():
    mean_rate = rate([np.array([1.0, 1, 1, 1, 1, 1]), np.array([0.0])])
    assert mean_rate.value == 0.5
    assert (mean_rate.low, mean_rate.high) == (0.0, 1.0)


def test_faceless_photos_count_neither_way_and_users_without_a_face_do_not_count():
    assert rate([np.array([np.nan, 1.0]), np.array([0.0, np.nan]), np.array([np.nan])]).value == 0.5
    assert math.isnan(rate([np.array([np.nan])]).value)
    assert math.isnan(rate([]).low)


def test_the_interval_is_the_bootstraps_and_the_same_every_time():
    missed = [
        np.array([share >= threshold for threshold in np.arange(1, 11) / 10.0]) for share in np.linspace(0, 1, 40)
    ]
    shares = np.array([user_missed.mean() for user_missed in missed])
    interval = rate(missed)
    error = 1.96 * shares.std() / np.sqrt(len(shares))  # of the mean, by the central limit theorem
    assert interval.low == pytest.approx(shares.mean() - error, abs=0.01)
    assert interval.high == pytest.approx(shares.mean() + error, abs=0.01)
    assert interval == rate(missed)


def test_cloaks_that_fool_show_as_protection_above_the_floor():
    measured = measure(Believer(says={"ann/t0": 1}), USERS, OTHERS, cloaked=cloaks(), made_with=())
    assert (measured.protection.value, measured.floor.value) == (1.0, 0.125)
    assert (measured.others, measured.others_floor) == (1.0, 1.0)
    assert (measured.users, measured.scraped, measured.tests, measured.other_people, measured.faceless) == (
        2,
        6,
        6,
        3,
        0,
    )


def test_cloaks_that_change_nothing_give_exactly_the_floor():
    clerk = Clerk(says={"ann/t0": 1, "bob/t1": 3, "dan/t0": 0})
    measured = measure(clerk, USERS, OTHERS, cloaked={p: p for user in USERS for p in user.scraped}, made_with=())
    assert measured.protection == measured.floor
    assert measured.others == measured.others_floor
    assert clerk.calls[0] == clerk.calls[1]


class Counter(Clerk):
    """Names nobody of whom it learnt fewer than three photos."""

    def names(self, photos, labels, tests):
        counts = np.bincount(labels)
        return np.array([label if counts[label] > 2 else 9 for label in super().names(photos, labels, tests)])


def test_unpublished_photos_are_left_out_of_the_floor_too():
    """A cloak that merely withholds a photo gets no credit, whatever floor the caller had at hand."""
    withheld: dict[Path, Path | None] = {photo: photo for user in USERS for photo in user.scraped}
    withheld[USERS[0].scraped[0]] = None
    at_hand = classify(Counter(), USERS, OTHERS)
    measured = measure(Counter(), USERS, OTHERS, cloaked=withheld, made_with=(), floor=at_hand)
    assert measured.protection.value == measured.floor.value == 0.5
    assert rate(at_hand.missed).value == 0
    assert measured.scraped == 5


def test_a_floor_at_hand_saves_the_second_tracker():
    clerk = Clerk()
    at_hand = Answers((np.array([1.0]), np.array([0.0])), 0.25)
    measured = measure(clerk, USERS, OTHERS, cloaked=cloaks(), made_with=(), floor=at_hand)
    assert len(clerk.calls) == 1
    assert (measured.floor.value, measured.others_floor) == (0.5, 0.25)


def test_what_a_purifier_sees_is_in_protection_and_floor():
    clerk = Clerk()
    pure = {photo: photo.with_suffix(".pure") for member in EVERYBODY for photo in (*member.scraped, *member.tests)}
    cloaked = {photo: photo.with_suffix(".purecloaked") for user in USERS for photo in user.scraped}
    measure(clerk, USERS, OTHERS, cloaked=cloaked, made_with=(), clean=pure)
    (with_cloaks, without) = clerk.calls
    assert {p.suffix for p in with_cloaks[0]} == {".pure", ".purecloaked"}
    assert {p.suffix for p in (*with_cloaks[2], *without[0], *without[2])} == {".pure"}


@pytest.mark.parametrize(
    ("extractors", "made_with", "expected"),
    [
        (("sface",), ("sface", "web-incept"), "in"),
        (("sface", "faceres"), ("faceres",), "in"),
        (("sface",), ("web-incept",), "held-out"),
        ((), ("web-incept",), "held-out"),
    ],
)
def test_a_tracker_whose_network_made_the_cloaks_is_marked(extractors, made_with, expected):
    measured = measure(Clerk(extractors=extractors), USERS, OTHERS, cloaked=cloaks(), made_with=made_with)
    assert measured.part == protocol.part(Clerk(extractors=extractors), made_with) == expected


def test_a_row_is_flat_and_has_all_that_a_table_needs():
    row = measure(Clerk(says={"ann/t0": NOBODY}), USERS, OTHERS, cloaked=cloaks(), made_with=()).row()
    assert row == {
        "tracker": "clerk",
        "part": "held-out",
        "others": 1.0,
        "others_floor": 1.0,
        "users": 2,
        "scraped": 6,
        "tests": 6,
        "other_people": 3,
        "faceless": 1,
        **{f"{rate}{end}": 0.0 for rate in ("protection", "floor") for end in ("", "_low", "_high")},
    }
