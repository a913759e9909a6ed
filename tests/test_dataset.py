"""engine.evaluate.dataset: who takes part in an evaluation, the same for the same seed, nobody in two roles."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from engine.dataset import photos_of
from engine.evaluate import dataset
from engine.evaluate.dataset import People, Person


def folder(root: Path, **counts: int) -> Path:
    """No photos, but files that differ."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{name}_{number:03}.jpg").write_text(f"{name} {number}")
    return root


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    rich = {f"rich{number}": 20 for number in range(6)}
    plain = {f"plain{number:02}": 3 + number % 6 for number in range(20)}
    return folder(tmp_path / "crowd", **rich, **plain, poor0=2, poor1=1)


def everybody(people: People) -> list[Person]:
    return [*people.users, *people.others, *people.public]


def test_nobody_has_two_roles_and_no_photo_is_used_twice(crowd):
    people = dataset.choose(crowd, users=4, photos=10, others=8, public=5, seed=3)
    assert [len(kind) for kind in (people.users, people.others, people.public)] == [4, 8, 5]
    assert len({person.name for person in everybody(people)}) == 17
    photos = people.photos()
    assert (
        len(set(photos)) == len(photos) == sum(len(person.scraped) + len(person.tests) for person in everybody(people))
    )
    assert all(
        photo.parent.name == person.name for person in everybody(people) for photo in (*person.scraped, *person.tests)
    )


def test_half_of_a_users_photos_are_scraped_and_half_are_tests(crowd):
    people = dataset.choose(crowd, users=4, photos=10, others=8, public=5)
    assert all(person.name.startswith("rich") for person in people.users)
    assert all(len(person.scraped) == len(person.tests) == 5 for person in people.users)


def test_everybody_else_has_photos_to_learn_and_one_to_test(crowd):
    people = dataset.choose(crowd, users=4, photos=10, others=12, public=8)
    assert all(len(person.tests) == 1 and 2 <= len(person.scraped) <= 5 for person in people.others)
    assert all(len(person.tests) == 1 and 2 <= len(person.scraped) <= 3 for person in people.public)
    assert not any(person.name.startswith("poor") for person in everybody(people))


def test_the_public_may_be_small_unless_somebody_practises_on_it(crowd):
    sizes = {"users": 4, "photos": 10, "others": 15}
    small = dataset.choose(crowd, **sizes, public=30, practised=False)
    assert len(small.public) == 22 - 15
    assert dataset.choose(crowd, **sizes, public=5, practised=False) == dataset.choose(crowd, **sizes, public=5)


def test_the_seed_decides_and_nothing_else(crowd):
    sizes = {"users": 3, "photos": 8, "others": 6, "public": 4}
    first = dataset.choose(crowd, **sizes, seed=1)
    assert first == dataset.choose(crowd, **sizes, seed=1)
    assert first != dataset.choose(crowd, **sizes, seed=2)


def test_people_with_few_photos_are_users_where_there_are_none_with_more(tmp_path):
    root = folder(tmp_path, a=6, b=6, c=12, d=3, e=3)
    people = dataset.choose(root, users=3, photos=6, others=1, public=1)
    assert {person.name for person in people.users} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"users": 9}, "6 people who can be users.*9 were asked for: lower --users or --photos, or bring photos of"),
        ({"others": 90}, "others.*90 were asked for: lower --others, "),
        ({"others": 15, "public": 30}, "the public.*30 were asked for: lower --public, "),
        ({"users": 1}, "at least 2 users"),
        ({"photos": 3}, "4 photos"),
    ],
)
def test_too_few_people_are_an_error_that_says_of_which(crowd, sizes, message):
    with pytest.raises(ValueError, match=message):
        dataset.choose(crowd, **({"users": 4, "photos": 10, "others": 8, "public": 5} | sizes))


def test_what_is_no_photo_is_passed_by(tmp_path):
    root = folder(tmp_path, a=2)
    for name in ("notes.txt", "._a_000.jpg"):
        (root / "a" / name).touch()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "b.jpg").touch()
    (root / "empty").mkdir()
    assert {name: [p.name for p in paths] for name, paths in photos_of(root).items()} == {
        "a": ["a_000.jpg", "a_001.jpg"]
    }


def test_what_is_no_file_is_passed_by_and_named(tmp_path):
    person = tmp_path / "p"
    person.mkdir()
    (person / "good.jpg").write_bytes(b"x")
    (person / "folder.jpg").mkdir()
    os.mkfifo(person / "pipe.png")
    (person / "link.jpg").symlink_to(person / "nowhere")
    with pytest.warns(UserWarning, match="is passed by") as warned:
        assert photos_of(tmp_path) == {"p": [person / "good.jpg"]}
    assert [Path(str(warning.message).split(" is passed by")[0]).name for warning in warned] == [
        "folder.jpg", "link.jpg", "pipe.png",
    ]  # fmt: skip


