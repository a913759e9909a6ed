"""ONNX files, read with the package onnx; int8 weights are dequantised as the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.convert.extra import need


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float constant that the network's own operations read, as float32, by the name they read it under.

    Those are initialisers and `Constant` nodes, and what DequantizeLinear, Reshape and Identity make of them:
    a dequantised kernel has the name of the last of these. Kernels of convolutions are (o, i / groups, kh, kw); the
    matrix of a Gemm is (o, i) where its transB is 1. Scalars are left out. Needs the package onnx (ImportError
    otherwise); raises ValueError for a file that is not ONNX and for scales that do not fit what they scale.
    """
    onnx = need("onnx", package="onnx")
    try:
        graph = onnx.load(str(path)).graph
    except need("google.protobuf.message", package="onnx").DecodeError as error:
        raise ValueError(f"{path} is not an ONNX file ({error})") from error
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read_by_network = {output.name for output in graph.output}
    for node in graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            known[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
        elif node.op_type in _FOLDED and all(name in known for name in node.input if name):
            inputs = [known[name] for name in node.input if name]
            known[node.output[0]] = _FOLDED[node.op_type](inputs, attributes)
        else:
            read_by_network.update(node.input)
    return {
        name: value.astype(np.float32)
        for name, value in known.items()
        if name in read_by_network and value.ndim and np.issubdtype(value.dtype, np.floating)
    }


def dequantised(
    quantised: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> np.ndarray:
    """(quantised - zero_point) * scale, float32: ONNX's DequantizeLinear (operator set 21).

    scale, zero_point: one number for all; or a row of one for each index on `axis`; or, with a `block_size`, of the
    rank of `quantised` with one for each block of so many indices on `axis`. Raises ValueError where they do not fit.
    """

    def spread(values: np.ndarray) -> np.ndarray:
        if values.size == 1:
            return values.reshape(())
        if block_size:
            return np.take(np.repeat(values, block_size, axis), range(quantised.shape[axis]), axis)
        return values.reshape([-1 if n == axis % quantised.ndim else 1 for n in range(quantised.ndim)])

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
