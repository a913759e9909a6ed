"""`cloak evaluate-extractor`: its three parts on textures and tiny networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faces_on_file
import fake_study
import numpy as np
import pytest
import tiny_cloak
from fake_study import ABOUT, Seer, mirrored
from PIL import Image

from engine import cli
from engine.evaluate import cost
from engine.evaluate.presets import attack, gain, verification
from engine.evaluate.study import CloakSet
from engine.evaluate.trackers import HEADS
from engine.extractors import registry


def pair(folder: Path, change=mirrored) -> fake_study.FakeStudy:
    made = fake_study.study(
        folder,
        change=change,
        recognisers=(Seer("installed", (), 4), Seer("beta", ("beta",)), Seer("sturdy", ("sturdy",), 8)),
    )
    made.recipe = replace(made.recipe, extractors=("sturdy", "beta"))
    return made


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "linear head", HEADS["nearest centroid"])
    monkeypatch.setattr(registry, "tables", lambda: {**ABOUT, "sturdy": {"trained_from": ["beta"]}})


def test_verification_begins_with_the_two_and_tells_textures_apart(tmp_path: Path) -> None:
    findings = verification.run(pair(tmp_path))
    assert [row["recogniser"] for row in findings.rows] == ["sturdy", "beta", "installed"]
    for row in fake_study.rows_of(findings):
        assert row["auc"] > 0.99
        assert row["tar_far_0.001"] > 0.9
        assert (row["people"], row["photos"]) == (12, 3 * 6 + 6 * 3 + 3 * 4)
    assert findings.figure is not None


def test_verification_is_priced_with_every_photo_that_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users and others with the first preset of any kind, the public with this one; the next has no more of them."""
    monkeypatch.setattr(cost, "gflops", lambda name: 1.0)
    monkeypatch.setattr(cost, "peak", lambda: 100.0)
    made = pair(tmp_path)
    measured, after = cost.prices(made, [verification.PRESET, attack.PRESET])
    assert measured.embeddings == verification.run(made).rows[0]["photos"]
    assert after.embeddings == attack.PRESET.embeddings(made)


def test_true_accepts_are_counted_below_the_threshold_that_different_pairs_set() -> None:
    pairs = verification.Pairs(2, 4, same=np.array([0.1, 0.3, 0.5, 0.9]), different=np.arange(4, 15) / 10)
    assert pairs.true_accepts(0.1) == 0.5
    assert pairs.auc == pytest.approx(1 - (0 + 0 + 1.5 + 5.5) / 44)


def test_gain_leaves_out_whoever_descends_from_either(cards: None, tmp_path: Path) -> None:
    def on_sturdy_only(pixels: np.ndarray, wanted: CloakSet) -> np.ndarray:
        return mirrored(pixels, wanted) if wanted.recipe.names == ("sturdy",) else pixels

    findings = gain.run(pair(tmp_path, on_sturdy_only))
    parts = {(row["made_on"], row["recogniser"]): row["part"] for row in findings.rows}
    assert {made_on for made_on, _ in parts} == {"sturdy", "beta"}
    assert all((part == "held-out") == (name == "installed") for (_, name), part in parts.items())
    assert [row["protection"] for row in findings.rows if row["recogniser"] == "installed"] == [1, 1, 0, 0]
    assert any("from 0 % to 100 %" in said for said in findings.sentences)


def test_attack_moves_further_the_more_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_cloak.provide(tmp_path / "tiny")
    monkeypatch.setattr(attack, "STEPS", (1, 4))
    study = faces_on_file.study(tmp_path / "study", lambda pixels: pixels)
    study.recipe = replace(study.recipe, extractors=("tiny",))
    canvases = np.stack([np.asarray(Image.open(user.tests[0])) for user in study.people.users[:2]])
    network = attack.extractors.load("tiny")
    moved = [attack.shifts(network, canvases, epsilon=bound / 255) for bound in (1, 4)]
    assert [set(shift_by_step) for shift_by_step in moved] == [{1, 4}, {1, 4}]
    assert 0 < 2 * moved[0][4].mean() < moved[1][4].mean() < 2
    assert moved[1][1].mean() < moved[1][4].mean()


def test_what_an_extractor_descends_from_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "tables", lambda: {"a": {}, "b": {"trained_from": ["a"]}, "c": {"trained_from": ["b"]}}
    )
    assert registry.lineage(["c"]) == {"a", "b", "c"}
    assert registry.lineage(["elsewhere", "a"]) == {"elsewhere", "a"}


def test_the_command_wants_something_to_compare_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate-extractor", "sface", str(tmp_path), "--out", str(tmp_path / "out")]) == cli.USAGE
    assert "--against" in capsys.readouterr().err
    assert cli.main(["evaluate-extractor", "nobody", str(tmp_path), "--out", str(tmp_path / "out")]) == cli.USAGE
    assert "nobody" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
