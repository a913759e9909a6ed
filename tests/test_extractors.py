"""engine.extractors: crops, layers, registry, and parity of the shipped networks with their sources."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import lfw_pairs
import numpy as np
import pytest
from flax import nnx
from jax import lax
from PIL import Image

from engine import checkpoint, extractors
from engine.config import CANVAS
from engine.extractors import InputSpec, layers, registry, weight_map

HERE = Path(__file__).resolve().parent
LFW = HERE.parent.parent / "shared" / "faces" / "lfw"
SHIPPED = ("dlib-resnet", "faceres", "mobileface", "mobilefacenet-192", "mobilefacenet-512", "sface", "web-incept")
SPEC = InputSpec(size=16, window=(32.0, 144.0), mean=(127.5, 127.5, 127.5), scale=128.0)


class Tiny(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs | None):
        self.conv = layers.Conv(3, 6, (3, 3), stride=2, rngs=rngs)
        self.prelu = layers.PReLU(6)
        self.depthwise = layers.Depthwise(6, (3, 3), rngs=rngs)
        self.project = layers.Conv(6, 5, (1, 1), rngs=rngs)

    def __call__(self, x):
        x = layers.max_pool(self.prelu(self.conv(x)), window=3, stride=2)
        return jnp.mean(self.project(self.depthwise(x)), axis=(0, 1))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    _, state = nnx.split(Tiny(rngs=nnx.Rngs(0)))
    sha256 = checkpoint.save(tmp_path / "tiny", nnx.to_pure_dict(state))
    extractors.register("tiny", extractors.Entry(Tiny, SPEC, 5, tmp_path / "tiny", sha256))
    return extractors.load("tiny")


@pytest.fixture(scope="module")
def canvas() -> np.ndarray:
    with np.load(HERE / "goldens" / "embeddings.npz") as golden:
        return golden["canvases"][0].astype(np.float32) / 255


# --- crops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "window"),
    [(160, (32.0, 144.0)), (112, (32.0, 144.0)), (224, (8.0, 168.0)), (50, (3.3, 171.9)), (8, (0.0, 176.0))],
)
def test_crop_agrees_with_pillow_and_jax(canvas, size, window):
    lo, hi = window
    ours = extractors.crop(jnp.asarray(canvas), size=size, window_yx=jnp.array([window, window]))
    scale = np.float32(size / (hi - lo))
    theirs = jax.image.scale_and_translate(
        canvas, (size, size, 3), (0, 1), np.array([scale] * 2), np.array([-lo * scale] * 2, np.float32), "linear"
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    channels = [
        Image.fromarray(canvas[..., n]).resize((size, size), Image.Resampling.BILINEAR, (lo, lo, hi, hi))
        for n in range(3)
    ]
    np.testing.assert_allclose(ours, np.stack([np.asarray(channel) for channel in channels], -1), atol=1e-5)


def test_crop_at_whole_pixels_is_an_exact_copy(canvas):
    ours = extractors.crop(jnp.asarray(canvas), size=112, window_yx=jnp.array([[32.0, 144.0], [16.0, 128.0]]))
    np.testing.assert_array_equal(ours, canvas[32:144, 16:128])


def test_crop_with_a_window_from_high_to_low_is_mirrored(canvas):
    mirrored = extractors.crop(jnp.asarray(canvas), size=112, window_yx=jnp.array([[32.0, 144.0], [144.0, 32.0]]))
    np.testing.assert_array_equal(mirrored, canvas[32:144, 32:144][:, ::-1])


def test_crop_outside_the_canvas_repeats_its_edge(canvas):
    ours = extractors.crop(jnp.asarray(canvas), size=40, window_yx=jnp.array([[-20.0, 20.0], [170.0, 210.0]]))
    np.testing.assert_array_equal(ours[:20, 6:], np.broadcast_to(canvas[0, -1], (20, 34, 3)))


# --- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        (7, 3, 1, "SAME"),
        (8, 3, 2, "SAME"),
        (7, 3, 2, "SAME"),
        (9, 5, 3, "SAME"),
        (8, 3, 2, "VALID"),
        (7, 7, 1, "VALID"),
        (8, 3, 2, 1),
        (7, 3, 1, 2),
    ],
)
def test_depthwise_is_the_grouped_convolution_with_its_gradients(side, kernel, stride, padding):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (side, side, 4))
    k = jax.random.normal(keys[1], (kernel, kernel, 4))

    def reference(x, k):
        dimensions = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding
        return lax.conv_general_dilated(
            x[None], k[:, :, None], strides, pads, dimension_numbers=dimensions, feature_group_count=4
        )[0]

    expected, pull = jax.vjp(reference, x, k)
    ours, our_pull = jax.vjp(lambda x, k: layers.depthwise(x, k, stride=stride, padding=padding), x, k)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for a, b in zip(our_pull(jnp.cos(expected)), pull(jnp.cos(expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 1), 1, "SAME"),
        ((1, 1), 2, "SAME"),
        ((1, 1), 1, 1),
        ((5, 6), 1, "VALID"),
        ((3, 3), 2, 1),
        ((3, 3), 2, "SAME"),
        ((5, 6), 1, "SAME"),
    ],
)
def test_convolution_in_every_form_is_the_convolution(kernel, stride, padding):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (5, 6, 7))
    k = jax.random.normal(keys[1], (*kernel, 7, 3))
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    strides = (stride, stride)
    expected = lax.conv_general_dilated(x[None], k, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    np.testing.assert_allclose(layers.conv(x, k, stride=stride, padding=padding), expected, atol=1e-4)


def test_max_pool_and_its_gradient():
    x = jax.random.normal(jax.random.key(0), (9, 12, 4))

    def reference(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (3, 3, 1), (2, 2, 1), "VALID")

    expected, pull = jax.vjp(reference, x)
    ours, our_pull = jax.vjp(lambda x: layers.max_pool(x, window=3, stride=2), x)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(our_pull(expected)[0], pull(expected)[0], atol=1e-6)


# --- weight maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (layers.shifted, lambda x, row: x + row[None, None]),
        (layers.scaled, lambda x, row: x * row[None, None]),
        (layers.leaky, lambda x, row: jnp.where(x > 0, x, x * row[None, None])),
    ],
)
def test_what_acts_by_channel_has_the_automatic_gradients(ours, plain):
    keys = jax.random.split(jax.random.key(0), 3)
    x, weight = (jax.random.normal(key, (2, 5, 7, 3)) for key in keys[:2])
    row = jax.random.normal(keys[2], (3,))
    gradients, expected = (
        jax.value_and_grad(lambda x, row, f=f: jnp.sum(weight * jax.vmap(f, (0, None))(x, row)), (0, 1))(x, row)
        for f in (ours, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradients, expected)


def test_braces_expand_as_in_bash():
    assert weight_map.expand("a{1..3}/{w,b}") == ["a1/w", "a1/b", "a2/w", "a2/b", "a3/w", "a3/b"]
    assert weight_map.expand("x{1..9..4}") == ["x1", "x5", "x9"]


def test_fill_lists_all_that_does_not_fit_at_once():
    abstract = {"a": jax.ShapeDtypeStruct((2,), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.float32)}
    tensors = {"A": np.zeros(4, np.float32), "stray": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match="do not fit") as error:
        weight_map.fill(abstract, tensors, {"A": "a", "C": "c"})
    for part in ("missing in the source: C", "stray (1,)", "no such parameter: c", "without a source: b", "shape of a"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_weight_map_names_every_parameter_once(name):
    _, shapes = registry.abstract(registry.find(name).build)
    assert sorted(weight_map.weight_map(name).values()) == sorted(checkpoint.flatten(shapes))


# --- registry and embeddings ---------------------------------------------------------------------------------


def test_importing_loads_no_weights():
    code = "import sys, engine.extractors; sys.exit('orbax.checkpoint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, check=False).returncode == 0


def test_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"'arcface'.*mobilefacenet-192.*web-incept"):
        extractors.load("arcface")


def test_a_name_is_registered_once(tiny):
    assert "tiny" in extractors.available()
    for taken in ("tiny", "web-incept"):
        with pytest.raises(ValueError, match="registered already"):
            extractors.register(taken, registry.find("tiny"))


@pytest.mark.parametrize("change", [{"size": 0}, {"window": (144.0, 32.0)}, {"scale": 0.0}, {"down": float("nan")}])
def test_input_spec_refuses_nonsense(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        InputSpec(**{"size": 16, "window": (0.0, 1.0), "mean": (0.0, 0.0, 0.0), "scale": 1.0} | change)


def test_embedding_has_length_one_and_is_the_same_alone_or_batched(tiny):
    canvases = jax.random.uniform(jax.random.key(1), (3, CANVAS, CANVAS, 3))
    together = extractors.embed_batch(tiny, canvases)
    assert together.shape == (3, tiny.dim)
    assert together.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(together, axis=1), np.ones(3), atol=1e-6)
    for single, expected in zip(canvases, together, strict=True):
        np.testing.assert_allclose(extractors.embed(tiny, single), expected, atol=1e-5)


def test_any_number_of_canvases_is_embedded_as_each_alone(tiny):
    canvases = np.random.default_rng(0).integers(0, 256, (5, CANVAS, CANVAS, 3), np.uint8)
    rows = extractors.embed_all(tiny, canvases, batch=2)
    assert rows.shape == (5, 5)
    alone = [
        extractors.embed_all(tiny, [single.astype(np.float32) / np.float32(255)], batch=2)[0] for single in canvases
    ]
    np.testing.assert_array_equal(rows, np.stack(alone))
    assert extractors.embed_all(tiny, []).shape == (0, 5)


def test_input_is_scaled_as_the_spec_says(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(Tiny, "__call__", lambda self, x: seen.append(x) or jnp.mean(x, axis=(0, 1)))
    pixel = np.array([0.2, 0.4, 0.6], np.float32)
    flat = jnp.broadcast_to(pixel, (CANVAS, CANVAS, 3))
    spec = InputSpec(size=4, window=(8.0, 168.0), mean=(1.0, 2.0, 3.0), scale=2.0, bgr=True)
    extractors.embed(extractors.Extractor(tiny.params, "x", spec, tiny.graphdef, 3, ""), flat)
    np.testing.assert_allclose(seen[0][0, 0], (pixel[::-1] * 255 - [1, 2, 3]) / 2, rtol=1e-5)


def test_a_crop_that_lies_lower_is_seen_lower(tiny):
    canvas = jax.random.uniform(jax.random.key(2), (CANVAS, CANVAS, 3))
    lower = dataclasses.replace(tiny, spec=dataclasses.replace(SPEC, down=16.0))
    assert lower.spec.window_yx == ((48.0, 160.0), (32.0, 144.0))
    moved = jnp.roll(canvas, -16, axis=0)
    np.testing.assert_allclose(extractors.embed(lower, canvas), extractors.embed(tiny, moved), atol=1e-5)
    assert np.abs(extractors.embed(lower, canvas) - extractors.embed(tiny, canvas)).max() > 1e-3


def test_extractors_are_arguments_of_a_compiled_function(tiny):
    traces = []

    @jax.jit
    def both(pair, canvas):
        traces.append(None)
        return [extractors.embed(extractor, canvas) for extractor in pair]

    image = jax.random.uniform(jax.random.key(1), (CANVAS, CANVAS, 3))
    shifted = jax.tree.map(lambda leaf: leaf + 0.1, tiny)
    first, second = both((tiny, shifted), image)
    assert np.abs(first - second).max() > 1e-3
    swapped = both((shifted, tiny), image)
    np.testing.assert_array_equal(swapped[0], second)
    assert len(traces) == 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradient_on_a_flat_canvas_is_finite(tiny, value):
    flat = jnp.full((CANVAS, CANVAS, 3), value)
    gradient = jax.grad(lambda image: extractors.embed(tiny, image)[0])(flat)
    assert np.isfinite(gradient).all()


def test_gradient_of_a_zero_embedding_is_finite(tiny):
    zero = jax.tree.map(jnp.zeros_like, tiny)
    gradient = jax.grad(lambda image: extractors.embed(zero, image)[0])(jnp.full((CANVAS, CANVAS, 3), 0.5))
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_card_has_the_manifest_and_what_the_network_costs():
    card = extractors.card("mobileface")
    assert card["name"] == "mobileface"
    assert card["licence"] == checkpoint.manifest()["extractors"]["mobileface"]["licence"]
    layers_of = [(27, 32, 56), (32, 32, 56), (32, 32, 28), (32, 64, 14), (64, 128, 7)]  # fan-in, channels, side
    products = sum(i * o * side**2 for i, o, side in layers_of) + 27 * (32 * 28**2 + 32 * 14**2 + 64 * 49 + 128 * 16)
    assert card["gflops"] == pytest.approx(2 * (products + 2048 * 256) / 1e9, rel=0.15)
    assert card["parameters"] == 546464


def test_card_of_an_unknown_name_tells_the_known_ones(tiny):
    with pytest.raises(ValueError, match=r"no extractor named 'arcface'; there are .*faceres, .*web-incept"):
        extractors.card("arcface")
    assert extractors.card("tiny")["dim"] == 5


# --- the shipped networks ------------------------------------------------------------------------------------


@functools.cache
def shipped(name: str) -> extractors.Extractor:
    return extractors.load(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_parity_with_the_source_network(name):
    """References by OpenCV's dnn, LiteRT, onnxruntime, TF.js and dlib: tools/golden_embeddings.py."""
    with np.load(HERE / "goldens" / "embeddings.npz") as golden:
        canvases, expected = golden["canvases"].astype(np.float32) / 255, golden[name]
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(extractors.embed_batch(shipped(name), canvases))
    assert (ours * expected).sum(1).min() > 0.9999
    assert np.abs(ours - expected).max() < 1e-3


