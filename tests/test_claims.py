"""What is claimed of cloaks is what benchmarks/results says, and a photo's sentences fit the photo."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from statistics import mean
from typing import Any

import pytest
from conftest import REPOSITORY

from engine.bulk import claims
from engine.config import Recipe

RESULTS = REPOSITORY / "benchmarks" / "results"
DEFAULT = "evaluation"
"""Of the default recipe as it is."""


def presets(folder: str) -> dict[str, dict]:
    return json.loads((RESULTS / folder / "results.json").read_text())["presets"]


def rows(preset: str, folder: str = DEFAULT, **values: Any) -> list[dict]:
    """Rows of a preset that have these values."""
    measured = presets(folder)[preset]["rows"]
    return [row for row in measured if all(row[key] == value for key, value in values.items())]


def protection(preset: str, **values: Any) -> float:
    return mean(row["protection"] for row in rows(preset, **values))


def left_out(head: str, file: str = "leave-one-out.json") -> dict[str, float]:
    (recipe,) = json.loads((RESULTS / file).read_text())["recipes"].values()
    return {row["recogniser"]: row["galleries"][0][head]["rate"] for row in recipe}


def judged(recogniser: str) -> float:
    return protection("protection", recogniser=recogniser, head="linear head")


def named(part: str) -> float:
    """Share of the cloaked photos that still lie nearest to their own person."""
    return 1 - mean(row["astray"] for row in rows("space", part=part))


def detected() -> float:
    detectors = rows("detection")
    assert len(detectors) == 9
    return max(row["found_at_5"] for row in detectors)


FIGURES: dict[str, Callable[[], list[float]]] = {
    "Photos that others publish": lambda: [protection("leaked", leaked=share, part="in") for share in (0, 0.1, 0.25)],
    "Recognisers that took no part": lambda: [
        mean(left_out("linear head").values()),
        mean(left_out("1-NN").values()),
        left_out("linear head")["sface"],
    ],
    "Recognisers that took part": lambda: [judged("dlib"), judged("sface")],
    "The cloaked photo itself": lambda: [named("in"), named("held-out")],
    "Trackers that adapt": lambda: [
        protection("adaptive", version=version, head=head)
        for head in ("linear head", "1-NN")
        for version in ("plain", "adapted")
    ],
    "Purification": lambda: [
        protection("purification", purification=how, part="in")
        for how in ("nothing", "blur, sigma 1", "blur, sigma 2", "JPEG 75")
    ],
    "Being noticed": lambda: [detected(), 0.05],
}
"""By limit its percentages, in the order of the text."""


@pytest.mark.parametrize("limit", claims.LIMITS, ids=lambda limit: limit.what)
def test_figures_are_those_of_the_results(limit: claims.Limit) -> None:
    said = [int(figure) for figure in re.findall(r"(\d+)(?= %| to \d+ %)", limit.why)]
    if limit.what not in FIGURES:
        assert not re.search(r"\d", limit.why), "a figure that nothing measured"
        assert not limit.command
        return
    assert limit.command
    assert said == [round(100 * value) for value in FIGURES[limit.what]()]


def test_blur_costs_the_tracker_no_accuracy() -> None:
    taken = rows("purification", part="in")
    whole = {row["tracker"]: row["others"] for row in taken if row["purification"] == "nothing"}
    blurred = [row for row in taken if row["purification"].startswith("blur")]
    assert len(blurred) == 8
    assert all(row["others"] >= whole[row["tracker"]] for row in blurred)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe.of("low"), Recipe.of("high", steps=80), Recipe(seed=4)])
def test_what_was_measured_is_said_of_the_default(recipe: Recipe) -> None:
    said = " ".join(claims.protection(recipe))
    given = [round(100 * row["protection"]) for row in rows("protection", part="in")]
    assert f"missed {min(given)} to {max(given)} % of a person's clean photos" in said
    heads = ("linear head", "1-NN", "nearest centroid")
    unseen = [round(100 * rate) for head in heads for rate in left_out(head).values()]
    assert f"Those built on another network missed {min(unseen)} to {max(unseen)} %" in said
    assert all(name in said for name in recipe.names)
    assert claims.UNMEASURED not in said


@pytest.mark.parametrize(
    "changes",
    [
        {"extractors": ("sface",)}, {"steps": 2}, {"objective": "away"}, {"rho": 0.001}, {"solver": "paper"},
        {"enough": 0.1}, {"cap": 0.01},
    ],
)  # fmt: skip
def test_of_other_cloaks_nothing_is_claimed(changes: dict[str, Any]) -> None:
    recipe = Recipe.of("mid", **changes)
    assert claims.protection(recipe) == (claims.UNMEASURED,)
    assert claims.UNMEASURED.startswith("How far these cloaks mislead recognisers is not measured")


def test_cloaks_of_one_budget_take_their_words_from_the_face() -> None:
    small, large = claims.visible(120, 0.0068), claims.visible(640, 0.0068)
    assert "0.0068" in small
    assert "patches" in large
    assert "640 pixels" in large
    assert "patches" not in small
    assert claims.visible(120, 0.0165) != small.replace("0.0068", "0.0165")


def test_a_photo_says_how_visible_against_what_and_what_is_not_known() -> None:
    said = dict(claims.measured([120, 640], 0.0068, {"sface": 0.8, "web-incept": 1.31}))
    assert list(said) == ["How visible", "Against which networks", "Not known"]
    assert "640" in said["How visible"], "the largest face shows most"
    assert said["Against which networks"].startswith("sface and web-incept.")
    assert "Before this file was written the embedding had moved by 0.80 to 1.31." in said["Against which networks"]
    assert list(dict(claims.measured([120], 0.0068, {}))) == ["How visible", "Not known"], "nothing was measured"


def test_the_page_of_collections_has_the_same_list() -> None:
    page = (REPOSITORY / "engine" / "bulk" / "README.md").read_text()
    assert claims.limits_markdown().strip() in page, "run python tools/limits.py engine/bulk/README.md"


def test_sentences_are_short() -> None:
    texts = [limit.why for limit in claims.LIMITS]
    texts += [claims.UNMEASURED, *claims.by_networks(Recipe().names)[1:]]
    texts += [text for side in (100, 900) for _, text in claims.measured([side], 0.0165, {"sface": 0.8})]
    for text in texts:
        for sentence in re.split(r"[.;] ", text):
            assert len(sentence.split()) <= 25, sentence


def test_small_faces_are_said_to_look_as_they_were_measured() -> None:
    seen = json.loads((RESULTS / "visibility.json").read_text())["rows"]

    def over(key: str) -> bool:
        by_kind = {kind: mean(row[key] for row in seen if row["kind"] == kind) for kind in ("default, mid", "JPEG 75")}
        return by_kind["default, mid"] > by_kind["JPEG 75"]

    assert not over("flip")
    assert over("flip_99")
    assert "less of it than of JPEG at quality 75, in single spots more" in claims.visible(120, 0.0068)


def first_page() -> str:
    """The words of the first page: no code, no tables, links by their text."""
    text = re.sub(r"```.*?```|<!-- efficacy.*?end -->", "", (REPOSITORY / "README.md").read_text(), flags=re.DOTALL)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    return " ".join(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "").split())


def listed() -> dict[str, str]:
    """By words of the first page the command that prints their figure, from the list in benchmarks/README.md."""
    page = (REPOSITORY / "benchmarks" / "README.md").read_text()
    section = page.partition("## Figures of the first page")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return {words: command.strip("` ") for words, command in rows}


def test_every_figure_of_the_first_page_has_its_command() -> None:
    text, figures = first_page(), listed()
    for words, command in figures.items():
        assert words in text, f"the first page does not say {words!r} any more"
        assert command.split()[0] in ("cloak", "python", "time")
        for script in re.findall(r"benchmarks/\w+\.py", command):
            assert (REPOSITORY / script).is_file()
    for figure in re.finditer(r"[\d.]+(?: to [\d.]+)? (?:%|times|s|pixels)(?!\w)", text):
        assert any(figure[0] in words for words in figures), f"{figure[0]} is in no line of the list"


def test_figures_of_the_first_page_are_those_of_the_results() -> None:
    text = first_page()
    means = [round(100 * mean(left_out(head).values())) for head in ("linear head", "1-NN")]
    assert "{} % with a linear head and {} % with 1-NN".format(*means) in text
    high = [round(100 * row["protection"]) for row in rows("protection", "evaluation-high", part="in")]
    assert f"protection is {min(high)} to {max(high)} % on networks that took part" in text
    given = [left_out(head, "leave-one-out-high.json") for head in ("linear head", "1-NN", "nearest centroid")]
    assert [len(rates) for rates in given] == [7, 7, 7]
    unseen = [round(100 * rate) for rates in given for rate in rates.values()]
    assert f"Left out in turn, the seven have {min(unseen)} to {max(unseen)} %" in text
    never = [round(100 * row["protection"]) for row in rows("protection", "evaluation-high", part="held-out")]
    assert f"mobileface, which never takes part, has {min(never)} to {max(never)} %" in text
    sizes = json.loads((RESULTS / "jpeg.json").read_text())["rows"]
    written = [row["size"] for row in sizes if row["steps"] == "as written"]
    assert f"{min(written):.1f} to {max(written):.0f} times as large" in text
