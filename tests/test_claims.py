"""What is claimed of cloaks is what benchmarks/results says, and a photo's sentences fit the photo."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from statistics import mean

import pytest
from conftest import REPOSITORY

from engine.bulk import claims

RESULTS = REPOSITORY / "benchmarks" / "results"


def rows(folder: str, preset: str, **values: object) -> list[dict]:
    found = json.loads((RESULTS / folder / "results.json").read_text())["presets"][preset]["rows"]
    return [row for row in found if all(row[key] == value for key, value in values.items())]


def protection(folder: str, preset: str, **values: object) -> float:
    return mean(row["protection"] for row in rows(folder, preset, **values))


def left_out(head: str) -> dict[str, float]:
    (recipe,) = json.loads((RESULTS / "leave-one-out.json").read_text())["recipes"].values()
    return {row["recogniser"]: row["galleries"][0][head]["rate"] for row in recipe}


def plain(preset: str, **values: object) -> float:
    return protection("evaluation-plain", preset, **values)


def judged(recogniser: str) -> float:
    return protection("evaluation", "protection", recogniser=recogniser, head="linear head")


def named(part: str) -> float:
    """Share of the cloaked photos that still lie nearest to their own person."""
    return 1 - mean(row["astray"] for row in rows("evaluation-plain", "space", part=part))


def found() -> float:
    return max(rows("evaluation-plain", "detection"), key=lambda row: row["auc"])["found_at_5"]


FIGURES: dict[str, Callable[[], list[float]]] = {
    "Photos that others publish": lambda: [plain("leaked", leaked=share, part="in") for share in (0, 0.1, 0.25)],
    "Recognisers that took no part": lambda: [
        mean(left_out("linear head").values()),
        mean(left_out("1-NN").values()),
        left_out("linear head")["sface"],
    ],
    "Recognisers that took part": lambda: [judged("dlib"), judged("sface")],
    "The cloaked photo itself": lambda: [named("held-out"), named("in")],
    "Trackers that adapt": lambda: [
        row["protection"] for row in rows("evaluation-plain", "adaptive", head="linear head")[::-1]
    ],
    "Purification": lambda: [
        plain("purification", purification=how, part="in") for how in ("nothing", "blur, sigma 1", "blur, sigma 2")
    ],
    "Being noticed": lambda: [found(), 0.05],
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


def test_jpeg_takes_nothing() -> None:
    assert plain("purification", purification="JPEG 75", part="in") >= plain(
        "purification", purification="nothing", part="in"
    )


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
    assert "0.80 to 1.31" in said["Against which networks"]
    assert list(dict(claims.measured([120], 0.0068, {}))) == ["How visible", "Not known"], "nothing was measured"


def test_the_page_of_collections_has_the_same_list() -> None:
    page = (REPOSITORY / "engine" / "bulk" / "README.md").read_text()
    assert claims.limits_markdown().strip() in page, "run python tools/limits.py engine/bulk/README.md"


def test_sentences_are_short() -> None:
    texts = [limit.why for limit in claims.LIMITS]
    texts += [text for side in (100, 900) for _, text in claims.measured([side], 0.0165, {"sface": 0.8})]
    for text in texts:
        for sentence in re.split(r"[.;] ", text):
            assert len(sentence.split()) <= 25, sentence
