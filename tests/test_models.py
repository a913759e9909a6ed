"""`cloak models`: the list, and a network's whole card."""

from __future__ import annotations

import json

import pytest

from engine import checkpoint, cli
from engine.config import ENSEMBLE, Recipe


def test_models_lists_every_checkpoint_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == cli.OK
    shipped = checkpoint.manifest()["extractors"]  # other tests register networks of their own
    rows = [row for row in json.loads(capsys.readouterr().out) if row["name"] in shipped]
    plain, robust = ({row["name"] for row in rows if row["robust"] is kind} for kind in (False, True))
    assert plain >= {"web-incept", "mobilefacenet-192", "faceres", "mobileface", "sface", "dlib-resnet"}
    assert robust == {member.partition(":")[0] for member in ENSEMBLE}
    defaults = {row["name"]: row["default"] for row in rows if row["default"] is not None}
    assert defaults == dict(zip(Recipe().names, Recipe().weights, strict=True))
    for row in rows:
        assert row["licence"]
        assert row["source"]
        assert row["megabytes"] > 1
        assert 0.9 < row["metric"]["lfw_pairs_auc"] <= 1
    assert cli.main(["models"]) == cli.OK
    said = capsys.readouterr().out
    assert "\nweb-incept: " in said
    assert "\nsface-robust (default of `cloak run`, weight 2): " in said


def test_a_model_s_card_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "sface", "--json"]) == cli.OK
    card = json.loads(capsys.readouterr().out)
    assert card["name"] == "sface"
    assert card["parameters"] == 9629632
    assert card["gflops"] == pytest.approx(1.17, abs=0.1)
    assert cli.main(["models", "sface"]) == cli.OK
    said = capsys.readouterr().out
    for part in (
        *(card[key] for key in ("description", "licence", "licence_note", "source", "sha256", "command")),
        "112 x 112 RGB, canvas pixels 32 to 144",
        "(0 to 255 - [127.5, 127.5, 127.5]) / 128",
        "9,629,632 parameters",
        "128-D",
        f"AUC {card['metric']['lfw_pairs_auc']}, TAR {card['metric']['lfw_pairs_tar']} at FAR 1e-3",
        str(card["metric"]["parity_cosine_min"]),
    ):
        assert part in said


def test_an_unknown_model_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "arcface"]) == cli.USAGE
    said = capsys.readouterr().err
    assert "'arcface'; there are " in said
    # Other tests of this process may have registered more.
    assert set(checkpoint.manifest()["extractors"]) <= set(said.partition("there are ")[2].strip().split(", "))
    assert cli.main(["models", "arcface", "--json"]) == cli.USAGE
    assert "arcface" in json.loads(capsys.readouterr().out)["error"]