def test_a_folder_without_people_is_refused(tmp_path):
    with pytest.raises(ValueError, match="it has none"):
        photos_of(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        photos_of(tmp_path / "nowhere")


def test_saved_people_come_back_also_in_another_place(crowd, tmp_path):
    people = dataset.choose(crowd, users=3, photos=8, others=4, public=2)
    people.save(tmp_path / "people.json", crowd)
    assert People.load(tmp_path / "people.json", crowd) == people
    assert str(crowd) not in (tmp_path / "people.json").read_text()
    moved = crowd.rename(tmp_path / "moved")
    there = People.load(tmp_path / "people.json", moved)
    assert [p.relative_to(moved) for p in there.photos()] == [p.relative_to(crowd) for p in people.photos()]


def test_a_photo_is_taken_once_also_if_there_are_copies(tmp_path):
    """Without its three copies one has too few photos for a user, and keeps those that differ."""
    root = folder(tmp_path / "faces", a=8, b=8, c=8, d=4)
    sizes = {"photos": 8, "others": 1, "public": 0}
    for number in (1, 3, 5):
        shutil.copy(root / "a" / "a_000.jpg", root / "a" / f"a_00{number}.jpg")
    people = dataset.choose(root, users=2, **sizes)
    assert {user.name for user in people.users} == {"b", "c"}
    with pytest.raises(ValueError, match="2 people who can be users"):
        dataset.choose(root, users=3, **sizes)
    people = dataset.choose(root, users=3, photos=5, others=1, public=0)
    (a,) = (user for user in people.users if user.name == "a")
    assert [photo.name for photo in (*a.scraped, *a.tests)] == [f"a_00{number}.jpg" for number in (0, 4, 7, 2, 6)]


def test_a_photo_that_two_people_have_is_taken_once_and_named(tmp_path):
    root = folder(tmp_path / "faces", a=8, b=9, c=3)
    for copy in (root / "a" / "a_009.jpg", root / "b" / "b_000.jpg"):
        shutil.copy(root / "a" / "a_001.jpg", copy)
    said: list[str] = []
    people = dataset.choose(root, users=2, photos=8, others=1, public=0, warn=said.append)
    assert [user.name for user in people.users] == ["a", "b"]
    assert root / "a" / "a_001.jpg" in people.users[0].tests
    assert root / "b" / "b_000.jpg" not in people.photos()
    own, shared = said
    same = f"is left out: it is the same file as {root / 'a' / 'a_001.jpg'}"
    assert own == f"{root / 'a' / 'a_009.jpg'} {same}"
    assert shared == f"{root / 'b' / 'b_000.jpg'} {same}, so one of the two people is wrong"


def test_a_folder_without_copies_is_drawn_from_as_it_is(crowd, tmp_path):
    """The draw depends on names and numbers of photos alone."""
    said: list[str] = []
    people = dataset.choose(crowd, users=3, photos=8, others=4, public=2, seed=5, warn=said.append)
    assert said == []
    shutil.copy(crowd / "poor1" / "poor1_000.jpg", crowd / "poor1" / "poor1_001.jpg")
    assert dataset.choose(crowd, users=3, photos=8, others=4, public=2, seed=5, warn=said.append) == people
    assert len(said) == 1


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        (({"a": (["a/1"], ["a/2"])}, {"a": (["a/3"], [])}, {}), "has a more than once.*keep one"),
        (({"a": (["a/1"], ["a/2"])}, {}, {"a": (["a/3"], [])}), "has a more than once.*keep one"),
        (({"a": (["a/1"], ["a/1"])}, {}, {}), "1 .scraped of a. is the same as .*1 .tests of a.*keep one"),
        (({"a": (["a/1"], ["a/copy"])}, {}, {}), "1 .scraped of a. is the same as .*copy .tests of a."),
        (({"a": (["a/1"], ["a/2"])}, {"b": (["a/copy"], [])}, {}), "scraped of a. is the same as .*scraped of b."),
        (({"a": (["a/1"], ["a/2"])}, {"b": (["a/3", "a/3"], [])}, {}), "scraped of b. is the same as .*scraped of b."),
    ],
)
def test_lists_in_which_a_tracker_would_know_its_tests_are_refused(tmp_path, lists, said):
    (tmp_path / "a").mkdir()
    for name, text in {"1": "one", "2": "two", "3": "other", "copy": "one"}.items():
        (tmp_path / "a" / name).write_text(text)
    written = {
        kind: {name: {"scraped": scraped, "tests": tests} for name, (scraped, tests) in people.items()}
        for kind, people in zip(("users", "others", "public"), lists, strict=True)
    }
    (tmp_path / "people.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match=said):
        People.load(tmp_path / "people.json", tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"users": [], "others": {}, "public": {}}', '{"users": {"a": {}}, "others": {}, "public": {}}'],
)
def test_a_file_that_is_no_list_of_people_is_refused(tmp_path, text):
    (tmp_path / "people.json").write_text(text)
    with pytest.raises(ValueError, match="no list of people"):
        People.load(tmp_path / "people.json", tmp_path)


def test_photos_that_are_gone_are_counted_and_named(tmp_path):
    lists = {"users": {"a": {"scraped": ["a/1.jpg"], "tests": ["a/2.jpg"]}}, "others": {}, "public": {}}
    (tmp_path / "people.json").write_text(json.dumps(lists))
    with pytest.raises(ValueError, match=r"2 photos.*1\.jpg"):
        People.load(tmp_path / "people.json", tmp_path)
