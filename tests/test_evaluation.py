"""`cloak evaluate` as a whole: presets kept, resumed and reported; what the command says of wrong use; its price."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any

import fake_study
import numpy as np
import pytest
import tiny
from PIL import Image

from engine import cli
from engine.config import Output, Recipe
from engine.evaluate import cost, figures
from engine.evaluate import report as reports
from engine.evaluate.dataset import Person
from engine.evaluate.evaluation import evaluate, study_of
from engine.evaluate.presets import Findings, Preset, catalogue
from engine.evaluate.study import CloakSet, Study


def preset(name: str, log: list[str], *, fails: bool = False) -> Preset:
    """One that writes its name into the log when it is run."""

    def run(study: Study) -> Findings:
        log.append(name)
        if fails:
            raise RuntimeError("no more")
        figure = figures.new()
        figure.subplots().plot([0, 1])
        row = {"tracker": "x", "share": np.float32(0.5), "count": np.int64(3)}
        return Findings([row], figure, ["It is so."], ["None."])  # type: ignore[bad-argument-type]

    return Preset(name, name, "here", "Is it so?", lambda s: [s.wanted()], lambda s: 0, lambda s: 2.0, run)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_study.FakeStudy:
    monkeypatch.setattr(reports, "about", lambda study: {"recipe": str(study.recipe)})
    return fake_study.study(tmp_path)


def test_what_is_done_is_kept_and_reported_also_if_a_later_preset_fails(study: fake_study.FakeStudy) -> None:
    log: list[str] = []
    done, broken, second = preset("one", log), preset("broken", log, fails=True), preset("two", log)
    with pytest.raises(RuntimeError, match="no more"):
        evaluate(study, [done, broken, second])
    assert list(json.loads((study.out / "results.json").read_text())["presets"]) == ["one"]
    first = (study.out / "report.html").read_bytes()
    assert b"It is so." in first
    assert b"<svg" in first
    findings = evaluate(study, [done, second])
    assert log == ["one", "broken", "two"]
    assert findings[done].rows == [{"tracker": "x", "share": 0.5, "count": 3}]
    evaluate(study, [done])
    assert (study.out / "report.html").read_bytes() == first


def test_other_settings_and_restart_do_it_again(study: fake_study.FakeStudy) -> None:
    log: list[str] = []
    first = preset("one", log)
    evaluate(study, [first])
    evaluate(study, [first], restart=True)
    study.recipe = Recipe(extractors=("alpha",), steps=4)
    evaluate(study, [first])
    assert len(log) == 3


def test_a_restart_that_is_cut_short_leaves_nothing_old(study: fake_study.FakeStudy) -> None:
    """A call without restart then goes on: what is done anew is kept, and what is old is not taken for it."""
    log: list[str] = []
    one, two, other = preset("one", log), preset("two", log), preset("other", log)
    evaluate(study, [one, two, other])
    broken = two._replace(run=preset("broken", log, fails=True).run)
    with pytest.raises(RuntimeError, match="no more"):
        evaluate(study, [one, broken], restart=True)
    evaluate(study, [one, two, other])
    assert log == ["one", "two", "other", "one", "broken", "two"]


@pytest.mark.parametrize(("restart", "same"), [(["--restart"], "without --restart goes on"), ([], "command goes on")])
def test_how_to_go_on_is_said(
    restart: list[str], same: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "faces", 6, 8)
    monkeypatch.setitem(catalogue.PRESETS, "services", preset("services", [])._replace(run=_interrupted))
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += [*(f"--{name}={value}" for name, value in COUNTS.items()), "--presets=services", *restart]
    assert cli.main(command) == cli.INTERRUPTED
    assert f"What was done is in {tmp_path / 'out'}; the same command" in (told := capsys.readouterr().err)
    assert same in told


def _interrupted(study: Study) -> Findings:
    raise KeyboardInterrupt


def test_findings_do_not_outlive_the_code_that_made_them(
    study: fake_study.FakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    first = preset("one", log)
    evaluate(study, [first])
    with monkeypatch.context() as patch:
        patch.setattr(inspect, "getsource", lambda module: "another module of the preset")
        evaluate(study, [first])
    assert len(log) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 3}', "[" * 100_000])
def test_findings_that_are_damaged_are_found_again(text: str, study: fake_study.FakeStudy) -> None:
    log: list[str] = []
    first = preset("one", log)
    evaluate(study, [first])
    page = (study.out / "report.html").read_bytes()
    (study.out / "findings" / "one.json").write_text(text)
    evaluate(study, [first])
    assert len(log) == 2
    assert (study.out / "report.html").read_bytes() == page


def test_a_figure_that_was_tampered_with_does_not_reach_the_page(study: fake_study.FakeStudy) -> None:
    log: list[str] = []
    first = preset("one", log)
    evaluate(study, [first])
    place = study.out / "findings" / "one.json"
    record = json.loads(place.read_text())
    record["findings"]["figure"] = record["findings"]["figure"].replace("</svg>", "<script>alert(1)</script></svg>")
    place.write_text(json.dumps(record))
    evaluate(study, [first])
    assert len(log) == 2
    assert b"alert(1)" not in (study.out / "report.html").read_bytes()
    assert oct(place.stat().st_mode & 0o777) == "0o600"


def test_price_counts_a_photo_once(study: fake_study.FakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "gflops", lambda name: 1.0)
    monkeypatch.setattr(cost, "peak", lambda: 100.0)
    prices = cost.prices(study, [preset("one", []), preset("two", [])])
    assert [price.cloaks for price in prices] == [sum(len(user.scraped) for user in study.people.users), 0]
    assert [price.embeddings for price in prices] == [3 * 6 + 6 * 3, 0]
    assert prices[0].seconds > prices[1].seconds == 2.0


OTHERS: dict[str, tuple[Any, ...]] = {
    "rho": (0.017, 0.01700001),
    "steps": (90, 91),
    "extractors": (("web-incept",), ("web-incept:2",), ("web-incept", "sface")),
    "objective": ("away", "target"),
    "solver": ("paper", "fawkes1"),
    "jitter": (0.0, 0.1),
    "spectrum": (0.0, 0.1),
    "smoothing": (0.0, 2.0),
    "coarse": (0.0, 2.0),
    "seed": (1, 1234567, 1234568),
    "enough": (0.5, 1.0),
    "cap": (0.5, 1.0),
    "colour": (True,),
    "turn": (2, None),
    "lead": (0.0, 2.0),
    "format": ("png", "jpeg"),
    "quality": (50, 51),
}
"""For every field of Recipe and Output, values that are not its default."""


@pytest.mark.parametrize(
    ("part", "name"), [(part, field.name) for part in (Recipe, Output) for field in dataclasses.fields(part)]
)
def test_labels_tell_sets_apart(part: Any, name: str) -> None:
    default = CloakSet(Recipe(), ())
    sets = [dataclasses.replace(default, **{part.__name__.lower(): part(**{name: value})}) for value in OTHERS[name]]
    assert len({cloak_set.label for cloak_set in (default, *sets)}) == 1 + len(sets)


def folder(root: Path, people: int, photos: int) -> Path:
    for person in range(people):
        (root / f"p{person}").mkdir(parents=True)
        for shot in range(photos):
            Image.fromarray(tiny.texture_pixels(person * 100 + shot, 40, 40)).save(root / f"p{person}" / f"{shot}.png")
    return root


COUNTS = {"users": 2, "photos": 4, "others": 2, "public": 1}


def test_a_study_keeps_its_lists_and_takes_them_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "faces", 6, 8)
    choices = {"recipe": Recipe(seed=3), "output": Output(), "recognisers": ["sface", "sface"]}
    first = study_of(root, tmp_path / "a", people=None, counts=COUNTS, **choices)
    evaluate(first, [])
    again = study_of(root, tmp_path / "b", people=tmp_path / "a" / "people.json", counts={}, **choices)
    assert again.people == first.people
    assert [recogniser.name for recogniser in first.recognisers] == ["sface"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--presets", "protecton"], "no preset is called 'protecton'"),
        (["--recognisers", "facenet"], "no recogniser is called 'facenet'"),
        (["--extractors", "facenet"], "facenet"),
        (["--users", "50"], "50 were asked for: lower --users or --photos"),
        (["--public", "50", "--presets", "detection"], "50 were asked for: lower --public"),
        (["--services", "clearview"], "clearview"),
        (["--seed", "-1"], "seed must be 0 to 4294967295; got -1"),
    ],
)
def test_wrong_use_is_named(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "faces", 6, 8)
    counts = [f"--{name}={value}" for name, value in COUNTS.items() if f"--{name}" not in arguments]
    assert cli.main(["evaluate", str(root), "--out", str(tmp_path / "out"), *counts, *arguments]) == cli.USAGE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("name", COUNTS)
def test_a_list_of_people_goes_without_counts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are the defaults are as if they were not given."""
    root = folder(tmp_path / "faces", 6, 8)
    people = study_of(
        root, tmp_path, recipe=Recipe(), output=Output(), people=None, counts=COUNTS, recognisers=["sface"]
    ).people
    people.save(tmp_path / "list.json", root)
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += ["--dry-run", "--people"]
    assert cli.main([*command, str(tmp_path / "list.json"), f"--{name}=5"]) == cli.USAGE
    assert f"list.json already says who takes part, with which photos: leave out --{name}, or --people" in (
        capsys.readouterr().err
    )
    defaults = ("--users=20", "--photos=10", "--others=100", "--public=40")
    assert cli.main([*command, str(tmp_path / "list.json"), *defaults]) == cli.OK
    assert cli.main([*command, "nowhere.json"]) == cli.USAGE
    assert "nowhere.json is no list of people" in capsys.readouterr().err


