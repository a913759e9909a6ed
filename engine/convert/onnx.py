"""ONNX files, read with the package onnx; int8 weights are dequantised as the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.convert import reading
from engine.convert.extra import need
from engine.convert.source_file import SourceFile

_NEEDS = ("onnx", "onnx")


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float constant that the network's own operations read, as float32, by the name they read it under.

    Those are initialisers and `Constant` nodes, and what DequantizeLinear, Reshape and Identity make of them. A
    dequantised kernel has the name of the last of these. Kernels of convolutions are (o, i / groups, kh, kw); the
    matrix of a Gemm is (o, i) if its transB is 1. Scalars are left out. Needs the package onnx (ImportError otherwise).
    Raises SourceError (a ValueError) for a file that is not ONNX, and for scales that do not fit what they scale.
    """
    return read_by(__name__, path)


def read_by(module: str, path: Path | str) -> dict[str, np.ndarray]:
    """Result of a module's `parse` for an ONNX file."""
    return reading.read(path, module=module, kind="an ONNX file", needs=_NEEDS)


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`."""
    onnx = need("onnx", package="onnx")
    graph = load(file)
    known = {tensor.name: constant(tensor, file) for tensor in graph.initializer}
    read_by_network = {output.name for output in graph.output}
    for node in graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            known[node.output[0]] = constant(attributes["value"], file)
        elif node.op_type in _FOLDED and all(name in known for name in node.input if name):
            inputs = [known[name] for name in node.input if name]
            if node.op_type == "DequantizeLinear":
                file.claim(inputs[0].shape, 4, f"the output of {node.name or node.op_type}")
            known[node.output[0]] = _FOLDED[node.op_type](inputs, attributes)
        else:
            read_by_network.update(node.input)
    tensors = {
        name: value
        for name, value in known.items()
        if name in read_by_network and value.ndim and np.issubdtype(value.dtype, np.floating)
    }
    for name, value in tensors.items():
        if value.dtype != np.float32:
            file.claim(value.shape, 4, f"tensor {name}")
    return {name: value.astype(np.float32, copy=False) for name, value in tensors.items()}


def load(file: SourceFile) -> Any:
    """The graph of an ONNX file."""
    graph = need("onnx", package="onnx").load_model_from_string(file.data()).graph
    if not graph.node:
        raise ValueError("there is no graph in it")
    return graph


def constant(tensor: Any, file: SourceFile) -> np.ndarray:
    """A tensor as an array, from the file or, if that says so, from one beside it."""
    onnx = need("onnx", package="onnx")
    file.claim(tensor.dims, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize, f"tensor {tensor.name}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        place = {entry.key: entry.value for entry in tensor.external_data}
        data, offset = file.beside(place["location"], again=True), int(place.get("offset", 0))
        size = int(place.get("length", len(data) - offset))
        if offset < 0 or not 0 <= size <= len(data) - offset:
            raise ValueError(f"tensor {tensor.name} reaches past the end of {place['location']}")
        tensor.raw_data = data[offset : offset + size]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return onnx.numpy_helper.to_array(tensor)


def dequantised(
    quantised: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> np.ndarray:
    """(quantised - zero_point) * scale, float32: ONNX's DequantizeLinear (operator set 21).

    scale, zero_point: one number for all, or a row with one for each index on `axis`. With a `block_size`, they have
    the rank of `quantised`, with one number for each block of so many indices on `axis`. Raises ValueError if they do
    not fit.
    """

    def spread(values: np.ndarray) -> np.ndarray:
        if values.size == 1:
            return values.reshape(())
        if block_size:
            blocks = np.take(values, np.arange(quantised.shape[axis]) // block_size, axis)
            return blocks.reshape(quantised.shape)
        length = quantised.shape[axis]
        return values.reshape([length if n == axis % quantised.ndim else 1 for n in range(quantised.ndim)])

    try:
        shifted = quantised.astype(np.float32)
        if zero_point is not None:
            shifted = shifted - spread(zero_point.astype(np.float32))
        return shifted * spread(scale.astype(np.float32))
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"scales of shape {scale.shape} do not fit values of shape {quantised.shape} "
            f"on axis {axis} in blocks of {block_size}"
        ) from error


def _dequantize_linear(inputs: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    return dequantised(*inputs, axis=attributes.get("axis", 1), block_size=attributes.get("block_size", 0))


def _reshape(inputs: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    value, shape = inputs
    keep = not attributes.get("allowzero", 0)  # a 0 keeps the length of that axis
    return value.reshape([value.shape[n] if keep and length == 0 else length for n, length in enumerate(shape)])


_FOLDED = {
    "DequantizeLinear": _dequantize_linear,
    "Reshape": _reshape,
    "Identity": lambda inputs, attributes: inputs[0],
}
