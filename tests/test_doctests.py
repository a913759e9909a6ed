"""The examples in the engine's docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from engine import checkpoint
from engine.bulk.prepare import prepare
from engine.cloak import solver
from engine.config import Recipe
from engine.detect import YuNet
from engine.evaluate.recognisers import DetectedOnce, recogniser
from engine.extractors import crop, load, mobileface
from engine.faces import cut

pytestmark = pytest.mark.usefixtures("quick_compiles")

MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in (REPOSITORY / "engine").rglob("*.py")
    if ">>> " in path.read_text()
)
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture(scope="module")
def namespace(photos: Path) -> dict[str, Any]:
    """What examples may use besides the names of their own module: a photo, its face, a canvas, a small network."""
    file = min(photos.glob("*.jpg"))
    prepared = prepare(file.read_bytes(), YuNet(checkpoint.detector()))
    first_cut = prepared.cuts[0]
    extractor, canvas = load("mobileface"), jnp.asarray(first_cut.canvas)
    row = crop(canvas, size=extractor.spec.size, window_yx=jnp.array(extractor.spec.window_yx, jnp.float32))
    batch = solver.Batch(
        canvas=canvas[None], mask=jnp.asarray(first_cut.mask)[None], region=jnp.asarray(first_cut.region)[None],
        target=(jnp.zeros((1, extractor.dim)),), grey=jnp.zeros(1, bool), identity=jnp.zeros((1, 4), jnp.uint32),
    )  # fmt: skip
    return {
        "Path": Path, "Image": Image, "jax": jax, "jnp": jnp, "np": np, "checkpoint": checkpoint, "load": load,
        "mobileface": mobileface, "Recipe": Recipe, "cut": cut, "photo": prepared.photo, "face": prepared.faces[0],
        "one": first_cut, "canvas": canvas, "canvases": canvas[None], "delta": np.zeros_like(first_cut.canvas),
        "batch": batch, "DetectedOnce": DetectedOnce, "recogniser": recogniser, "extractor": extractor,
        "crops": row[None],
    }  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(
    name: str, namespace: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.jpg").write_bytes(min(photos.glob("*.jpg")).read_bytes())
    module = importlib.import_module(name)
    examples = doctest.DocTestFinder(exclude_empty=True).find(module, globs=namespace | vars(module))
    assert any(example.examples for example in examples)
    runner, said = doctest.DocTestRunner(optionflags=OPTIONS), []
    for example in examples:
        runner.run(example, out=said.append)
    assert runner.failures == 0, "".join(said)
