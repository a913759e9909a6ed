"""A source network as layers in our conventions: kernels (kh, kw, i, o), batch norms as scale and shift, then folded.

`Modules` is `{layer: {"kernel" | "bias" | "scale" | "shift" | "slope" | ...: array}}`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from engine.convert import folding
from engine.extractors.weight_map import expand_rules

Modules = dict[str, dict[str, np.ndarray]]

_MEANS = {"running_mean": ("weight", "bias", "running_var"), "moving_mean": ("gamma", "beta", "moving_variance")}
"""Names of a batch norm's gamma, beta and variance, by that of its mean: PyTorch's, then Keras's."""


def grouped(tensors: Mapping[str, np.ndarray], *, separator: str) -> Modules:
    """Tensors by layer: the last `separator` of a name parts the layer from its tensor."""
    modules: Modules = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(separator)
        modules.setdefault(layer, {})[kind] = value
    return modules


def from_torch(tensors: Mapping[str, np.ndarray], *, epsilon: float, flattened: Mapping[str, Any]) -> Modules:
    """A state dict's layers.

    epsilon: of every batch norm. flattened: by dense layer the (height, width) of the map that it sees flattened,
    channels first. Its kernel becomes that of a convolution as large.
    """
    modules = grouped(tensors, separator=".")
    for name, (height, width) in flattened.items():
        if "weight" in modules.get(name, {}):
            matrix = modules[name].pop("weight")
            if matrix.ndim != 2 or matrix.shape[1] % (height * width):
                raise ValueError(f"{name}/weight is {matrix.shape}; expected a matrix over a map of {height}x{width}")
            modules[name]["kernel"] = folding.dense_from_chw(matrix, height=height, width=width)
    return {name: _from_torch(module, epsilon=epsilon) for name, module in modules.items()}


def _from_torch(module: dict[str, np.ndarray], *, epsilon: float) -> dict[str, np.ndarray]:
    if "running_mean" in module:
        return _batch_norm(module, epsilon=epsilon)
    weight = module.get("weight")
    if weight is None:
        return module
    rest = {kind: value for kind, value in module.items() if kind != "weight"}
    if weight.ndim == 4:
        return rest | {"kernel": folding.from_oihw(weight)}
    if weight.ndim == 2:
        return rest | {"kernel": weight.T}
    if weight.ndim == 1 and "bias" in rest:  # a layer norm
        return {"scale": weight, "shift": rest["bias"]}
    if weight.ndim == 1:
        return rest | {"slope": weight}
    return module


def from_keras(tensors: Mapping[str, np.ndarray], *, epsilon: float) -> Modules:
    """The layers of a Keras model, whose kernels are ours already; epsilon: of every batch norm."""
    modules = grouped(tensors, separator="/")
    return {
        name: _batch_norm(module, epsilon=epsilon) if "moving_mean" in module else module
        for name, module in modules.items()
    }


def _batch_norm(module: dict[str, np.ndarray], *, epsilon: float) -> dict[str, np.ndarray]:
    mean = next(kind for kind in _MEANS if kind in module)
    gamma, beta, variance = (module.get(kind) for kind in _MEANS[mean])
    if variance is None:
        raise ValueError(f"a batch norm has {', '.join(sorted(module))}, but no {_MEANS[mean][2]}")
    beta = np.zeros_like(variance) if beta is None else beta
    gain, offset = folding.batch_norm(gamma=gamma, beta=beta, mean=module[mean], variance=variance, epsilon=epsilon)
    return {"scale": gain, "shift": offset}


def scale_input(modules: Modules, deviations: Mapping[str, Any], *, scale: float) -> Modules:
    """First convolutions that see (x - mean) / scale instead of (x - mean) / deviation, one deviation a channel."""
    scaled = dict(modules)
    for name, deviation in deviations.items():
        if "kernel" in modules.get(name, {}):
            gain = np.float32(scale) / np.array(deviation, np.float32)
            scaled[name] = modules[name] | {"kernel": modules[name]["kernel"] * gain[:, None]}
    return scaled


def fold(modules: Modules, *, after: Mapping[str, str], before: Mapping[str, str]) -> Modules:
    """Batch norms in the kernels and biases beside them, and a bias of zero if a kernel has none.

    after, before: convolution = the batch norm after, or before, it. Braces expand as in weight maps; `*` is one part
    of a layer's name, the same on both sides. A pair of which one is absent is left alone: what is then missing or too
    much is said when the network is filled.
    """
    folded = {name: dict(module) for name, module in modules.items()}
    for module in folded.values():
        if "kernel" in module:
            module.setdefault("bias", np.zeros(module["kernel"].shape[-1], np.float32))
    for conv, norm in _pairs(before, folded):
        gain, offset = folded.pop(norm).values()
        kernel, bias = folded[conv]["kernel"], folded[conv]["bias"]
        square = kernel if kernel.ndim == 4 else kernel[None, None]
        square, bias = folding.norm_before(square, bias, gain=gain, offset=offset)
        folded[conv] |= {"kernel": square.reshape(kernel.shape), "bias": bias}
    for conv, norm in _pairs(after, folded):
        gain, offset = folded.pop(norm).values()
        kernel, bias = folding.norm_after(folded[conv]["kernel"], folded[conv]["bias"], gain=gain, offset=offset)
        folded[conv] |= {"kernel": kernel, "bias": bias}
    return folded


def _pairs(rules: Mapping[str, str], modules: Modules) -> list[tuple[str, str]]:
    """(convolution, batch norm) of the rules, if both are there."""
    pairs = []
    for conv_pattern, norm_pattern in expand_rules(rules, name="fold").items():
        form = re.compile(r"([^./]+)".join(re.escape(part) for part in conv_pattern.split("*")))
        for conv in modules:
            if match := form.fullmatch(conv):
                norm = "".join(p + s for p, s in zip(norm_pattern.split("*"), (*match.groups(), ""), strict=True))
                if "kernel" in modules[conv] and "scale" in modules.get(norm, {}):
                    pairs.append((conv, norm))
    return pairs


def tensors(modules: Modules, *, ignored: Iterable[str]) -> dict[str, np.ndarray]:
    """{"layer/kind": array} of all but what fits one of the patterns `ignored` (as file names do)."""
    named = {f"{name}/{kind}".removeprefix("/"): v for name, module in modules.items() for kind, v in module.items()}
    return {name: v for name, v in named.items() if not any(fnmatch.fnmatchcase(name, p) for p in ignored)}


def fit(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`value` in the shape wanted, if they differ by axes of length one, or are of a grouped and a full kernel.

    A kernel (kh, kw, i / groups, o) becomes one of (kh, kw, i, o) with zeros between the groups. Returned as it is
    if neither fits: filling the network then says so.
    """
    if value.shape == shape:
        return value
    if [n for n in value.shape if n > 1] == [n for n in shape if n > 1]:
        return value.reshape(shape)
    same = len(shape) == value.ndim == 4 and value.shape[:2] == shape[:2] and value.shape[3] == shape[3]
    if not same or shape[2] % value.shape[2]:
        return value
    groups, width = shape[2] // value.shape[2], value.shape[2]
    if shape[3] % groups:
        return value
    full = np.zeros(shape, value.dtype)
    for group in range(groups):
        outputs = slice(group * shape[3] // groups, (group + 1) * shape[3] // groups)
        full[:, :, group * width : (group + 1) * width, outputs] = value[:, :, :, outputs]
    return full
