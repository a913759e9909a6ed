"""Frozen TensorFlow graphs (.pb), read without TensorFlow: graph.proto, node_def.proto and tensor.proto of 2018."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_DT_FLOAT = 1


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float32 constant with at least one dimension, by the name of its node, as it is stored.

    Kernels of convolutions are (kh, kw, i, o), of depthwise ones (kh, kw, c, 1); matrices are (i, o). Scalars and
    constants of other types are settings of the graph and are left out. Raises ValueError for a file that is no graph.
    """
    tensors = {}
    try:
        for number, node in _fields(memoryview(Path(path).read_bytes())):
            if number == 1 and (constant := _constant(node)) is not None:
                tensors[constant[0]] = constant[1]
    except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a frozen TensorFlow graph ({error!r})") from error
    if not tensors:
        raise ValueError(f"{path} is not a frozen TensorFlow graph: there are no float constants in it")
    return tensors


def _constant(node: memoryview) -> tuple[str, np.ndarray] | None:
    """Name and value of a NodeDef that is a constant with weights."""
    fields = list(_fields(node))
    single = dict(fields)
    if bytes(single[2]) != b"Const":
        return None
    entries = [dict(_fields(value)) for number, value in fields if number == 5]
    attributes = {bytes(entry[1]).decode(): entry[2] for entry in entries}
    tensor = dict(_fields(dict(_fields(attributes["value"]))[8]))
    if tensor[1] != _DT_FLOAT or 4 not in tensor:  # tensor_content; scalars are kept in another field
        return None
    shape = [dict(_fields(value)).get(1, 0) for number, value in _fields(tensor[2]) if number == 2]
    return bytes(single[1]).decode(), np.frombuffer(tensor[4], "<f4").reshape(shape)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message: integers as such, the rest as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(key & 7)
            if length is None:
                length, at = _varint(data, at)
            value = data[at : at + length]
            at += length
        yield key >> 3, value
