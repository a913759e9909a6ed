"""Published files that need a reader of their own: `read(path)` gives tensors under the names of their weight map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.convert import folding, frozen_graph, tflite


def facenet(path: Path | str) -> dict[str, np.ndarray]:
    """davidsandberg/facenet's frozen graph, whose bottleneck alone still has its batch norm."""
    tensors = frozen_graph.read(path)
    base = "InceptionResnetV1/Bottleneck"
    names = [f"{base}/BatchNorm/{kind}" for kind in ("beta", "moving_mean", "moving_variance")]
    if f"{base}/weights" in tensors and all(name in tensors for name in names):
        beta, mean, variance = (tensors.pop(name) for name in names)
        gain, offset = folding.batch_norm(beta=beta, mean=mean, variance=variance, epsilon=0.001)
        kernel, bias = folding.norm_after(tensors[f"{base}/weights"][None, None], None, gain=gain, offset=offset)
        tensors |= {f"{base}/weights": kernel, f"{base}/biases": bias}
    return tensors


def sirius_mobilefacenet(path: Path | str) -> dict[str, np.ndarray]:
    """sirius-ai's TFLite file; its batch norms are folded already."""
    tensors = tflite.read(path)
    for name, value in tensors.items():
        if "depthwise_weights" in name:
            tensors[name] = value[0]
        elif value.ndim == 4:
            tensors[name] = value.transpose(1, 2, 3, 0)
        elif name.endswith("/mul"):
            tensors[name] = 2 * value  # PReLU there is relu(x) + mul * (x - |x|): twice the negative part
    return tensors
