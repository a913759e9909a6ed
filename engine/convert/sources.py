"""Particulars of one project's files: readers, `read(path)`, and names for what their weight maps have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.convert import dlib_dat, folding, frozen_graph, onnx, tfjs, tflite
from engine.extractors.resnet29 import STAGES


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


def faceres(path: Path | str) -> dict[str, np.ndarray]:
    """The trunk of HSE's age and gender network; the 1x1 convolutions have their batch norms' gains in them already."""
    tensors = tfjs.read(path)
    result = {}
    for name in ("conv1", *(f"conv_{kind}_{n}" for kind in ("dw", "pw") for n in range(1, 14))):
        bias = tensors[f"{name}_bn/batchnorm_1/sub"]
        if "_dw_" in name:
            kernel = folding.scaled(tensors[f"{name}/depthwise_kernel"][..., 0], tensors[f"{name}_bn/batchnorm_1/mul"])
        else:
            kernel = tensors[f"{name}/convolution/merged_input"]
        result |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return result


def mobileface(path: Path | str) -> dict[str, np.ndarray]:
    """becauseofAI's network, whose convolutions have no biases; what it does to its input is in its input spec."""
    tensors = tfjs.read(path)
    result = {}
    for name, value in tensors.items():
        if name.endswith("_gamma"):
            result[name] = value
        elif name.endswith(("_weight", "_df")):
            base = name.rsplit("_", 1)[0]
            kernel = value[..., 0] if name.endswith("_df") else value
            result |= {f"{base}/kernel": kernel, f"{base}/bias": np.zeros(kernel.shape[-1], np.float32)}
    dense = tensors["dense/kernel"].reshape(4, 4, 128, 256)
    gain, offset = tensors["batchnorm0/mul"], tensors["batchnorm0/sub"]
    kernel, bias = folding.norm_after(dense, None, gain=gain, offset=offset)
    return result | {"dense/kernel": kernel, "dense/bias": bias}


def sface(path: Path | str) -> dict[str, np.ndarray]:
    """OpenCV Zoo's SFace, dequantised; what it does to its input is in its input spec."""
    tensors = onnx.read(path)

    def norm(name: str, epsilon: float) -> dict[str, np.ndarray]:
        gamma, beta, mean, variance = (
            tensors[f"{name}_{part}"] for part in ("gamma", "beta", "moving_mean", "moving_var")
        )
        gain, offset = folding.batch_norm(gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=epsilon)
        return {"gain": gain, "offset": offset}

    result = {}
    for name in ("conv_1", *(f"conv_{n}{kind}" for n in range(2, 15) for kind in ("_dw", ""))):
        layout = folding.depthwise_from_oihw if name.endswith("_dw") else folding.from_oihw
        kernel = layout(tensors[f"{name}_conv2d_weight_reshaped"])
        kernel, bias = folding.norm_after(kernel, None, **norm(f"{name}_batchnorm", 1e-3))
        slope = tensors[f"{name}_relu_gamma"].ravel()
        result |= {f"{name}/kernel": kernel, f"{name}/bias": bias, f"{name}/slope": slope}
    kernel = folding.dense_from_chw(tensors["pre_fc1_weight_dequantized"], height=7, width=7)
    kernel, bias = folding.norm_before(kernel, tensors["pre_fc1_bias_dequantized"], **norm("bn1", 2e-5))
    kernel, bias = folding.norm_after(kernel, bias, **norm("fc1", 2e-5))
    return result | {"fc1/kernel": kernel, "fc1/bias": bias}


def faceplugin(path: Path | str) -> dict[str, np.ndarray]:
    """Faceplugin's MobileFaceNet, batch norms folded; what it does to its input is in its input spec."""
    return _folded(onnx.read(path))


def yunet(path: Path | str) -> dict[str, np.ndarray]:
    """OpenCV Zoo's YuNet, dequantised; the four heads of a map as one: class, object, box, landmarks."""
    tensors = {re.sub(r"_(reshaped|dequantized)$", "", name): value for name, value in onnx.read(path).items()}
    for resize in ("240", "464", "465"):
        tensors.pop(resize, None)
    for level, layer, part in itertools.product(range(3), (1, 2), ("weight", "bias")):
        heads = [tensors.pop(f"bbox_head.multi_level_{head}.{level}.conv{layer}.{part}") for head in _YUNET_HEADS]
        tensors[f"head.{level}.conv{layer}.{part}"] = np.concatenate(heads)
    return _folded(tensors)


