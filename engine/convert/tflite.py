"""TensorFlow Lite files (.tflite), read with LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.convert import reading
from engine.convert.extra import need
from engine.convert.source_file import SourceFile

_NEEDS = ("ai_edge_litert.interpreter", "ai-edge-litert")


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float32 constant of a file without quantisation, by tensor name, as it is stored.

    Kernels of convolutions are (o, kh, kw, i), of depthwise ones (1, kh, kw, c). Needs ai-edge-litert (ImportError
    otherwise); raises SourceError (a ValueError) for what LiteRT cannot open.
    """
    return reading.read(path, module=__name__, kind="a TensorFlow Lite file", needs=_NEEDS)


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`."""
    interpreter = need(_NEEDS[0], package=_NEEDS[1]).Interpreter(model_content=file.data())
    made = {index for op in interpreter._get_ops_details() for index in op["outputs"]}
    inputs = {detail["index"] for detail in interpreter.get_input_details()}
    tensors: dict[str, np.ndarray] = {}
    for detail in interpreter.get_tensor_details():
        if detail["index"] not in made | inputs and detail["dtype"] is np.float32:
            if detail["name"] in tensors:
                raise ValueError(f"two tensors are named {detail['name']}")
            file.claim(detail["shape"], 4, f"tensor {detail['name']}")
            tensors[detail["name"]] = interpreter.get_tensor(detail["index"])
    return tensors