def test_a_copy_of_a_scraped_photo_among_the_tests_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, so that the JSON stays JSON."""
    root = folder(tmp_path / "faces", 6, 8)
    for person in root.iterdir():
        shutil.copy(person / "0.png", person / "1.png")
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += [*(f"--{name}={value}" for name, value in COUNTS.items()), "--presets=services", "--dry-run", "--json"]
    assert cli.main(command) == cli.OK
    printed = capsys.readouterr()
    json.loads(printed.out)
    assert f"{root / 'p3' / '1.png'} is left out: it is the same file as {root / 'p3' / '0.png'}\n" in printed.err


def test_a_preset_that_does_not_practise_needs_no_public(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "faces", 6, 8)
    counts = [f"--{name}={value}" for name, value in (COUNTS | {"public": 50}).items()]
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), *counts, "--recognisers=sface", "--dry-run"]
    assert cli.main([*command, "--presets=protection"]) == cli.OK
    assert "photos to cloak" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither into a fresh folder nor over the list of an earlier call."""
    root = folder(tmp_path / "faces", 6, 8)
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += [f"--{name}={value}" for name, value in COUNTS.items()]
    assert cli.main([*command, "--dry-run"]) == cli.OK
    assert not (tmp_path / "out").exists()
    assert cli.main([*command, "--presets=services"]) == cli.OK
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert tmp_path / "out" / "people.json" in before
    assert cli.main([*command, "--seed=1", "--dry-run"]) == cli.OK
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    capsys.readouterr()