_YUNET_HEADS = ("cls", "obj", "bbox", "kps")


def _folded(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of an ONNX file without batch norms, convolutions in our layouts."""
    for name, value in tensors.items():
        if value.ndim == 4:
            depthwise = value.shape[1] == 1 and value.shape[2] > 1
            tensors[name] = folding.depthwise_from_oihw(value) if depthwise else folding.from_oihw(value)
        else:
            tensors[name] = value.ravel()
    return tensors


RESNET29_MEAN = (122.782, 117.001, 104.298)
"""Means that dlib's face network subtracts from red, green and blue before it divides by 256."""


def _resnet29() -> list[tuple[str, tuple[float, ...]]]:
    """The layers of dlib's face network from the input on, kinds and settings; without the loss."""
    norm, relu, mark, add = ("affine_", (0,)), ("relu_", ()), (dlib_dat.MARK, ()), ("add_prev_", ())

    def conv(channels: int, side: int, stride: int, padding: int) -> tuple[str, tuple[float, ...]]:
        return "con_4", (channels, side, side, stride, stride, padding, padding)

    stem = [("input_rgb_image_sized", (*RESNET29_MEAN, 150, 150)), conv(32, 7, 2, 0), norm, relu]
    whole = [*stem, ("max_pool_2", (3, 3, 2, 2, 0, 0))]
    for stage, (channels, count) in enumerate(STAGES):
        for number in range(count):
            halve = stage > 0 and number == 0
            whole += [mark, conv(channels, 3, 2, 0) if halve else conv(channels, 3, 1, 1), norm, relu]
            whole += [conv(channels, 3, 1, 1), norm]
            whole += [mark, mark, ("avg_pool_2", (2, 2, 2, 2, 0, 0))] if halve else []
            whole += [add, relu]
    return [*whole, ("avg_pool_2", (0, 0, 1, 1, 0, 0)), ("fc_2", (128, 256))]


def dlib_resnet(path: Path | str) -> dict[str, np.ndarray]:
    """dlib's face network; what it does to its input is in its input spec.

    Raises dlib_dat.DlibFileError, a ValueError, for a file that is none of dlib's or that has another network.
    """
    layers = dlib_dat.layers(path)
    *described, _ = ((layer.kind, tuple(round(number, 3) for number in layer.settings)) for layer in layers)
    wanted = _resnet29()
    if described != wanted:
        pairs = itertools.zip_longest(described, wanted, fillvalue="nothing")
        number, (theirs, ours) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        raise dlib_dat.DlibFileError(
            f"{path} has another network than dlib_face_recognition_resnet_model_v1.dat: "
            f"its layer {number} is {theirs}, expected {ours}"
        )
    result: dict[str, np.ndarray] = {}
    convolutions = [layer.arrays for layer in layers if layer.kind == "con_4"]
    norms = [layer.arrays for layer in layers if layer.kind == "affine_"]
    for number, (conv, norm) in enumerate(zip(convolutions, norms, strict=True), 1):
        kernel, bias = folding.norm_after(
            folding.from_oihw(conv["filters"]), conv["biases"], gain=norm["gamma"], offset=norm["beta"]
        )
        result |= {f"con_{number}/kernel": kernel, f"con_{number}/bias": bias}
    (dense,) = (layer.arrays["weights"] for layer in layers if layer.kind == "fc_2")
    return result | {"fc_1/kernel": dense[None, None], "fc_1/bias": np.zeros(dense.shape[1], np.float32)}


def magface_name(name: str) -> str:
    """MagFace wraps its network as "features.module." (or "module.features."), beside a classifier named as a layer."""
    for wrapper in ("features.module.", "module.features."):
        if name.startswith(wrapper):
            return name.removeprefix(wrapper)
    return f"classifier.{name}"


def keras_2_name(name: str) -> str:
    """Keras 3 has "conv1_conv" for the "conv1/conv" of Keras 2."""
    return re.sub(r"^conv1_(conv|bn)/", r"conv1/\1/", name)


def keras_facenet_name(name: str) -> str:
    """deepface counts the second branch of these blocks up with the block; they have two, 0 and 1."""
    return re.sub(r"^(Block(?:17|8)_\d+_Branch)_[1-9]\d*_", r"\1_1_", name)


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
