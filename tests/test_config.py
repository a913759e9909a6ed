"""engine.config: settings are checked when they are made, and an error names the field."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from engine.config import CANVAS, RHO, TEMPLATE, Detection, Member, Mode, Output, Recipe

NAN = float("nan")
INF = float("inf")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Detection, "min_score", 0.0),
        (Detection, "min_score", -0.1),
        (Detection, "min_score", 1.01),
        (Detection, "min_score", NAN),
        (Detection, "min_size", 15),
        (Detection, "min_size", -24),
        (Recipe, "rho", 0.0),
        (Recipe, "rho", -0.007),
        (Recipe, "rho", 0.5),
        (Recipe, "rho", NAN),
        (Recipe, "steps", 0),
        (Recipe, "steps", -1),
        (Recipe, "seed", -1),
        (Recipe, "seed", 2**32),
        (Recipe, "seed", 2**70),
        (Recipe, "extractors", ()),
        (Recipe, "objective", "towards"),
        (Recipe, "solver", "adam"),
        (Recipe, "jitter", -0.01),
        (Recipe, "jitter", 0.5),
        (Recipe, "jitter", NAN),
        (Recipe, "spectrum", -0.1),
        (Recipe, "spectrum", 1.01),
        (Recipe, "spectrum", NAN),
        (Recipe, "smoothing", -0.5),
        (Recipe, "smoothing", NAN),
        (Recipe, "smoothing", INF),
        (Recipe, "cap", 0.0),
        (Recipe, "cap", 1.5),
        (Output, "format", "gif"),
        (Output, "quality", 0),
        (Output, "quality", 101),
        (Output, "quality", 50.5),
        (Output, "quality", True),
        (Output, "quality", "90"),
    ],
)
def test_bad_value_is_refused_by_name(kind: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} .*{value if value != () else ''}"):
        kind(**{field: value})


def test_the_largest_seed_is_taken() -> None:
    assert Recipe(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Detection, "min_score", 1.0),
        (Detection, "min_size", 16),
        (Recipe, "rho", 0.499),
        (Recipe, "steps", 1),
        (Recipe, "jitter", 0.0),
        (Recipe, "spectrum", 0.0),
        (Recipe, "smoothing", 0.0),
        (Recipe, "coarse", 0.0),
        (Recipe, "cap", 1.0),
        (Recipe, "colour", True),
        (Output, "quality", 1),
        (Output, "quality", 100),
        (Output, "quality", np.int64(90)),
    ],
)
def test_value_at_the_edge_is_taken(kind: type, field: str, value: object) -> None:
    assert getattr(kind(**{field: value}), field) == value


@pytest.mark.parametrize("mode", ["low", "mid", "high"])
def test_mode_sets_the_budget_and_nothing_else(mode: Mode) -> None:
    assert Recipe.of(mode) == Recipe(rho=RHO[mode])


def test_the_modes_differ_and_mid_is_the_papers() -> None:
    assert RHO["low"] < RHO["mid"] < RHO["high"]
    assert Recipe.of("mid") == Recipe()
    assert RHO["mid"] == 0.007


def test_changes_override_the_mode_and_none_leaves_it() -> None:
    recipe = Recipe.of("high", steps=3, rho=None, solver="paper", extractors=None)
    assert recipe == Recipe(rho=RHO["high"], steps=3, solver="paper", objective="away")
    assert Recipe.of("high", rho=0.01).rho == 0.01


@pytest.mark.parametrize(
    ("mode", "changes", "error", "named"),
    [
        ("max", {}, ValueError, "mode must be one of low, mid, high; got 'max'"),
        ("low", {"steps": 0}, ValueError, "steps"),
        ("low", {"lambda_": 1}, TypeError, "lambda_"),
    ],
)
def test_recipe_of_checks_what_it_is_given(mode: str, changes: dict, error: type, named: str) -> None:
    with pytest.raises(error, match=named):
        Recipe.of(mode, **changes)  # type: ignore[bad-argument-type]


@pytest.mark.parametrize("weight", ["1e39", "1e-46", "1e7", "1e-7", "nan", "inf", "-1", "0", "1e400"])
def test_a_weight_that_float32_cannot_add_up_is_refused(weight: str) -> None:
    with pytest.raises(ValueError, match="from 1e-06 to 1e\\+06"):
        Recipe(extractors=("a", f"b:{weight}"))


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("net", Member("net")),
        ("net:2", Member("net", 2.0)),
        ("net:bfloat16", Member("net", 1.0, "bfloat16")),
        (" net : .5 : float32 ", Member("net", 0.5, "float32")),
    ],
)
def test_a_member_of_an_ensemble_has_a_name_a_weight_and_a_precision(text: str, member: Member) -> None:
    assert Member.parse(text) == member
    assert Recipe(extractors=("other", text)).members == (Member("other"), member)


@pytest.mark.parametrize(
    "text", ["", ":2", "net:", "net:0", "net:-1", "net:nan", "net:inf", "net:half", "net:1:2", "net:bfloat16:2"]
)
def test_what_is_no_member_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Recipe(extractors=("other", text))


def test_an_extractor_counts_once() -> None:
    with pytest.raises(ValueError, match="must differ"):
        Recipe(extractors=("net", "net:2"))


@pytest.mark.parametrize("given", [{"coarse": 0.0}, {"cap": 0.5}, {"colour": True}, {"lead": 0.0}])
def test_what_the_default_solver_alone_can_choose(given: dict) -> None:
    with pytest.raises(
        ValueError, match="coarse, cap, colour, turn and lead are choices of the solver 'projected', not of 'paper'"
    ):
        Recipe(solver="paper", **given)


def test_recipes_are_frozen_and_equal_by_value() -> None:
    """They are keys of the compile cache and of the manifest."""
    recipe = Recipe.of("mid", seed=3)
    assert hash(recipe) == hash(Recipe.of("mid", seed=3))
    assert recipe != Recipe.of("mid", seed=4)
    with pytest.raises(FrozenInstanceError):
        recipe.steps = 1  # type: ignore[misc]


def test_template_lies_upright_within_the_canvas() -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = TEMPLATE
    assert left_eye[0] < nose[0] < right_eye[0] < CANVAS
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1]) < CANVAS
    assert left_mouth[0] < right_mouth[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"extractors": "mobileface"}, "got the text 'mobileface'"),
        ({"extractors": (1,)}, r"extractors must be names, .* got \(1,\)"),
        ({"extractors": 1}, "extractors must be names, .* got 1"),
        ({"rho": "a"}, "rho must be a number; got 'a'"),
        ({"steps": 1.5}, "steps must be a whole number; got 1.5"),
        ({"steps": True}, "steps must be a whole number; got True"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"turn": "1"}, "turn must be a whole number"),
        ({"enough": "far"}, "enough must be a number"),
        ({"steps": 10**20}, "steps must be 1 to 1000000"),
        ({"coarse": -1}, r"coarse must be in \[0, 1000\]; got -1"),
        ({"coarse": float("inf")}, r"coarse must be in \[0, 1000\]; got inf"),
        ({"lead": -0.1}, r"lead must be in \[0, 10\]; got -0.1"),
        ({"lead": float("nan")}, r"lead must be in \[0, 10\]; got nan"),
    ],
    ids=str,
)
def test_what_is_no_recipe_is_named(given: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe(**given)


def test_a_list_of_names_will_do() -> None:
    assert hash(Recipe(extractors=["mobileface"])) == hash(Recipe(extractors=("mobileface",)))  # type: ignore[arg-type]
