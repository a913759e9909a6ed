"""Frozen TensorFlow graphs (.pb), read without TensorFlow: graph.proto, node_def.proto and tensor.proto of 2018."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.convert import reading
from engine.convert.source_file import SourceFile

_DT_FLOAT = 1
_MAX_FIELDS = 5_000_000  # facenet's graph has 60,000
_LONGEST_VARINT = 10


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float32 constant with at least one dimension, by the name of its node, as it is stored.

    Kernels of convolutions are (kh, kw, i, o), of depthwise ones (kh, kw, c, 1); matrices are (i, o). Scalars and
    constants of other types are settings of the graph and are left out. Raises SourceError (a ValueError) for a file
    that is no graph.
    """
    return reading.read(path, module=__name__, kind="a frozen TensorFlow graph")


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`."""
    graph = _Messages()
    tensors: dict[str, np.ndarray] = {}
    for number, node in graph.fields(memoryview(file.data())):
        if number == 1 and (constant := _constant(graph, node)) is not None:
            name, value = constant
            if name in tensors:
                raise ValueError(f"two constants are named {name}")
            tensors[name] = value
    if not tensors:
        raise ValueError("there are no float constants in it")
    return tensors


def _constant(graph: _Messages, node: memoryview) -> tuple[str, np.ndarray] | None:
    """Name and value of a NodeDef that is a constant with weights."""
    fields = list(graph.fields(node))
    single = dict(fields)
    if bytes(single[2]) != b"Const":
        return None
    entries = [dict(graph.fields(value)) for number, value in fields if number == 5]
    attributes = {bytes(entry[1]).decode(): entry[2] for entry in entries}
    tensor = dict(graph.fields(dict(graph.fields(attributes["value"]))[8]))
    if tensor[1] != _DT_FLOAT or 4 not in tensor:  # tensor_content; scalars are kept in another field
        return None
    shape = [dict(graph.fields(value)).get(1, 0) for number, value in graph.fields(tensor[2]) if number == 2]
    return bytes(single[1]).decode(), np.frombuffer(tensor[4], "<f4").reshape(shape)


class _Messages:
    """Protobuf messages of one file, which may have no more than _MAX_FIELDS fields in all."""

    def __init__(self) -> None:
        self.count = 0

    def fields(self, data: memoryview) -> Iterator[tuple[int, Any]]:
        """(number, value) of a message: integers as such, the rest as bytes. Raises ValueError for damage."""
        at = 0
        while at < len(data):
            self.count += 1
            if self.count > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS:,} fields")
            key, at = _varint(data, at)
            if key & 7 == 0:
                value, at = _varint(data, at)
            else:
                length, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
                if length > len(data) - at:
                    raise ValueError("a field reaches past its end")
                value = data[at : at + length]
                at += length
            yield key >> 3, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number in it does not end")
