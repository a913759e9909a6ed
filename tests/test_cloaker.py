"""The Python API, with real photos and faces and a tiny network."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_cloak
from PIL import Image

from engine import Cloaker, Recipe
from engine.bulk import people
from engine.bulk.batching import FaceCloak
from engine.bulk.prepare import prepare
from engine.bulk.results import WeakerWarning
from engine.checkpoint import CheckpointError
from engine.dssim import dssim_pixels
from engine.faces import region_box
from engine.types import Face

RECIPE = Recipe(extractors=("tiny",), steps=6)


@pytest.fixture(scope="module")
def cloaker(tmp_path_factory: pytest.TempPathFactory) -> Cloaker:
    tiny_cloak.provide(tmp_path_factory.mktemp("weights") / "tiny")
    return Cloaker(recipe=RECIPE, batch=2, workers=2)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    with Image.open(Path(__file__).parent / "photos" / "astronaut.png") as image:
        return np.asarray(image.convert("RGB"))


def test_every_kind_of_image_in_order_and_bad_ones_as_results(
    cloaker: Cloaker, astronaut: np.ndarray, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    wall = np.full((90, 120, 3), 77, np.uint8)
    images = [
        astronaut,
        str(photos / "obama.jpg"),
        wall,
        tmp_path / "text.jpg",
        Image.fromarray(astronaut),
        (photos / "astronaut.png").read_bytes(),
        astronaut.mean(axis=2).astype(np.uint8),
        astronaut.astype(np.float32),
    ]
    results = cloaker.cloak(images)
    statuses = ["cloaked", "cloaked", "no_face", "failed", "cloaked", "cloaked", "cloaked", "failed"]
    assert [result.status for result in results] == statuses
    for image, result in zip(images, results, strict=True):
        assert (result.image is None) == (result.status != "cloaked")
        assert bool(result.reason) == (result.status != "cloaked")
        if result.image is not None and isinstance(image, np.ndarray):
            original = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
            (face,) = result.faces
            box = region_box(Face(np.array(face.box, np.float32), np.zeros((5, 2), np.float32), 1.0), image.shape[:2])
            top, left, bottom, right = box
            measured = dssim_pixels(original[top:bottom, left:right], result.image[top:bottom, left:right])
            assert 0.001 < measured <= RECIPE.rho
            assert face.dssim == pytest.approx(measured, rel=0.02)  # the box is rounded to a tenth of a pixel
            outside = np.ones(image.shape[:2], bool)
            outside[top - 2 : bottom + 2, left - 2 : right + 2] = False
            np.testing.assert_array_equal(result.image[outside], original[outside])
    np.testing.assert_array_equal(results[0].image, results[4].image)
    grey = results[6].image
    assert grey is not None
    assert (grey == grey[..., :1]).all()
    assert "uint8" in results[7].reason


def test_a_mode_and_a_recipe_are_not_both_given(cloaker: Cloaker) -> None:
    assert Cloaker(recipe=RECIPE, batch=2).recipe == cloaker.recipe
    with pytest.raises(ValueError, match=r"one of the two: mode='high', or recipe=Recipe\.of\('high', \.\.\.\)"):
        Cloaker("high", recipe=RECIPE)
    with pytest.raises(ValueError, match="pass it as recipe="):
        Cloaker(RECIPE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"recipe": "mid"}, TypeError, r"recipe must be a Recipe, as Recipe\.of\('mid', steps=80\); got 'mid'"),
        ({"detection": "x"}, TypeError, r"detection must be a Detection, as Detection\(min_size=40\); got 'x'"),
        ({"detector": 5}, TypeError, "detector must have a method detect, .*; got 5"),
        *(
            ({name: value}, TypeError, f"{name} must be a whole number; got {value!r}")
            for name in ("batch", "devices", "workers")
            for value in (1.5, "3", True, np.True_)
        ),
        ({"batch": 0}, ValueError, "batch must be at least 1; got 0"),
        ({"workers": -1}, ValueError, "workers must be at least 1; got -1"),
        ({"devices": 0}, ValueError, "devices must be .*1.*; got 0"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(settings: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Cloaker(**settings)


def test_a_cloaker_says_that_it_cannot_be_pickled(cloaker: Cloaker) -> None:
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="make one in each process"):
            copied(cloaker)
    assert Cloaker(recipe=RECIPE, batch=np.int64(2), workers=np.int32(2)).workers == 2  # type: ignore[arg-type]


def test_one_image_need_not_be_a_list_and_alone_it_gets_the_same_cloak(
    cloaker: Cloaker, astronaut: np.ndarray, photos: Path
) -> None:
    alone = cloaker.cloak(astronaut)[0].image
    among = cloaker.cloak([photos / "obama.jpg", photos / "biden.jpg", astronaut])[2].image
    np.testing.assert_array_equal(alone, among)


def test_streams_are_lazy_and_bounded(cloaker: Cloaker, astronaut: np.ndarray) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield astronaut

    results = cloaker.stream(endless())
    with pytest.warns(WeakerWarning, match="away") as said:
        assert [next(results).status for _ in range(6)] == ["cloaked"] * 6
    assert [warning.filename for warning in said] == [__file__]
    assert taken <= 6 + 4 * cloaker.workers + 2 * cloaker.batcher.size
    results.close()  # type: ignore[attr-defined]


def test_two_threads_may_share_it(cloaker: Cloaker, astronaut: np.ndarray, photos: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda image: cloaker.cloak(image)[0].image, [astronaut, photos / "obama.jpg"])
    np.testing.assert_array_equal(first, cloaker.cloak(astronaut)[0].image)
    np.testing.assert_array_equal(second, cloaker.cloak(photos / "obama.jpg")[0].image)


@pytest.mark.slow
def test_only_one_person_of_a_group_is_cloaked(cloaker: Cloaker, photos: Path, tmp_path: Path) -> None:
    del cloaker  # for its registration of "tiny"
    with Image.open(photos / "obama.jpg") as image:
        first = np.asarray(image.convert("RGB"))[:700, :900]
    with Image.open(photos / "biden.jpg") as image:
        second = np.asarray(image.convert("RGB").resize((485, 1102)))[:700]
    group = np.concatenate([first, second], axis=1)
    only = Cloaker(recipe=RECIPE, batch=2, only=photos / "obama.jpg")
    together, absent = only.cloak([group, second])
    assert together.status == "cloaked"
    assert together.image is not None
    assert len(together.faces) == 1
    np.testing.assert_array_equal(together.image[:, 900:], second)
    assert (together.image[:, :900] != first).any()
    assert together.notes == ("Left as they were, unlike the reference photo: 1 face.",)
    assert absent.status == "skipped"
    assert "reference photo" in absent.reason
    Image.fromarray(group).save(tmp_path / "group.png")
    with pytest.raises(ValueError, match="must show one face"):
        Cloaker(recipe=RECIPE, only=tmp_path / "group.png")
    beside = Cloaker(recipe=RECIPE, batch=2, only=[tmp_path / "group.png", photos / "obama.jpg"])
    assert beside.only is not None
    assert only.only is not None
    assert people.same_person(beside.only, only.only), "the one who is in both"
    assert [len(result.faces) for result in beside.cloak([group, second])] == [1, 0]
    with pytest.raises(ValueError, match=r"different people: .*photo .*biden.jpg and the reference photo .*obama.jpg"):
        Cloaker(recipe=RECIPE, only=[photos / "biden.jpg", photos / "obama.jpg"])
    with pytest.raises(ValueError, match=r"no face like the person's in the reference photo .*astronaut.png"):
        Cloaker(recipe=RECIPE, only=[photos / "obama.jpg", first, photos / "astronaut.png"])


@pytest.mark.slow
def test_objective_target_gives_each_person_one_goal(photos: Path) -> None:
    with Image.open(photos / "obama.jpg") as image:
        obama = np.asarray(image.convert("RGB"))
    with Image.open(photos / "biden.jpg") as image:
        biden = np.asarray(image.convert("RGB"))
    recipe = Recipe(extractors=("mobileface",), steps=1, objective="target")
    cloaker = Cloaker(recipe=recipe, batch=2)
    sources = [obama, np.ascontiguousarray(obama[:900]), biden, np.ascontiguousarray(biden[:1500])]
    targets = cloaker.targets(sources)  # type: ignore[arg-type]
    assert len(targets) == 4
    goals = {goal[0].tobytes() for goal in targets.values()}
    assert len(goals) <= 2
    by_photo = [next(goal for (sha, _), goal in targets.items() if sha == digest) for digest in map(_digest, sources)]
    np.testing.assert_array_equal(by_photo[0], by_photo[1])
    np.testing.assert_array_equal(by_photo[2], by_photo[3])
    assert all(result.status == "cloaked" for result in cloaker.cloak(sources))
    with pytest.raises(ValueError, match=r"use \.cloak"):
        next(cloaker.stream(sources))


@pytest.mark.slow
def test_objective_person_gives_each_person_the_mean_of_their_faces(photos: Path) -> None:
    with Image.open(photos / "obama.jpg") as image:
        obama = np.asarray(image.convert("RGB"))
    with Image.open(photos / "biden.jpg") as image:
        biden = np.asarray(image.convert("RGB"))
    cloaker = Cloaker(recipe=Recipe(extractors=("mobileface",), steps=1), batch=2)
    sources = [obama, np.ascontiguousarray(obama[:900]), biden]
    means = cloaker.targets(sources)  # type: ignore[arg-type]
    assert len(means) == 3
    embeddings = {}
    for source in sources:
        prepared = prepare(source, cloaker.detector)
        embeddings[prepared.sha256, 0] = cloaker.batcher.embed([prepared.cuts[0].canvas])[0][0]
    first, second, third = (key for source in sources for key in embeddings if key[0] == _digest(source))
    mean = embeddings[first] + embeddings[second]
    for key in (first, second):
        np.testing.assert_allclose(means[key][0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(means[third][0], embeddings[third], atol=1e-5)
    assert cloaker.targets(sources[:1]) == {}  # type: ignore[arg-type]
    with pytest.warns(WeakerWarning, match="away"):
        assert next(cloaker.stream(sources[2:])).status == "cloaked"


def _digest(array: np.ndarray) -> str:
    from engine.bulk.prepare import digest

    return digest(array)


def test_target_needs_a_bank_of_the_same_extractor(cloaker: Cloaker) -> None:
    del cloaker
    with pytest.raises(CheckpointError, match="make_population"):
        Cloaker(recipe=Recipe(extractors=("tiny",), objective="target"))


def test_a_goal_moves_every_face_there_and_must_fit(astronaut: np.ndarray, cloaker: Cloaker) -> None:
    goal = -np.eye(1, tiny.DIM, dtype=np.float32)[0]
    recipe = replace(RECIPE, objective="target", jitter=0.0, steps=10)
    (result,) = Cloaker(recipe=recipe, goal=(goal,), batch=2).stream([astronaut])
    assert result.image is not None

    def distance(image: np.ndarray) -> float:
        canvas = prepare(image, cloaker.detector).cuts[0].canvas
        return float(np.linalg.norm(cloaker.batcher.embed([canvas])[0][0] - goal))

    assert distance(result.image) < distance(astronaut) - 0.1
    with pytest.raises(ValueError, match="away"):
        Cloaker(recipe=RECIPE, goal=(goal,))
    with pytest.raises(ValueError, match="an embedding for each extractor"):
        Cloaker(recipe=recipe, goal=(goal, goal))
    for wrong in (np.nan, np.inf, 0, 1e-30, 2):
        with pytest.raises(ValueError, match="length 1"):
            Cloaker(recipe=recipe, goal=(np.full_like(goal, wrong),))


def test_a_stream_warns_only_if_its_cloaks_are_weaker_than_asked_for(cloaker: Cloaker, astronaut: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        away = Cloaker(recipe=replace(RECIPE, objective="away"), batch=2)
        assert next(away.stream([astronaut])).status == "cloaked"
        assert cloaker.cloak(astronaut)[0].status == "cloaked"


# --- what is called cloaked is cloaked ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [{"dense": np.nan}, {"dense": 0.0}, {"first": 1e30, "dense": 1e30}])
@pytest.mark.parametrize("companion", [False, True])
def test_a_network_that_computes_nothing_fails_the_photo(
    weights: dict[str, float], companion: bool, cloaker: Cloaker, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever makes its embeddings so, and whatever network moves beside it: NaN, none, or beyond float32."""
    broken = tiny.extractor(3)
    params = {name: leaf * weights.get(name, 1.0) for name, leaf in broken.params.items()}
    networks = {"broken": replace(broken, params=params, name="broken"), "tiny": tiny.extractor()}
    monkeypatch.setattr("engine.bulk.batching.load", lambda name, precision: networks[name])
    names = ("tiny", "broken") if companion else ("broken",)
    (result,) = Cloaker(recipe=replace(RECIPE, extractors=names, objective="away"), batch=1).cloak(astronaut)
    assert (result.status, result.image, result.faces) == ("failed", None, ())
    assert "No cloak was found" in result.reason


