"""TensorFlow Lite files (.tflite), read with LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.convert.extra import need


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every float32 constant of a file without quantisation, by tensor name, as it is stored.

    Kernels of convolutions are (o, kh, kw, i), of depthwise ones (1, kh, kw, c). Needs ai-edge-litert (ImportError
    otherwise); raises ValueError for what LiteRT cannot open.
    """
    interpreter = need("ai_edge_litert.interpreter", package="ai-edge-litert").Interpreter(str(path))
    made = {index for op in interpreter._get_ops_details() for index in op["outputs"]}
    given = {detail["index"] for detail in interpreter.get_input_details()}
    return {
        detail["name"]: interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if detail["index"] not in made | given and detail["dtype"] is np.float32
    }
