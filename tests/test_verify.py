"""`cloak verify`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import cli
from engine.bulk import verify
from engine.commands import outcome


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
def test_verify_measures_the_two_files(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all networks that there are: here two, each of which test_extractors.py has on its own."""
    monkeypatch.setattr(verify, "available", lambda: ["mobileface", "sface"])
    with Image.open(photos / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB")).copy()
    pixels[100:140:2, 200:240:2] ^= 16
    Image.fromarray(pixels).save(tmp_path / "changed.png")
    assert cli.main(["verify", str(photos / "astronaut.png"), str(tmp_path / "changed.png"), "--json"]) == cli.OK
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["max_change"]) == ("changed", 16)
    assert report["changed"] == pytest.approx(400 / 512**2)
    (face,) = report["faces"]
    assert 0 < face["dssim"] < 0.05
    assert set(face["shift"]) == {"mobileface", "sface"}
    assert all(0.01 < shift < 2 for shift in face["shift"].values())
    assert cli.main(["verify", str(photos / "astronaut.png"), str(photos / "astronaut.png")]) == cli.FAILED
    same = capsys.readouterr().out
    assert "DSSIM 0.00000, largest change 0" in same
    assert "shift of its embedding (0 to 2) by network:\n  mobileface 0.00\n  sface 0.00\n" in same
    assert same.endswith("\nnot cloaked: both show the same pixels\n")


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "available", list)


@pytest.mark.usefixtures("no_networks")
@pytest.mark.parametrize("change", ["all", "face"])
def test_pictures_of_two_people_are_no_pair(
    change: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other person's picture, or the same picture with another face in it."""
    with Image.open(photos / "obama.jpg") as one, Image.open(photos / "biden.jpg") as two:
        small, other = one.convert("RGB").resize((200, 250)), two.convert("RGB").resize((200, 250))
    canvas = Image.new("RGB", (800, 800), "grey")
    before, after = canvas.copy(), canvas.copy()
    before.paste(small, (300, 300))
    after.paste(other, (300, 300))
    if change == "all":
        before, after = small, other
    before.save(tmp_path / "a.png"), after.save(tmp_path / "b.png")
    assert cli.main(["verify", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--json"]) == cli.FAILED
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["dssim"] > verify.PAIR) == ("no pair", change == "all")
    assert cli.main(["verify", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == cli.FAILED
    assert capsys.readouterr().out.endswith("they differ more than any cloak changes\n")


@pytest.mark.usefixtures("no_networks")
def test_a_picture_smaller_than_the_window_is_valid_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, grey in (("a.png", 100), ("b.png", 104)):
        Image.new("RGB", (10, 40), (grey, grey, grey)).save(tmp_path / name)
    assert cli.main(["verify", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--json"]) == cli.OK
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (report["verdict"], report["dssim"], report["max_change"]) == ("changed", None, 4)


def test_verify_refuses_what_cannot_be_compared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "small.png")
    assert cli.main(["verify", str(photos / "astronaut.png"), str(tmp_path / "small.png")]) == cli.USAGE
    assert "different sizes" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "gone.png"), str(tmp_path / "small.png")]) == cli.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"cloak: {tmp_path / 'gone.png'}: ")
    assert "no such file" in said
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    assert cli.main(["verify", str(tmp_path / "small.png"), str(tmp_path / "text.jpg")]) == cli.USAGE
    assert capsys.readouterr().err.startswith(f"cloak: {tmp_path / 'text.jpg'}: ")


def test_numbers_that_json_has_no_words_for_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    outcome.print_json({"a": [1.5, float("nan")], "b": (float("inf"), "x", None, 2)})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": [None, "x", None, 2],
    }
