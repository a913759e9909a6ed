"""The weights of an ONNX network in the order in which it uses them, batch norms folded if they can be.

The names in an exported file are whatever the exporter made up, so what a weight is must be told from the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from engine.convert import folding, onnx
from engine.convert.extra import need
from engine.convert.source_file import SourceFile

Kind = Literal["kernel", "slope", "scale"]


@dataclass
class Weights:
    """Weights of one node: {"kernel", "bias"} of a convolution or dense layer, {"slope"}, or {"scale", "shift"}.

    name: of the node's output, for errors.
    """

    kind: Kind
    name: str
    arrays: dict[str, np.ndarray] = field(repr=False)


def read(path: Path | str) -> list[Weights]:
    """Convolutions, dense layers (Gemm, or MatMul and Add), PReLUs and the batch norms that stay, in the graph's order.

    A batch norm after a convolution or dense layer that nothing else reads is folded into it. So is one before a dense
    layer. A dense layer over a flattened map keeps the source's order of inputs, channels first. Its `kernel` has shape
    (i, o), or (h, w, c, o) if the graph tells the map's shape. Needs the package onnx (ImportError otherwise). Raises
    SourceError (a ValueError) for a file that is not ONNX.
    """
    layers: dict[str, Weights] = {}
    for key, value in onnx.read_by(__name__, path).items():
        number, kind, part, name = key.split("/", 3)
        layers.setdefault(number, Weights(cast(Kind, kind), name, {})).arrays[part] = value
    return list(layers.values())


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`; the names are number/kind/part/name."""
    layers = _Walk(file).run()
    return {
        f"{n}/{layer.kind}/{part}/{layer.name}": v for n, layer in enumerate(layers) for part, v in layer.arrays.items()
    }


class _Walk:
    """One pass over the nodes. `made` maps a tensor to the weights whose result it is, so far unread by others."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.graph = onnx.load(file)
        self.constants = {constant.name: onnx.constant(constant, file) for constant in self.graph.initializer}
        self.readers: dict[str, int] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers[name] = self.readers.get(name, 0) + 1
        self.made: dict[str, Weights] = {}
        self.layers: list[Weights] = []

    def run(self) -> list[Weights]:
        value = need("onnx", package="onnx").helper.get_attribute_value
        for node in self.graph.node:
            if handler := _HANDLERS.get(node.op_type):
                handler(self, node, {attribute.name: value(attribute) for attribute in node.attribute})
        return [layer for layer in self.layers if layer.arrays]

    def _add_layer(self, kind: Kind, node: Any, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():  # any number of nodes may read one tensor
            self.file.claim(array.shape, 4, f"{name} of {node.output[0]}")
        weights = Weights(kind, node.output[0], {name: a.astype(np.float32) for name, a in arrays.items()})
        self.layers.append(weights)
        self.made[node.output[0]] = weights

    def _source(self, name: str, kind: Kind) -> Weights | None:
        """The weights that made a tensor which has no other reader."""
        weights = self.made.get(name)
        return weights if weights is not None and weights.kind == kind and self.readers.get(name) == 1 else None

    def _constant(self, node: Any, attributes: dict[str, Any]) -> None:
        if "value" in attributes:
            self.constants[node.output[0]] = onnx.constant(attributes["value"], self.file)

    def _identity(self, node: Any, attributes: dict[str, Any]) -> None:
        if node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        elif node.input[0] in self.made and self.readers[node.input[0]] == 1:
            self.made[node.output[0]] = self.made[node.input[0]]

    def _conv(self, node: Any, attributes: dict[str, Any]) -> None:
        kernel = self.constants.get(node.input[1])
        if kernel is None:
            return
        bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(kernel), np.float32)
        self._add_layer("kernel", node, kernel=folding.from_oihw(kernel), bias=bias)

    def _gemm(self, node: Any, attributes: dict[str, Any]) -> None:
        matrix = self.constants.get(node.input[1])
        if matrix is not None:
            matrix = matrix.T if attributes.get("transB") else matrix
            bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(matrix.shape[1], np.float32)
            self._dense(node, matrix * attributes.get("alpha", 1.0), bias * attributes.get("beta", 1.0))

    def _matmul(self, node: Any, attributes: dict[str, Any]) -> None:
        matrix = self.constants.get(node.input[1])
        if matrix is not None and matrix.ndim == 2:
            self._dense(node, matrix, np.zeros(matrix.shape[1], np.float32))

    def _dense(self, node: Any, matrix: np.ndarray, bias: np.ndarray) -> None:
        norm = self._source(node.input[0], "scale")
        if norm is not None:
            gain, offset = norm.arrays["scale"], norm.arrays["shift"]
            positions = len(matrix) // len(gain)  # channels first: each channel has all its positions in a row
            bias = bias + np.repeat(offset, positions) @ matrix
            matrix = matrix * np.repeat(gain, positions)[:, None]
            norm.arrays = {}
        self._add_layer("kernel", node, kernel=matrix, bias=bias)

    def _add(self, node: Any, attributes: dict[str, Any]) -> None:
        for dense_name, bias_name in (node.input, node.input[::-1]):
            dense, bias = self._source(dense_name, "kernel"), self.constants.get(bias_name)
            if dense is not None and bias is not None and bias.size == dense.arrays["bias"].size:
                dense.arrays["bias"] = dense.arrays["bias"] + bias.reshape(-1)
                self.made[node.output[0]] = dense

    def _prelu(self, node: Any, attributes: dict[str, Any]) -> None:
        slope = self.constants.get(node.input[1])
        if slope is not None:
            self._add_layer("slope", node, slope=slope.reshape(-1))

    def _batchnormalization(self, node: Any, attributes: dict[str, Any]) -> None:
        gamma, beta, mean, variance = (self.constants[name] for name in node.input[1:5])
        epsilon = attributes.get("epsilon", 1e-5)
        gain, offset = folding.batch_norm(gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=epsilon)
        conv = self._source(node.input[0], "kernel")
        if conv is None:
            self._add_layer("scale", node, scale=gain, shift=offset)
            return
        kernel, bias = folding.norm_after(conv.arrays["kernel"], conv.arrays["bias"], gain=gain, offset=offset)
        conv.arrays |= {"kernel": kernel, "bias": bias}
        self.made[node.output[0]] = conv


_HANDLERS: dict[str, Callable[[_Walk, Any, dict[str, Any]], None]] = {
    "Constant": _Walk._constant,
    **dict.fromkeys(("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze"), _Walk._identity),
    "Conv": _Walk._conv,
    "Gemm": _Walk._gemm,
    "MatMul": _Walk._matmul,
    "Add": _Walk._add,
    "PRelu": _Walk._prelu,
    "BatchNormalization": _Walk._batchnormalization,
}