CLOAK = FaceCloak(np.full((4, 4, 3), 3 / 255, np.float32), 0.005, (1.2, 0.8), 40)
FAULTS = {
    "nothing": (CLOAK, None),
    "no shift": (CLOAK._replace(shift=(0.0, 0.8)), "a moved by 0,"),
    "rounding": (CLOAK._replace(shift=(1.2, 1e-6)), "b moved by 1e-06,"),
    "nan": (CLOAK._replace(shift=(1.2, np.nan)), "b moved by nan,"),
    "infinite": (CLOAK._replace(shift=(np.inf, 1.2)), "a moved by inf,"),
    "negative": (CLOAK._replace(shift=(-1.0, 1.2)), "a moved by -1,"),
    "no change": (CLOAK._replace(delta=CLOAK.delta * 0), "no pixel"),
    "less than a grey level": (CLOAK._replace(delta=CLOAK.delta / 7), "no pixel"),
    "nan change": (CLOAK._replace(delta=CLOAK.delta * np.float32(np.nan)), "no pixel"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_a_cloak(name: str) -> None:
    cloak, said = FAULTS[name]
    fault = cloak.fault(("a", "b"))
    assert fault is None if said is None else said in (fault or "")
    assert "no pixel" in (cloak.fault(("a", "b"), scale=0.1) or "") or said


@pytest.mark.parametrize("solver", ["projected", "paper", "fawkes1"])
def test_one_step_of_any_solver_changes_the_photo(solver: str, cloaker: Cloaker, astronaut: np.ndarray) -> None:
    del cloaker
    recipe = Recipe.of("mid", solver=solver, steps=1, extractors=("tiny",), objective="away")
    (result,) = Cloaker(recipe=recipe, batch=1).cloak(astronaut)
    assert result.status == "cloaked"
    assert result.image is not None
    assert (result.image != astronaut).sum() > 1000
    assert result.faces[0].shift["tiny"] > 1e-3
