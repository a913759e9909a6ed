"""engine.bulk.dependencies: whatever a cloak depends on is named, so that nothing old is taken for new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_cloaks
import numpy as np
import pytest
import tiny_cloak

from engine import checkpoint
from engine.bulk import people
from engine.bulk.dependencies import dependencies
from engine.config import CLOAKS, CROPS, Recipe

WITHIN = 0.06
"""Grey levels: processors round differently, and a change that is meant to matter moves more than that."""


def agree(pictures: dict[str, list[list[float]]], kind: str, **version: int) -> None:
    """These pictures are those of the golden file, which is of that version; none of them is flat."""
    golden = json.loads(golden_cloaks.GOLDEN.read_text())
    assert version.items() <= golden.items()
    assert pictures.keys() == golden[kind].keys()
    for name, picture in pictures.items():
        assert np.ptp(picture) > 4 * WITHIN, name
        np.testing.assert_allclose(picture, golden[kind][name], atol=WITHIN, err_msg=name)


@pytest.mark.usefixtures("quick_compiles")
def test_cloaks_that_change_have_another_version() -> None:
    """If this fails: raise `engine.config.CLOAKS`, then python tools/golden_cloaks.py."""
    agree(golden_cloaks.cloaks(), "changes", cloaks=CLOAKS)


def test_canvases_that_change_have_another_version() -> None:
    """If this fails: raise `engine.config.CROPS`, then python tools/golden_cloaks.py."""
    agree(golden_cloaks.crops(), "canvases", crops=CROPS)


def test_all_that_a_cloak_depends_on_is_named() -> None:
    named = dependencies(Recipe(extractors=("mobileface", "sface")))
    extractors = checkpoint.manifest()["extractors"]
    assert named["weights"] == {name: extractors[name]["sha256"] for name in ("mobileface", "sface")}
    assert named["identity"] == extractors[people.EXTRACTOR]["sha256"]
    assert named["detector"] == checkpoint.manifest()["detectors"]["yunet"]["sha256"]
    assert (named["cloaks"], named["crops"], named["bank"]) == (CLOAKS, CROPS, None)
    assert json.loads(json.dumps(named)) == named
    with pytest.raises(ValueError, match="no extractor named"):
        dependencies(Recipe(extractors=("nobodys",)))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["extractors"]["mobileface"].update(sha256="0" * 64),
        lambda manifest: manifest["extractors"][people.EXTRACTOR].update(sha256="0" * 64),
        lambda manifest: manifest["population"].update(sha256="0" * 64),
    ],
)
def test_other_weights_are_other_dependencies(
    change: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(extractors=("mobileface",), objective="target")
    before, manifest = dependencies(recipe), json.loads(json.dumps(checkpoint.manifest()))
    change(manifest)
    monkeypatch.setattr(checkpoint, "manifest", lambda: manifest)
    assert dependencies(recipe) != before


def test_weights_whose_hash_nobody_has_written_down_are_hashed(tmp_path: Path) -> None:
    tiny_cloak.provide(tmp_path / "tiny")
    (digest,) = dependencies(Recipe(extractors=("tiny",)))["weights"].values()
    assert len(digest) == 64
