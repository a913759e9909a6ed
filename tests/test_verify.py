"""`cloak verify`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import cli
from engine.bulk import verify


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
    assert report["max_change"] == 16
    assert report["changed"] == pytest.approx(400 / 512**2)
    (face,) = report["faces"]
    assert 0 < face["dssim"] < 0.05
    assert set(face["shift"]) == {"mobileface", "sface"}
    assert all(0.01 < shift < 2 for shift in face["shift"].values())
    assert cli.main(["verify", str(photos / "astronaut.png"), str(photos / "astronaut.png")]) == cli.OK
    same = capsys.readouterr().out
    assert "DSSIM 0.00000, largest change 0" in same


def test_verify_refuses_what_cannot_be_compared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "small.png")
    assert cli.main(["verify", str(photos / "astronaut.png"), str(tmp_path / "small.png")]) == cli.USAGE
    assert "different sizes" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "gone.png"), str(tmp_path / "small.png")]) == cli.USAGE
    assert "no such file" in capsys.readouterr().err
