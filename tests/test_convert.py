"""engine.convert: the readers on small files made here, and folding against the batch norm it replaces."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx as onnx_package
import pytest

from engine.convert import folding, frozen_graph, onnx, tfjs, tflite
from engine.extractors import layers

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


# --- tfjs ----------------------------------------------------------------------------------------------------


def write_tfjs(folder, weights: list[tuple[dict, np.ndarray]], *, shards: int = 1, drop: int = 0):
    data = b"".join(stored.tobytes() for _, stored in weights)
    data = data[: len(data) - drop]
    cuts = [len(data) * n // shards for n in range(shards + 1)]
    names = [f"group1-shard{n + 1}of{shards}.bin" for n in range(shards)]
    for name, start, end in zip(names, cuts[:-1], cuts[1:], strict=True):
        (folder / name).write_bytes(data[start:end])
    entries = [{"shape": list(stored.shape), "dtype": "float32"} | entry for entry, stored in weights]
    manifest = {"format": "graph-model", "weightsManifest": [{"paths": names, "weights": entries}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder / "model.json"


@pytest.mark.parametrize("shards", [1, 3])
def test_tfjs_weights_of_every_storage_type_over_any_shards(tmp_path, shards):
    plain, half = normal(3, 5), normal(2, 2, 4, 1).astype(np.float16)
    grid, codes = np.arange(6, dtype=np.uint8).reshape(2, 3), np.array([0, 300, 65535], np.uint16)
    model = write_tfjs(
        tmp_path,
        [
            ({"name": "plain"}, plain),
            ({"name": "paddings", "dtype": "int32"}, np.ones((4, 2), np.int32)),
            ({"name": "half", "quantization": {"dtype": "float16", "original_dtype": "float32"}}, half),
            ({"name": "zero"}, np.zeros((), np.float32)),
            ({"name": "grid", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}}, grid),
            ({"name": "codes", "quantization": {"dtype": "uint16", "scale": 2.0, "min": 3.0}}, codes),
        ],
        shards=shards,
    )
    tensors = tfjs.read(model)
    assert set(tensors) == {"plain", "half", "grid", "codes"}
    assert {value.dtype for value in tensors.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(tensors["plain"], plain)
    np.testing.assert_array_equal(tensors["half"], half.astype(np.float32))
    np.testing.assert_array_equal(tensors["grid"], [[-1, -0.5, 0], [0.5, 1, 1.5]])
    np.testing.assert_array_equal(tensors["codes"], [3, 603, 131073])


def test_tfjs_shards_of_the_wrong_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ends at byte 24, but its shards have 20"):
        tfjs.read(write_tfjs(tmp_path, [({"name": "w"}, normal(6))], drop=4))
    model = write_tfjs(tmp_path, [({"name": "w", "shape": [4]}, normal(6))])
    with pytest.raises(ValueError, match=r"24 bytes, but model\.json describes 16"):
        tfjs.read(model)


def test_tfjs_names_a_type_it_cannot_read(tmp_path):
    with pytest.raises(ValueError, match="weight labels: no reader for string"):
        tfjs.read(write_tfjs(tmp_path, [({"name": "labels", "dtype": "string"}, np.zeros(4, np.uint8))]))


# --- frozen TensorFlow graphs --------------------------------------------------------------------------------


def field(number: int, value: int | bytes) -> bytes:
    def varint(n: int) -> bytes:
        return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def node(name: str, op: str, value: np.ndarray | None = None) -> bytes:
    body = field(1, name.encode()) + field(2, op.encode())
    if value is not None:
        shape = b"".join(field(2, field(1, length)) for length in value.shape)
        tensor = field(1, 1 if value.dtype == np.float32 else 3) + field(2, shape) + field(4, value.tobytes())
        body += field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, body)


def test_frozen_graph_has_its_float_constants(tmp_path):
    kernel = normal(3, 3, 2, 150)
    file = tmp_path / "graph.pb"
    file.write_bytes(
        node("x", "Placeholder") + node("a/kernel", "Const", kernel) + node("axis", "Const", np.ones(2, np.int32))
    )
    tensors = frozen_graph.read(file)
    assert list(tensors) == ["a/kernel"]
    np.testing.assert_array_equal(tensors["a/kernel"], kernel)


@pytest.mark.parametrize("data", [b"", b"<html>not a graph</html>", bytes(200), field(1, b"\xff" * 40)])
def test_what_is_no_frozen_graph_is_refused(tmp_path, data):
    file = tmp_path / "graph.pb"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="is not a frozen TensorFlow graph"):
        frozen_graph.read(file)


# --- onnx ----------------------------------------------------------------------------------------------------


def test_dequantised_by_tensor_by_axis_and_by_block():
    codes = np.array([[1, 2, 3, 4, 5], [-1, -2, -3, -4, -5]], np.int8)
    values = onnx.dequantised(codes, np.array(0.5, np.float32), np.array(1, np.int8))
    np.testing.assert_array_equal(values, (codes.astype(np.float32) - 1) * 0.5)
    rows = onnx.dequantised(codes, np.array([2, 3], np.float32), np.array([0, -1], np.int8), axis=0)
    np.testing.assert_array_equal(rows, [[2, 4, 6, 8, 10], [0, -3, -6, -9, -12]])
    scales, zeros = np.array([[1, 10], [2, 20]], np.float32), np.array([[0, 1], [-1, 0]], np.int8)
    blocks = onnx.dequantised(codes, scales, zeros, axis=1, block_size=3)
    np.testing.assert_array_equal(blocks, [[1, 2, 3, 30, 40], [0, -2, -4, -80, -100]])


def test_scales_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"shape \(3,\) do not fit values of shape \(2, 5\) on axis 0"):
        onnx.dequantised(np.zeros((2, 5), np.int8), np.ones(3, np.float32), axis=0)
    with pytest.raises(ValueError, match="in blocks of 2"):
        onnx.dequantised(np.zeros((2, 5), np.int8), np.ones((2, 2), np.float32), axis=1, block_size=2)


def test_onnx_file_gives_what_the_network_reads(tmp_path):
    helper, numpy_helper = onnx_package.helper, onnx_package.numpy_helper
    codes = np.arange(-4, 5, dtype=np.int8).reshape(1, 9)
    scale, zero = np.array([0.25], np.float32), np.array([2], np.int8)
    bias, slope = normal(1), normal(1, 1, 1)
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["flat"], axis=0),
            helper.make_node("Reshape", ["flat", "shape"], ["kernel"]),
            helper.make_node("Constant", [], ["slope"], value=numpy_helper.from_array(slope)),
            helper.make_node("Conv", ["data", "kernel", "bias"], ["y"]),
            helper.make_node("PRelu", ["y", "slope"], ["z"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("data", onnx_package.TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("z", onnx_package.TensorProto.FLOAT, [1, 1, 6, 6])],
        [
            numpy_helper.from_array(value, name)
            for name, value in {
                "codes": codes,
                "scale": scale,
                "zero": zero,
                "shape": np.array([1, 1, 3, -1]),
                "bias": bias,
                "unread": normal(3),
            }.items()
        ],
    )
    onnx_package.save(helper.make_model(graph), tmp_path / "tiny.onnx")
    tensors = onnx.read(tmp_path / "tiny.onnx")
    assert set(tensors) == {"kernel", "bias", "slope"}
    np.testing.assert_array_equal(tensors["kernel"].ravel(), (np.arange(-4, 5) - 2) * np.float32(0.25))
    np.testing.assert_array_equal(tensors["bias"], bias)
    np.testing.assert_array_equal(tensors["slope"], slope)


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        onnx.read(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("reader", "module", "package"),
    [(onnx, "onnx", "onnx"), (tflite, "ai_edge_litert.interpreter", "ai-edge-litert")],
)
def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch, reader, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{package}.*fawkes-engine\[convert\]"):
        reader.read(tmp_path / "file")


# --- folding -------------------------------------------------------------------------------------------------


def norm(channels: int) -> dict:
    return {
        "gamma": normal(channels),
        "beta": normal(channels),
        "mean": normal(channels),
        "variance": np.abs(normal(channels)) + np.float32(0.1),
        "epsilon": 1e-3,
    }


def normalised(x: np.ndarray, *, gamma, beta, mean, variance, epsilon) -> np.ndarray:
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def test_a_batch_norm_after_a_convolution_is_folded():
    x, kernel, bias, statistics = normal(6, 6, 3), normal(3, 3, 3, 4), normal(4), norm(4)
    plain = np.asarray(layers.conv(x, kernel, stride=1, padding="SAME"))
    gain, offset = folding.batch_norm(**statistics)
    for old_bias, expected in [(bias, plain + bias), (None, plain)]:
        folded, shifted = folding.norm_after(kernel, old_bias, gain=gain, offset=offset)
        ours = np.asarray(layers.conv(x, folded, stride=1, padding="SAME")) + shifted
        np.testing.assert_allclose(ours, normalised(expected, **statistics), atol=1e-4)


def test_a_batch_norm_before_a_convolution_is_folded():
    x, kernel, bias, statistics = normal(5, 5, 3), normal(5, 5, 3, 4), normal(4), norm(3)
    gain, offset = folding.batch_norm(**statistics)
    folded, shifted = folding.norm_before(kernel, bias, gain=gain, offset=offset)
    ours = np.asarray(layers.conv(x, folded, stride=1, padding="VALID")) + shifted
    expected = layers.conv(normalised(x, **statistics).astype(np.float32), kernel, stride=1, padding="VALID")
    np.testing.assert_allclose(ours, np.asarray(expected) + bias, atol=1e-4)


def test_a_norm_without_gamma_has_gain_of_the_deviation_only():
    statistics = norm(4) | {"gamma": None}
    gain, offset = folding.batch_norm(**statistics)
    x = normal(7, 4)
    np.testing.assert_allclose(x * gain + offset, normalised(x, **statistics | {"gamma": np.float32(1)}), atol=1e-5)


def test_layouts_of_other_frameworks():
    kernel = normal(4, 3, 2, 5)  # o, i, kh, kw
    assert folding.from_oihw(kernel)[1, 4, 2, 3] == kernel[3, 2, 1, 4]
    depthwise = normal(4, 1, 2, 5)
    assert folding.depthwise_from_oihw(depthwise)[1, 4, 3] == depthwise[3, 0, 1, 4]
    x, matrix = normal(2, 5, 3), normal(7, 30)
    dense = folding.dense_from_chw(matrix, height=2, width=5)
    ours = np.asarray(layers.conv(x, dense, stride=1, padding="VALID"))[0, 0]
    np.testing.assert_allclose(ours, matrix @ x.transpose(2, 0, 1).ravel(), atol=1e-4)
