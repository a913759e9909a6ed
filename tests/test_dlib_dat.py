"""engine.convert.dlib_dat on files written here, and the network that engine.convert.sources makes of dlib's."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Any

import dlib_file
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dlib_file import MARK, affine, alias, conv, dense, integer, integers, network, number, plain, tensor, text

from engine import cli
from engine.convert import conversion, dlib_dat, layouts, sources
from engine.extractors import registry, resnet29

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


FILTERS, BIASES, GAMMA, BETA, WEIGHTS = normal(4, 3, 5, 2), normal(4), normal(4), normal(4), normal(4, 7)


def layered(filters: np.ndarray, biases: np.ndarray, gamma: np.ndarray, beta: np.ndarray, weights: np.ndarray) -> bytes:
    """A network of every kind of layer that is read."""
    return network(
        conv(filters, biases, stride=2, padding=3),
        affine(gamma, beta),
        plain("relu_"),
        plain("max_pool_2", 3, 3, 2, 2, 0, 0),
        MARK,
        plain("add_prev_"),
        plain("avg_pool_2", 0, 0, 1, 1, 0, 0),
        dense(weights),
        side=300,
    )


SMALL = layered(FILTERS, BIASES, GAMMA, BETA, WEIGHTS)
ONES = np.ones(1, np.float32)
SMALLER = layered(ONES.reshape(1, 1, 1, 1), ONES, ONES, ONES, ONES.reshape(1, 1))
"""The same layers, with few weights: what is tried at every byte is tried at these."""


def written(folder: Path, data: bytes) -> Path:
    path = folder / "network.dat"
    path.write_bytes(data)
    return path


# --- the reader -----------------------------------------------------------------------------------------------


def test_layers_come_from_the_input_on_with_settings_and_weights(tmp_path: Path) -> None:
    layers = dlib_dat.layers(written(tmp_path, SMALL))
    kinds = ["input_rgb_image_sized", "con_4", "affine_", "relu_", "max_pool_2", "mark", "add_prev_", "avg_pool_2"]
    assert [layer.kind for layer in layers] == [*kinds, "fc_2", "loss_metric_2"]
    np.testing.assert_allclose(layers[0].settings, (122.782, 117.001, 104.298, 300, 300), rtol=1e-6)
    assert layers[1].settings == (4, 5, 2, 2, 2, 3, 3)
    np.testing.assert_array_equal(layers[1].arrays["filters"], FILTERS)
    np.testing.assert_array_equal(layers[1].arrays["biases"], BIASES)
    np.testing.assert_array_equal(layers[2].arrays["gamma"], GAMMA)
    np.testing.assert_array_equal(layers[2].arrays["beta"], BETA)
    assert layers[4].settings == (3, 3, 2, 2, 0, 0)
    np.testing.assert_array_equal(layers[8].arrays["weights"], WEIGHTS)
    assert layers[8].arrays["biases"].shape == (0,)
    np.testing.assert_allclose(layers[9].settings, (0.04, 0.6), rtol=1e-6)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    assert len(dlib_dat.layers(written(tmp_path, SMALLER))) == 10
    for end in range(len(SMALLER)):
        with pytest.raises(dlib_dat.DlibFileError, match=r"network\.dat .*ends at byte"):
            dlib_dat.layers(written(tmp_path, SMALLER[:end]))


def test_a_file_with_something_after_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dlib_dat.DlibFileError, match="3 bytes too many"):
        dlib_dat.layers(written(tmp_path, SMALL + b"end"))


def altered(old: bytes, new: bytes) -> bytes:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)


HEAD = integer(1) + text("loss_metric_2") + number(0.04) + number(0.6)
CONV = conv(FILTERS, BIASES, stride=2, padding=3)
WRONG = {
    "nothing of dlib's": (b"<html>not a network</html>", "no integer begins with 60"),
    "another version": (integer(2) + SMALL[2:], "version of the loss is 2, not 1"),
    "another loss": (altered(text("loss_metric_2"), text("loss_mmod_")), "loss_mmod_, not loss_metric_2"),
    "another input": (altered(text("input_rgb_image_sized"), text("input_rgb_image")), "input is input_rgb_image"),
    "a layer's version": (HEAD + integer(7) + SMALL[len(HEAD) :], "version of a layer is 7"),
    "a deep stack": (HEAD + integer(2) * 5000, "over 4096 layers"),
    "an unknown layer": (altered(text("max_pool_2"), text("max_pool_9")), "no reader for a layer max_pool_9"),
    "an old tensor": (
        altered(CONV, CONV.replace(tensor(np.append(FILTERS, BIASES)), tensor(np.append(FILTERS, BIASES), version=1))),
        "version of a tensor is 1, not 2",
    ),
    "an absurd tensor": (
        altered(CONV, text("con_4") + integers(2, 2**62, 2**62, 2**62, 2**62) + CONV[8:]),
        "ends at byte",
    ),
    "a negative side": (altered(CONV, text("con_4") + integers(2, -4, 1, 1, 1)), r"shape \(-4, 1, 1, 1\)"),
    "a part too large": (altered(alias(*FILTERS.shape), alias(9, 3, 5, 2)), "124 weights for"),
    "other filters than said": (altered(integers(4, 5, 2, 2, 2, 3, 3), integers(4, 2, 5, 2, 2, 3, 3)), "filters"),
    "a dense layer of another size": (altered(integers(7, 4), integers(7, 5)), "dense layer from 5 to 7"),
    "a weight that is no number": (
        altered(affine(GAMMA, BETA), affine(GAMMA * np.float32("nan"), BETA)),
        "a weight that is not finite",
    ),
    "a switch that is none": (altered(plain("relu_"), text("relu_") + b"1x0" + dlib_file.STATE[3:]), "a switch"),
    "no number": (altered(number(0.6), integers(1, 32000)), "two to the 32000 is no number"),
    "a name of letters that are none": (altered(text("relu_"), text("re\n\t_")), "other than letters"),
    "an endless name": (altered(text("relu_"), integer(2**40)), "a name of 1099511627776 letters"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_as_dlib_writes_it_is_refused_in_one_sentence(tmp_path: Path, what: str) -> None:
    data, message = WRONG[what]
    with pytest.raises(dlib_dat.DlibFileError, match=message) as error:
        dlib_dat.layers(written(tmp_path, data))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_any_byte_changed_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    data = bytearray(SMALLER)
    for at in range(len(data)):
        data[at] ^= 0xFF
        with contextlib.suppress(dlib_dat.DlibFileError):
            dlib_dat.layers(written(tmp_path, bytes(data)))
        data[at] ^= 0xFF


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="named pipe"):
        dlib_dat.layers(tmp_path / "pipe")


# --- dlib's face network ----------------------------------------------------------------------------------------


Means = tuple[float, float, float]


def resnet(*, first: bytes | None = None, drop: int | None = None, means: Means | None = None) -> bytes:
    """dlib's face network with random weights; first: in place of its first convolution; drop: a layer to leave out."""

    def pair(i: int, o: int, side: int, *, stride: int, padding: int) -> list[bytes]:
        filters = normal(o, i, side, side) / np.float32(side * i**0.5)
        norm = affine(1 + normal(o) / 10, normal(o) / 10)
        return [conv(filters, normal(o) / 10, stride=stride, padding=padding), norm]

    stem = pair(3, 32, 7, stride=2, padding=0)
    layers = [first or stem[0], stem[1], plain("relu_"), plain("max_pool_2", 3, 3, 2, 2, 0, 0)]
    i = 32
    for stage, (o, count) in enumerate(((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))):
        for number_ in range(count):
            halve = stage > 0 and number_ == 0
            pair_of_layers = pair(i, o, 3, stride=2, padding=0) if halve else pair(i, o, 3, stride=1, padding=1)
            layers += [MARK, *pair_of_layers, plain("relu_"), *pair(o, o, 3, stride=1, padding=1)]
            layers += [MARK, MARK, plain("avg_pool_2", 2, 2, 2, 2, 0, 0)] if halve else []
            layers += [plain("add_prev_"), plain("relu_")]
            i = o
    layers += [plain("avg_pool_2", 0, 0, 1, 1, 0, 0), dense(normal(256, 128))]
    if drop is not None:
        del layers[drop]
    return network(*layers, means=means or sources.RESNET29_MEAN)