def test_dlibs_own_chips_have_dlibs_descriptors():
    """The network alone, on the chips that face_recognition gives it: tools/golden_dlib_chips.py."""
    with np.load(HERE / "goldens" / "dlib_chips.npz") as golden:
        chips, expected = golden["chips"].astype(np.float32) / 255, golden["descriptors"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    with jax.default_matmul_precision("highest"):
        ours = np.stack([extractors.embed_crop(shipped("dlib-resnet"), jnp.asarray(chip)) for chip in chips])
    assert (ours * expected).sum(1).min() > 0.999999
    assert np.abs(ours - expected).max() < 5e-4  # float16 on disk


def test_the_canvas_shows_dlib_what_its_own_alignment_does():
    """Embeddings through our landmarks and window are the descriptors of dlib's own landmarks and chips, nearly."""
    with np.load(HERE / "goldens" / "dlib_chips.npz") as golden:
        expected = golden["descriptors"] / np.linalg.norm(golden["descriptors"], axis=1, keepdims=True)
    with np.load(HERE / "goldens" / "embeddings.npz") as golden:
        canvases = golden["canvases"][: len(expected)].astype(np.float32) / 255
    ours = np.asarray(extractors.embed_batch(shipped("dlib-resnet"), canvases))
    assert (ours * expected).sum(1).min() > 0.97


FEW = 20
"""People of those pairs, of 120, unless `-k lfw_pairs` asks for them all."""


@functools.cache
def lfw(people: int) -> tuple[np.ndarray, np.ndarray]:
    return lfw_pairs.canvases(LFW, people=people)


@pytest.mark.slow
@pytest.mark.skipif(not LFW.is_dir(), reason="needs ../shared/faces/lfw, which is not part of the repository")
@pytest.mark.parametrize(
    ("name", "least", "few"),
    [
        ("web-incept", 0.995, (0.996, 0.8667)),
        ("mobilefacenet-192", 0.998, (0.998, 0.95)),
        ("sface", 0.998, (0.9994, 0.975)),
        ("dlib-resnet", 0.998, (0.9986, 0.8167)),
        ("faceres", 0.995, (0.9845, 0.825)),
        ("mobileface", 0.955, (0.9283, 0.3333)),
        ("web-incept-robust", 0.98, (0.9937, 0.7333)),
        ("mobilefacenet-192-robust", 0.98, (0.9976, 0.95)),
    ],
)
def test_lfw_pairs(name, least, few, request):
    """What the manifest says of all pairs, by `pytest tests/test_extractors.py -k lfw_pairs -s`; else `few` of some."""
    whole = "lfw_pairs" in request.config.option.keyword
    canvases, labels = lfw(lfw_pairs.PEOPLE if whole else FEW)
    figures = lfw_pairs.accuracy(lfw_pairs.embedded(shipped(name), canvases), labels)
    print(f"{name}: AUC {figures['auc']:.4f}, TAR at FAR 1e-3 {figures['tar']:.4f} on LFW pairs")
    metric = checkpoint.manifest()["extractors"][name]["metric"]
    assert metric["lfw_pairs_auc"] >= least
    auc, tar = (metric["lfw_pairs_auc"], metric["lfw_pairs_tar"]) if whole else few
    assert figures["auc"] == pytest.approx(auc, abs=0.002)
    assert figures["tar"] == pytest.approx(tar, abs=0.02)
