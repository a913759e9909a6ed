"""What one project's files need of their own: readers, `read(path)`, and names for what their weight maps have."""

from __future__ import annotations

import re
from collections.abc import Callable
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


def magface_name(name: str) -> str:
    """MagFace wraps its network as "features.module." (or "module.features."), beside a classifier named as a layer."""
    for wrapper in ("features.module.", "module.features."):
        if name.startswith(wrapper):
            return name.removeprefix(wrapper)
    return f"classifier.{name}"


def keras_2_name(name: str) -> str:
    """Keras 3 has "conv1_conv" for the "conv1/conv" of Keras 2."""
    return re.sub(r"^conv1_(conv|bn)/", r"conv1/\1/", name)


def by_stage(blocks: tuple[int, ...]) -> Callable[[str], str]:
    """Turns the "body.5.x" of an IR-SE network, which counts all blocks, into "body.<stage>.<block>.x"."""
    places = [(stage, block) for stage, count in enumerate(blocks) for block in range(count)]

    def rename(name: str) -> str:
        head, *rest = name.split(".")
        if head != "body" or not rest or not rest[0].isdecimal() or int(rest[0]) >= len(places):
            return name
        stage, block = places[int(rest[0])]
        return ".".join((head, str(stage), str(block), *rest[1:]))

    return rename
