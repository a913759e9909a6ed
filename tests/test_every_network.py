"""`cloak run` on every shipped network and with every setting, one step on one photo: the command and its file.

Settings that need no network of people run on a tiny one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_cloak
from PIL import Image

from engine import checkpoint, cli, programs
from engine.config import CANVAS
from engine.extractors import embed, embed_batch, load

NETWORKS = sorted(checkpoint.manifest()["extractors"])
SETTINGS = {
    "mode low": ["--mode", "low"],
    "mode high": ["--mode", "high"],
    "solver paper": ["--solver", "paper"],
    "solver fawkes1": ["--solver", "fawkes1"],
    "objective away": ["--objective", "away"],
    "objective target": ["--objective", "target"],
    "format png": ["--format", "png"],
    "format jpeg": ["--format", "jpeg"],
    "format webp": ["--format", "webp"],
    "weighted": ["--extractors", "mobileface:1e6,sface:1e-6"],
    "half precision": ["--extractors", "mobileface:bfloat16"],
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiles", "one_cache")]


@pytest.fixture(scope="module")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """JAX's cache alone, which has one program for a network and its robust sibling; and the extractor "tiny"."""
    tiny_cloak.provide(tmp_path_factory.mktemp("weights") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "kept_in", lambda folder: nullcontext())
        yield


def cloaked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, float]:
    """The shift by network of the one face, after a call that went well and changed the photo."""
    with Image.open(photos / "astronaut.png") as image:
        whole = image.convert("RGB").crop((120, 20, 330, 230))
    whole.save(tmp_path / "photo.png")
    out = tmp_path / "out"
    arguments = ["run", str(tmp_path / "photo.png"), "--out", str(out), "--steps", "1", "--no-report", "--json"]
    assert cli.main([*arguments, "--devices", "1", "--batch", "1", *options]) == cli.OK
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["counts"]["cloaked"] == 1
    (written,) = (path for path in out.iterdir() if path.is_file())
    with Image.open(written) as image:
        changed = np.asarray(image.convert("RGB"), int) - np.asarray(whole, int)
    assert (changed != 0).any(axis=2).sum() > 1000
    from engine.bulk.manifest import Survey

    with Survey(out) as survey:
        ((face,),) = (row.faces for row in survey.rows())
    shift = face["shift"]
    assert isinstance(shift, dict)
    return shift


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_alone(name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shift = cloaked(photos, tmp_path, capsys, "--extractors", name)
    assert [*shift] == [name]
    assert 0.001 < shift[name] < 2


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.endswith("-robust")])
def test_every_network_at_half_precision(name: str, photos: Path) -> None:
    """Embeddings nearly the same; the gradient is only traced, since compiling it would take most of the time.

    Robust networks are the same programs with weights close to these.
    """
    with Image.open(photos / "astronaut.png") as image:
        face = image.convert("RGB").crop((160, 20, 290, 150)).resize((CANVAS, CANVAS))
    canvas = jnp.asarray(np.asarray(face), jnp.float32) / 255
    exact = load(name)
    half = replace(exact, precision="bfloat16")
    pair = (embed_batch(extractor, canvas[None])[0] for extractor in (exact, half))
    assert 0.98 < float(jnp.vdot(*pair)) < 1
    gradient = jax.eval_shape(jax.grad(lambda x: embed(half, x).sum()), canvas)
    assert (gradient.shape, gradient.dtype) == (canvas.shape, jnp.float32)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting(setting: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SETTINGS[setting]
    if "--extractors" not in options:
        options = [*options, "--extractors", "mobileface" if "target" in options else "tiny"]
    shift = cloaked(photos, tmp_path, capsys, *options)
    assert all(0.001 < value < 2 for value in shift.values())
