import functools
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_cloak
from faces_on_file import study
from fake_study import rows_of
from matplotlib.figure import Figure
from PIL import Image, JpegImagePlugin

from engine.config import Output
from engine.evaluate.descent import Schedule
from engine.evaluate.presets import Findings, adaptive, detection, scratch
from engine.evaluate.training import FROM_SCRATCH, FromScratch
from engine.photo import encode, read

QUICK = Schedule(epochs=1, batch=8, rate=1e-3, watch=2, least=4)
SCRATCH = replace(FROM_SCRATCH, epochs=1, batch=8, least=40, watch=2)


@pytest.fixture(autouse=True)
def network(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cloak.provide(tmp_path_factory.mktemp("checkpoints") / "tiny")
    monkeypatch.setattr(scratch, "FINE_TUNED", "tiny")
    monkeypatch.setattr(scratch, "FromScratch", functools.partial(FromScratch, schedule=SCRATCH, width=8))


def nothing(pixels: np.ndarray) -> np.ndarray:
    return pixels


def negative(pixels: np.ndarray) -> np.ndarray:
    """As no cloak may be: whoever learns this has learnt the opposite."""
    return 255 - pixels


def grain(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(pixels.sum())).integers(-12, 13, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def complete(findings: Findings) -> None:
    assert findings.rows
    assert all(row.keys() == findings.rows[0].keys() for row in findings.rows)
    assert all(isinstance(value, str | float | int) for row in findings.rows for value in row.values())
    assert findings.sentences
    assert findings.deviations
    assert isinstance(findings.figure, Figure)
    assert findings.figure.axes


@pytest.mark.parametrize(("change", "works"), [(nothing, False), (negative, True)])
def test_scratch(tmp_path: Path, change, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not works:  # what it learns in fewer steps will do
        short = functools.partial(FromScratch, schedule=replace(SCRATCH, least=24), width=8)
        monkeypatch.setattr(scratch, "FromScratch", short)
    findings = scratch.run(study(tmp_path, change))
    complete(findings)
    scratch_row, tuned = rows_of(findings)
    assert (scratch_row["part"], tuned["part"]) == ("held-out", "in")
    assert scratch_row["dssim_max"] == 0.004
    said = f"names {1 - scratch_row['floor']:.0%} of users' clean test photos rightly when nothing is cloaked"
    assert said in findings.sentences[0]
    for row in rows_of(findings):
        if works:
            assert row["protection"] > row["floor"]
        else:  # the same photos and seed: the same tracker
            assert row["protection"] == row["floor"] < 1
            assert row["others"] == row["others_floor"]


def test_adaptive(tmp_path: Path) -> None:
    findings = adaptive.run(study(tmp_path, negative), schedule=QUICK)
    complete(findings)
    assert [(row["version"], row["head"]) for row in findings.rows] == [
        (version, head) for version in ("plain", "adapted") for head in adaptive.HEADS
    ]
    assert {row["part"] for row in findings.rows} == {"in"}
    assert {row["practice_photos"] for row in findings.rows} == {9}


@pytest.mark.parametrize("preset", [adaptive, detection])
def test_without_a_public_there_is_nothing_to_practise_on(preset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="public"):
        preset.run(study(tmp_path, nothing, public=0))


def test_detection_finds_grain(tmp_path: Path) -> None:
    findings = detection.run(study(tmp_path, grain, public=4))
    complete(findings)
    noise, squeezed = findings.rows
    assert (noise["part"], squeezed["part"]) == ("no network", "in")
    assert noise["auc"] == 1
    assert noise["found_at_5"] == 1
    assert noise["accuracy_at_5"] == pytest.approx(0.975)
    assert (noise["photos_learnt"], noise["tests"], noise["users"]) == (24, 12, 2)


def test_detection_of_nothing_is_chance(tmp_path: Path) -> None:
    for row in detection.run(study(tmp_path, nothing)).rows:
        assert row["auc"] == 0.5  # both versions are the same: every score comes twice


def test_the_clean_counterpart_is_encoded_like_the_cloaked(tmp_path: Path) -> None:
    made = study(tmp_path, nothing)
    photo = tmp_path / "a.jpg"
    Image.fromarray(tiny.texture_pixels(1, 64, 64)).save(photo, quality=60)
    rewritten = detection.rewritten(made, photo)
    assert rewritten.suffix == ".jpg"
    original = read(photo)
    with Image.open(io.BytesIO(encode(original, original.pixels))) as cloaked, Image.open(rewritten) as after:
        assert isinstance(cloaked, JpegImagePlugin.JpegImageFile)
        assert isinstance(after, JpegImagePlugin.JpegImageFile)
        assert cloaked.format == after.format
        assert cloaked.quantization == after.quantization
    made.output = Output(format="png")
    lossless = detection.rewritten(made, photo)
    assert lossless.suffix == ".png"
    np.testing.assert_array_equal(read(lossless).pixels, read(photo).pixels)


@pytest.mark.parametrize("preset", [scratch.PRESET, adaptive.PRESET, detection.PRESET])
def test_the_price_is_known_before(preset, tmp_path: Path) -> None:
    made = study(tmp_path, nothing)
    assert preset.seconds(made) > 0
    assert preset.embeddings(made) == 0
    wanted = {person.name for cloaks in preset.cloaks(made) for person in cloaks.people}
    users = {user.name for user in made.people.users}
    assert (
        wanted == users
        if preset.name == "scratch"
        else wanted == users | {person.name for person in made.people.public}
    )
