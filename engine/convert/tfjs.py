"""TensorFlow.js models: a model.json and its weight shards beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from engine.convert import reading
from engine.convert.source_file import SourceFile

_STORED = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2", "bool": "u1"}


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float32 weight of a graph or layers model with at least one dimension, by name; quantised ones restored.

    `path` is the model.json. Kernels of convolutions are (kh, kw, i, o), of depthwise ones (kh, kw, c, 1); matrices are
    (i, o). Scalars and weights of other types are settings of the graph and are left out. Raises SourceError (a
    ValueError) for a weight in a type that is not known. Raises it too for shards of the wrong length, and for shards
    elsewhere than beside the file or below.
    """
    return reading.read(path, module=__name__, kind="a TensorFlow.js model")


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`."""
    tensors: dict[str, np.ndarray] = {}
    for group in json.loads(file.data())["weightsManifest"]:
        data = b"".join([file.beside(shard) for shard in group["paths"]])
        at = 0
        for weight in group["weights"]:
            value, at = _weight(weight, data, at, file)
            if weight["dtype"] == "float32" and value.ndim:
                if weight["name"] in tensors:
                    raise ValueError(f"two weights are named {weight['name']}")
                tensors[weight["name"]] = value
        if at != len(data):
            raise ValueError(f"{', '.join(group['paths'])}: {len(data)} bytes, but {file.path.name} describes {at}")
    return tensors


def _weight(weight: dict[str, Any], data: bytes, at: int, file: SourceFile) -> tuple[np.ndarray, int]:
    """One weight and where the next one begins."""
    quantization = weight.get("quantization", {})
    stored = _STORED.get(quantization.get("dtype", weight["dtype"]))
    if stored is None:
        raise ValueError(f"weight {weight['name']}: no reader for {quantization.get('dtype', weight['dtype'])}")
    file.claim(weight["shape"], 4, f"weight {weight['name']}")
    count = math.prod(weight["shape"])
    end = at + count * np.dtype(stored).itemsize
    if end > len(data):
        raise ValueError(f"weight {weight['name']} ends at byte {end}, but its shards have {len(data)}")
    value = np.frombuffer(data, stored, count, at).reshape(weight["shape"])
    if "scale" in quantization:
        value = value * np.float32(quantization["scale"]) + np.float32(quantization["min"])
    return value.astype(np.float32), end
