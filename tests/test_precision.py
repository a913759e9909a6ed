"""bfloat16: chosen only by devices that have units for it, summed in float32, and the same cloaks to a tolerance."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_robust
from flax import nnx

from engine import sharding
from engine.bench.samples import synthetic
from engine.bulk import batching
from engine.bulk.batching import Batcher
from engine.bulk.plan import fingerprint
from engine.config import Detection, Output, Precision, Recipe
from engine.extractors import Extractor, InputSpec, embed, tuned
from engine.extractors.layers import conv, product, tuned_conv

SPEC = InputSpec(size=tiny_robust.SIZE, window=(32.0, 144.0), mean=(127.5, 127.5, 127.5), scale=64.0)
TENSOR = r"tensor<[^>]*x(\w+)>"
PRODUCT = re.compile(rf"stablehlo\.(?:dot_general|convolution).*: \({TENSOR}, {TENSOR}\) -> {TENSOR}")


def network(precision: Precision) -> Extractor:
    graphdef, state = nnx.split(tiny_robust.Network(rngs=nnx.Rngs(7)))
    exact = Extractor(nnx.to_pure_dict(state), "small", SPEC, graphdef, tiny_robust.DIM, "0" * 64)
    return replace(exact, precision=precision)


@pytest.mark.parametrize(
    ("device", "chosen"),
    [
        ({"platform": "cpu"}, "float32"),
        ({"platform": "gpu", "compute_capability": "9.0"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "8.0"}, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, "float32"),
        ({"platform": "gpu", "compute_capability": "gfx90a"}, "float32"),
        ({"platform": "tpu"}, "bfloat16"),
        ({"platform": "metal"}, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_there_are_units_for_it(device: dict, chosen: str) -> None:
    assert sharding.precision(SimpleNamespace(**device)) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize("suits", ["float32", "bfloat16"])
def test_what_the_user_says_wins(suits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "precision", lambda device: suits)
    monkeypatch.setattr(batching, "load", lambda name, *, precision: (name, precision))
    recipe = Recipe(extractors=("a", "b:2", "c:float32", "d:2:bfloat16"))
    assert batching.loaded(recipe) == (("a", suits), ("b", suits), ("c", "float32"), ("d", "bfloat16"))


def test_a_collection_is_not_cloaked_again_because_another_machine_chooses_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def settings(*extractors: str) -> str:
        return fingerprint(Recipe(extractors=extractors, turn=None), Detection(), Output())

    known = {}
    for suits in ("float32", "bfloat16"):
        monkeypatch.setattr(sharding, "precision", lambda device=None, suits=suits: suits)
        known[suits] = settings("mobileface")
    assert known["float32"] == known["bfloat16"]
    assert settings("mobileface:float32") != settings("mobileface:bfloat16"), "what was said is part of it"


@pytest.mark.parametrize("kind", ["product", "dense", "convolution", "gradient"])
def test_products_of_bfloat16_are_summed_in_float32(kind: str) -> None:
    """The terms are a large number and many small ones that bfloat16 would lose one by one."""
    many = jnp.full((4, 4, 512), 2**-8, jnp.bfloat16).at[0, 0, 0].set(1)
    kernel = jnp.ones((4, 4, 512, 2), jnp.bfloat16)
    if kind == "product":
        sums = product(many.reshape(1, -1), kernel.reshape(-1, 2))
    elif kind == "dense":
        sums = conv(many, kernel, stride=1, padding="VALID")
    elif kind == "convolution":
        taller = jnp.pad(many, ((0, 1), (0, 0), (0, 0)))
        sums = tuned_conv(taller, kernel, kernel[::-1, ::-1].swapaxes(2, 3), stride=1, padding="VALID")[:1]
    else:
        pull = jax.vjp(lambda x: product(x, jnp.ones((2, many.size), jnp.bfloat16)), jnp.ones((1, 2), jnp.bfloat16))[1]
        (sums,) = pull(many.reshape(1, -1))
    assert sums.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(sums, np.float32), 1 + (many.size - 1) * 2**-8, rtol=2**-8)


def test_no_product_of_a_step_is_summed_in_bfloat16() -> None:
    half, canvas = tuned(network("bfloat16")), jnp.zeros((176, 176, 3))
    text = jax.jit(jax.grad(lambda x: embed(half, x).sum())).lower(canvas).as_text()
    kinds = PRODUCT.findall(text)
    assert ("bf16", "bf16", "f32") in kinds
    assert not [kind for kind in kinds if kind[0] == "bf16" and kind != ("bf16", "bf16", "f32")]


def test_cloaks_are_the_same_to_a_tolerance(quick_compiles: None) -> None:
    """Shift within 2 %, the budget spent alike: measured, not exact, since each step rounds otherwise."""
    del quick_compiles
    recipe = Recipe(extractors=("small",), objective="away", turn=None, steps=10)
    cloaks = {}
    for precision in ("float32", "bfloat16"):
        batcher = Batcher(recipe, (network(precision),), size=2, mesh=sharding.faces_mesh(1))
        cloaks[precision] = batcher.solve(synthetic().jobs(2, [tiny_robust.DIM]))
    exact, half = cloaks["float32"], cloaks["bfloat16"]
    for cloak, half_cloak in zip(exact, half, strict=True):
        assert half_cloak.shift[0] == pytest.approx(cloak.shift[0], rel=0.02)
        assert 0.95 * recipe.rho < half_cloak.dssim <= recipe.rho
        assert cloak.dssim == pytest.approx(half_cloak.dssim, rel=0.02)
