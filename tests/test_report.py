"""The report of an evaluation: what it says, that it stands alone, and that nothing of others' becomes markup."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import efficacy
import pytest
from pages import assert_self_contained

from engine.config import CLOAKS, CROPS, Recipe
from engine.evaluate import figures, report, tables
from engine.evaluate.dataset import People, Person
from engine.evaluate.presets import Findings, Preset
from engine.evaluate.study import Study
from engine.extractors import registry

HOSTILE = (
    "<script>alert(1)<script>.jpg",
    "<img src=x onerror=alert(1)>.jpg",
    "\"><svg onload='alert(1)'>",
    "two\nlines | and a pipe",
    "turned\u202egpj.exe",
    "not\udcffutf8",
)


def preset(name: str) -> Preset:
    return Preset(
        name=name,
        title=f"Preset {name}",
        source="Fawkes (Shan et al. 2020), section 5.2",
        question="Does it?",
        cloaks=lambda study: [],
        embeddings=lambda study: 0,
        seconds=lambda study: 0.0,
        run=lambda study: Findings([], None, []),
    )


def row(recogniser: str, head: str, part: str, protection: float, floor: float = 0.015) -> dict[str, str | float | int]:
    return {
        "recogniser": recogniser,
        "head": head,
        "tracker": f"{head} on {recogniser}",
        "part": part,
        "others": 0.95,
        "others_floor": 0.96,
        "users": 20,
        "scraped": 100,
        "tests": 100,
        "other_people": 80,
        "faceless": 0,
        "protection": protection,
        "protection_low": max(protection - 0.06, 0.0),
        "protection_high": min(protection + 0.06, 1.0),
        "floor": floor,
        "floor_low": 0.0,
        "floor_high": floor + 0.02,
        "cloaked": 100,
        "dssim_mean": 0.006733155,
        "dssim_max": 0.00699935,
    }


ROWS = [
    row("web-incept", "linear head", "in", 0.8),
    row("web-incept", "1-NN", "in", 1 / 3),
    row("dlib", "linear head", "held-out", 0.24),
    row("dlib", "1-NN", "held-out", 0.02),
    row("sface", "linear head", "held-out", float("nan")),
]
ABOUT = {"recipe": {"extractors": ["web-incept"], "rho": 0.007, "objective": "away"}, "weights": {"web-incept": "ab"}}


def findings() -> dict[Preset, Findings]:
    figure = figures.new()
    figure.subplots().plot([0, 1], label="protection")
    hostile = [{"person": name, "protection": 0.5, "leaked": 0.25} for name in HOSTILE]
    return {
        preset("protection"): Findings(ROWS, figure, ["It does."], ["One network less than the paper."]),
        preset("people"): Findings(hostile, None, HOSTILE, HOSTILE),
    }


def test_everything_is_written_and_the_same_findings_give_the_same_bytes(tmp_path: Path) -> None:
    page = report.write(findings(), ABOUT, tmp_path)
    written = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert page == tmp_path / "report.html"
    assert set(written) == {
        "report.html", "results.json", "tables/protection.csv", "tables/protection.md", "tables/people.csv",
        "tables/people.md", "figures/protection.svg",
    }  # fmt: skip
    report.write(findings(), ABOUT, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in written} == written


def test_the_page_stands_alone_and_hostile_names_stay_text(tmp_path: Path) -> None:
    page = assert_self_contained(report.write(findings(), ABOUT, tmp_path).read_text())
    assert not page.all("script")
    assert not page.all("img")
    for shown in (
        "<script>alert(1)<script>.jpg",
        "<img src=x onerror=alert(1)>.jpg",
        "\"><svg onload='alert(1)'>",
        r"two\nlines | and a pipe",
        r"turned\u202egpj.exe",
        r"not\xffutf8",
    ):
        assert page.text.count(shown) == 3, "as a sentence, as a deviation and in the table"
    for said in (
        "80 % (74-86)",
        "1.5 % (0-3.5)",
        "held out",
        "mean DSSIM 0.00673",
        "users 20",
        "One network less",
        "25 %",
    ):
        assert said in page.text
    assert len(page.ids) == len(set(page.ids))


def test_tables_of_hostile_names_are_whole(tmp_path: Path) -> None:
    report.write(findings(), ABOUT, tmp_path)
    lines = (tmp_path / "tables" / "people.md").read_text().splitlines()
    assert len(lines) == 2 + len(HOSTILE)
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
    assert not [line for line in lines if "<" in line]
    read = list(csv.DictReader((tmp_path / "tables" / "people.csv").read_text().splitlines()))
    assert [record["person"] for record in read][:2] == list(HOSTILE[:2])


def test_results_are_unrounded_and_hold_what_they_rest_on(tmp_path: Path) -> None:
    report.write(findings(), ABOUT, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["schema"] == report.SCHEMA
    assert results["weights"] == ABOUT["weights"]
    saved = results["presets"]["protection"]
    assert saved["deviations"] == ["One network less than the paper."]
    assert saved["rows"][1]["protection"] == 1 / 3
    assert saved["rows"][4]["protection"] is None
    read = list(csv.DictReader(io.StringIO((tmp_path / "tables" / "protection.csv").read_text())))
    assert float(read[1]["protection"]) == 1 / 3
    assert len(read[0]) == len(ROWS[0])


def test_what_a_study_rests_on(tmp_path: Path) -> None:
    def people(root: str, photo: str = "b.jpg", test: str = "test", further: str = "further") -> People:
        photos = [tmp_path / root / "One" / name for name in ("a.jpg", photo)]
        for path, text in zip([*photos, tmp_path / root / "Two" / "c.jpg"], ("scraped", test, further), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        person = Person("One", (photos[0],), (photos[1],))
        return People(users=(person,), others=(), public=())

    def further(text: str) -> dict:
        study = Study(people("here", further=text), tmp_path, Recipe(), faces=tmp_path / "here")
        return report.about(study)["people"]["further"]

    rests = report.about(Study(people("here"), tmp_path, Recipe(extractors=("sface:2",))))
    assert rests["weights"] == {"sface": registry.find("sface").sha256}
    assert rests["people"]["users"] == 1
    assert rests["recipe"]["rho"] == 0.007
    assert rests["versions"]["jax"]
    assert (rests["cloaks"], rests["crops"]) == (CLOAKS, CROPS)
    json.dumps(rests)
    assert rests["people"]["sha256"] == report.people_sha256(people("there")), "it depends on where photos lie"
    assert rests["people"]["sha256"] != report.people_sha256(people("here", "c.jpg"))
    assert rests["people"]["sha256"] != report.people_sha256(people("here", test="exchanged"))
    assert further("one") == further("one") != further("exchanged")


def test_the_summary_says_what_is_protected_and_what_is_not() -> None:
    said = report.summary(ROWS)
    assert said[0].startswith("Protected against 1 of 2 trackers on networks that the cloaks were made on: web-incept")
    assert "linear head" in said[0]
    assert "80 %, floor 1.5 %" in said[0]
    assert said[1].startswith("Protected in part against 1 of 2")
    assert said[2].startswith("Protected in part against 1 of 3 trackers on networks that took no part")
    assert said[3].startswith("Not protected against 1 of 3")
    assert "dlib (1-NN) 2 %, floor 1.5 %" in said[3]
    assert said[4].startswith("Could not be measured: 1 of 3")
    assert "95 % of their photos when users cloak, on 96 %" in said[5]
    assert any("nothing is said about those" in line for line in report.summary(ROWS[:2]))
    assert report.summary([]) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"protection": 0.24, "protection_low": 0.18, "protection_high": 0.3}, "24 % (18-30)"),
        ({"floor": 0.015, "floor_low": 0.0, "floor_high": 0.0333}, "1.5 % (0-3.3)"),
        ({"protection": math.nan, "protection_low": math.nan, "protection_high": math.nan}, "-"),
        ({"protection": None, "protection_low": None, "protection_high": None}, "-"),
        ({"others": 0.5}, "50 %"),
        ({"others_count": 3}, "3"),
        ({"detector_accuracy": 0.875}, "88 %"),
        ({"auc": 0.99961}, "0.9996"),
        ({"dssim_max": 0.0069994}, "0.00700"),
        ({"rho": 0.007}, "0.007"),
        ({"part": "held-out"}, "held out"),
        ({"reason": "no key"}, "no key"),
    ],
)
def test_cells_are_read_easily(given: dict, expected: str) -> None:
    rows = [given, dict.fromkeys(given, 0.5)] if None in given.values() else [given]
    assert tables.table(rows).rows[0] == (expected,)


def test_the_condition_comes_first_and_the_floor_beside_the_protection() -> None:
    shown = tables.table([{"rho": rho, **entry, "note": "x"} for rho in (0.003, 0.007) for entry in ROWS[:2]])
    assert shown.headings[:6] == (
        "rho", "recogniser", "head", "network took part?", "protection (95 %)", "floor: no cloak (95 %)",
    )  # fmt: skip
    assert shown.headings[-1] == "note"
    assert "largest DSSIM 0.00700" in shown.setting
    assert "cloaked photos 100" in shown.setting


def test_the_readme_s_table_comes_from_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.write(findings(), ABOUT, tmp_path)
    results, readme = tmp_path / "results.json", tmp_path / "README.md"
    frame = "# Title\n\n<!-- efficacy: begin -->{}<!-- efficacy: end -->\n\nMore.\n"
    readme.write_text(frame.format("\nold\n"))
    assert efficacy.main([str(results), str(readme), "--check"]) == 1
    assert "differs" in capsys.readouterr().err
    assert "old" in readme.read_text(), "--check wrote"
    assert efficacy.main([str(results), str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(
        "# Title\n\n<!-- efficacy: begin -->\n\n| recogniser | in or held out | linear head | 1-NN |"
    )
    assert "| web-incept | in | 80 % (74-86); 1.5 % | 33 % (27-39); 1.5 % |" in text
    assert "| sface | held out | -; 1.5 % | - |" in text
    assert "100 cloaked photos" in text
    assert "largest 0.00700" in text
    assert text.endswith("<!-- efficacy: end -->\n\nMore.\n")
    assert efficacy.main([str(results), str(readme), "--check"]) == 0


def test_a_page_s_brief_table_has_three_telling_rows(tmp_path: Path) -> None:
    shares = {"own": 0.9, "own weak": 0.5, "far": 0.05, "mid": 0.2, "near": 0.7, "blind": math.nan}
    rows = [row(name, "1-NN", "in" if name.startswith("own") else "held-out", share) for name, share in shares.items()]
    recipe = {"extractors": ["own"], "rho": 0.007, "objective": "away"}
    results = {"presets": {"protection": {"rows": rows}}, "recipe": recipe}
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = tmp_path / "page.md"
    page.write_text("<!-- a-brief: begin --><!-- a-brief: end -->\n<!-- a: begin --><!-- a: end -->\n")
    assert efficacy.main([str(tmp_path / "results.json"), str(page), "--name", "a"]) == 0
    brief, whole = page.read_text().split("<!-- a-brief: end -->")
    names = re.compile(r"^\| ([a-z ]+) \| (?:in|held out) \|", re.MULTILINE)
    assert names.findall(brief) == ["own weak", "near", "far"]
    few = {"presets": {"protection": {"rows": [entry for entry in rows if entry["recogniser"] not in ("mid", "near")]}}}
    few_rows = names.findall(tables.readme_table({**few, "recipe": recipe}, brief=True))
    assert few_rows == ["own", "own weak", "far"], "one recogniser took no part"
    assert names.findall(whole) == list(shares)
    assert efficacy.main([str(tmp_path / "results.json"), str(page), "--name", "a", "--check"]) == 0


@pytest.mark.parametrize("text", ["no marks", "<!-- efficacy: end --><!-- efficacy: begin -->"])
def test_a_readme_without_marks_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.write(findings(), ABOUT, tmp_path)
    (tmp_path / "README.md").write_text(text)
    assert efficacy.main([str(tmp_path / "results.json"), str(tmp_path / "README.md")]) == 2
    assert "efficacy: begin" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{}")
    assert efficacy.main([str(tmp_path / "results.json"), str(tmp_path / "README.md")]) == 2
    assert "protection" in capsys.readouterr().err


def test_percentages_are_short() -> None:
    shares = (0, 0.015, 0.02, 0.0996, 0.875, 1.0, None, float("nan"))
    assert [tables.percent(share) for share in shares] == ["0 %", "1.5 %", "2 %", "10 %", "88 %", "100 %", "-", "-"]