def test_what_cannot_be_read_is_said_by_name_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photos of others are left out, and whoever has none to learn from; those of a user are an error."""
    root = folder(tmp_path / "faces", 6, 8)
    choices = {"recipe": Recipe(), "output": Output(), "recognisers": ["sface"]}
    first = study_of(root, tmp_path / "a", people=None, counts=COUNTS, **choices)
    (one, two), (user, _) = first.people.others, first.people.users
    damaged = [one.scraped[1], one.tests[0], *two.scraped]
    for photo in damaged:
        photo.write_bytes(photo.read_bytes()[:100])
    said: list[str] = []
    study = study_of(root, tmp_path / "a", people=None, counts=COUNTS, warn=said.append, **choices)
    assert study.people.others == (Person(one.name, (one.scraped[0], *one.scraped[2:]), ()),)
    assert (study.people.users, study.people.public) == (first.people.users, first.people.public)
    assert [line.partition(" is left out: ")[0] for line in said] == [*map(str, damaged), two.name]
    user.tests[1].write_text("no photo")
    user.scraped[0].chmod(0)
    unreadable = [user.tests[1]] if os.access(user.scraped[0], os.R_OK) else [user.scraped[0], user.tests[1]]
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += [f"--{name}={value}" for name, value in COUNTS.items()]
    assert cli.main(command) == cli.USAGE
    told = capsys.readouterr().err
    assert "photos of users cannot be read: replace them" in told
    assert all(str(photo) in told for photo in unreadable)
    assert not (tmp_path / "out").exists()


def test_services_are_sent_nothing_without_consent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "faces", 6, 8)
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += [
        *(f"--{name}={value}" for name, value in COUNTS.items()),
        "--presets=services",
        "--services=rekognition",
    ]
    assert cli.main(command) == cli.USAGE
    printed = capsys.readouterr()
    assert "would be sent 20 photos of 4 people" in printed.out
    assert "US$" in printed.out
    assert "nothing was sent" in printed.err


def test_a_preset_that_cannot_be_is_said_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "faces", 6, 8)
    command = ["evaluate", str(root), "--out", str(tmp_path / "out"), "--recognisers=sface", "--extractors=sface"]
    command += ["--users=2", "--photos=4", "--others=2", "--public=0", "--presets=services,detection"]
    assert cli.main(command) == cli.FAILED
    assert "a detector of cloaks learns from public people" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["presets"]) == ["services"]


def test_no_folder_and_the_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["evaluate"]) == cli.USAGE
    assert cli.main(["evaluate", str(tmp_path / "none"), "--out", str(tmp_path)]) == cli.USAGE
    capsys.readouterr()
    assert cli.main(["evaluate", "--list"]) == cli.OK
    listed = capsys.readouterr().out
    assert all(name in listed for name in catalogue.PRESETS)


@pytest.mark.slow
def test_real_photos_from_the_command_to_the_report(
    faces_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(faces_folder / "lfw"), "--out", str(tmp_path / "out"), "--users=2", "--photos=4"]
    command += ["--others=3", "--public=0", "--extractors=mobileface", "--recognisers=mobileface,sface", "--steps=4"]
    command += ["--presets=protection,quality", "--json"]
    assert cli.main([*command, "--dry-run"]) == cli.OK
    (price, _) = json.loads(capsys.readouterr().out)
    assert price["cloaks"] == 4
    assert not (tmp_path / "out" / "cloaks").exists()
    assert cli.main(command) == cli.OK
    results = json.loads(capsys.readouterr().out)
    rows = results["presets"]["protection"]["rows"]
    assert {(row["recogniser"], row["part"]) for row in rows} == {("mobileface", "in"), ("sface", "held-out")}
    assert all(0 < row["dssim_max"] <= 0.007 for row in rows)
    written = sorted((tmp_path / "out" / "cloaks").glob("*/cloaked/*/*.jpg"))
    assert len(written) == 4
    before = [path.stat().st_mtime_ns for path in written]
    assert cli.main(command) == cli.OK
    assert [path.stat().st_mtime_ns for path in written] == before