def test_affine_layers_are_folded_into_the_convolutions_before_them(tmp_path: Path) -> None:
    path = written(tmp_path, resnet())
    layers = dlib_dat.layers(path)
    tensors = sources.dlib_resnet(path)
    assert len(tensors) == 60
    number = 0
    for layer, norm in itertools.pairwise(layers):
        if layer.kind == "con_4":
            number += 1
            kernel = layer.arrays["filters"].transpose(2, 3, 1, 0) * norm.arrays["gamma"]
            bias = layer.arrays["biases"] * norm.arrays["gamma"] + norm.arrays["beta"]
            np.testing.assert_allclose(tensors[f"con_{number}/kernel"], kernel, rtol=1e-6)
            np.testing.assert_allclose(tensors[f"con_{number}/bias"], bias, rtol=1e-6, atol=1e-7)
    assert number == 29
    np.testing.assert_array_equal(tensors["fc_1/kernel"][0, 0], layers[-2].arrays["weights"])


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "another stride": ({"first": conv(normal(32, 3, 7, 7), normal(32), stride=1)}, r"layer 1 is \('con_4', .*expected"),
    "another padding": ({"first": conv(normal(32, 3, 7, 7), normal(32), stride=2, padding=3)}, "layer 1 is"),
    "a block less": ({"drop": 4}, r"layer 5 is \('con_4'"),
    "no embedding": ({"drop": -1}, "is nothing, expected .'fc_2'"),
    "other means": ({"means": (1.0, 2.0, 3.0)}, "layer 0 is"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_network_of_dlibs_is_refused(tmp_path: Path, what: str) -> None:
    changes, message = OTHERS[what]
    with pytest.raises(ValueError, match=message):
        sources.dlib_resnet(written(tmp_path, resnet(**changes)))


def test_the_command_converts_it_and_keeps_where_its_crop_lies(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FAWKES_ENGINE_HOME", str(tmp_path / "home"))
    path = written(tmp_path, resnet())
    assert cli.main(["convert", str(path), "--as", "resnet29/dlib", "--name", "mine"]) == cli.OK
    assert registry.find("mine").spec == layouts.find("resnet29/dlib").spec == registry.find("dlib-resnet").spec
    assert cli.main(["models", "mine"]) == cli.OK
    assert "39 to 137 across, 55 to 153 down" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:1000])
    assert cli.main(["convert", str(path), "--as", "resnet29/dlib", "--name", "half"]) == cli.USAGE
    assert "ends at byte 1000" in capsys.readouterr().err


def test_a_dense_layer_of_another_length_is_another_network() -> None:
    build = registry.network("resnet29", {"dim": 64})
    assert conversion.embedding_length(build, 150) == 64


# --- what the network has of its own ------------------------------------------------------------------------------


def test_maps_of_two_sizes_are_added_from_the_corner_on() -> None:
    small, wide = jnp.ones((2, 2, 3)), jnp.full((3, 2, 1), 2.0)
    total = np.asarray(resnet29.add(small, wide))
    expected = np.zeros((3, 2, 3), np.float32)
    expected[:2, :, :] += 1
    expected[:, :, :1] += 2
    np.testing.assert_array_equal(total, expected)


def test_a_halving_block_averages_what_it_passes_over() -> None:
    block = resnet29.Block(2, 3, halve=True, rngs=None)  # zeros: only the shortcut is left
    x = jax.random.uniform(jax.random.key(0), (8, 8, 2))
    y = np.asarray(block(x))
    assert y.shape == (4, 4, 3)
    np.testing.assert_allclose(y[..., :2], np.asarray(x).reshape(4, 2, 4, 2, 2).mean((1, 3)), rtol=1e-6)
    np.testing.assert_array_equal(y[..., 2], np.zeros((4, 4)))
