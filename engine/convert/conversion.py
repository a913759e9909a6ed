"""A published file to an extractor of ours: weights as an Orbax checkpoint, and a card that says what they are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from engine import checkpoint
from engine.convert import folding, modules, onnx_graph, reading
from engine.convert.layouts import Layout, find
from engine.extractors import converted, registry
from engine.extractors.order import layers
from engine.extractors.weight_map import fill, resolve, weight_map

log = logging.getLogger(__name__)

OUTPUT = "bottleneck/bias"
"""The last parameter of networks whose embedding can have any length: its length is the embedding's."""


def convert(
    source: Path | str,
    *,
    layout: str,
    name: str,
    out: Path | None = None,
    licence: str = "unknown",
    half: bool = False,
    replace: bool = False,
) -> Path:
    """Converts `source`, a file of the layout named `layout`, to the extractor `name`; returns its folder.

    out: the folder to keep it under, `converted.home()` by default. half: float16 on disk instead of float32. replace:
    an extractor of that name that was converted before. The folder appears only when it is complete.

    Raises ValueError for a layout or file that cannot be used, and for a name that is taken. Raises it too for weights
    that are not finite or do not fit the network. One message then names all that is missing, extra or mis-shaped.
    Raises ImportError for a reader that is not installed, and FileNotFoundError if there is no such file.
    """
    source, kind = Path(source), find(layout)
    registry.check_name(name, folder=out, replace=replace)
    sha256 = _sha256(source)
    options, tensors = parameters(kind, source)
    log.info("%d tensors of %s for %s with %s", len(tensors), source, kind.network, options)
    dtype = np.float16 if half else np.float32
    _check_finite(source, tensors, dtype)
    module = registry.network(kind.network, options)
    card = {
        "network": kind.network,
        "options": options,
        "dim": embedding_length(module, kind.spec.size),
        "robust": False,
        "description": f"{kind.title}, converted",
        "source": source.name,
        "source_sha256": sha256,
        "licence": licence,
        "command": f"cloak convert {source.name} --as {layout} --name {name}{' --half' if half else ''}",
        "input": {
            "size": kind.spec.size,
            "window": list(kind.spec.window),
            "mean": list(kind.spec.mean),
            "scale": kind.spec.scale,
            "bgr": kind.spec.bgr,
            "down": kind.spec.down,
        },
    }
    return converted.write(name, card, tensors, folder=out, dtype=dtype)


def parameters(layout: Layout, source: Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The options of the network that `source` is of, and its parameters by path, float32.

    The options are the layout's and, if the network has a choice, `dim` as the source has it. Raises as `convert`.
    """
    options = dict(layout.options)
    _, shapes = _abstract(layout, options)
    if layout.weight_map is None:
        with reading.guarded(Path(source), layout.title):
            tensors, mapping = _by_order(onnx_graph.read(source), layers(registry.network(layout.network, options)))
    else:
        tensors, mapping = layout.read(source), weight_map(layout.weight_map)
    mapping = resolve(mapping, shapes)
    last = next((tensors[name] for name, path in mapping.items() if path == OUTPUT and name in tensors), None)
    if last is not None and last.ndim == 1 and last.shape != shapes[OUTPUT].shape:
        options["dim"] = len(last)
        _, shapes = _abstract(layout, options)
    with reading.guarded(Path(source), layout.title):
        fitted = {
            name: _fitted(value, tuple(shapes[mapping[name]].shape)) if mapping.get(name) in shapes else value
            for name, value in tensors.items()
        }
    filled = fill(shapes, fitted, mapping)
    return options, {path: np.ascontiguousarray(value, np.float32) for path, value in filled.items()}


def embedding_length(build: Any, size: int) -> int:
    """Length of the embedding that a network makes of a crop of `size` pixels; nothing is computed."""
    crop = jax.ShapeDtypeStruct((size, size, 3), np.float32)
    (length,) = nnx.eval_shape(lambda x: build(rngs=None)(x), crop).shape
    return length


def _abstract(layout: Layout, options: Mapping[str, Any]) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    graphdef, shapes = registry.abstract(registry.network(layout.network, options))
    return graphdef, checkpoint.flatten(shapes)


def _fitted(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A dense layer's (c * h * w, o) as the convolution (h, w, c, o) that is wanted. Else as `modules.fit` has it."""
    if value.ndim == 2 and len(shape) == 4 and shape[0] * shape[1] > 1 and len(value) == np.prod(shape[:3]):
        return folding.dense_from_chw(value.T, height=shape[0], width=shape[1])
    return modules.fit(value, shape)


def _by_order(
    weights: list[onnx_graph.Weights], order: list[tuple[str, list[str]]]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and weight map of a graph without names: the n-th convolution of the file is the n-th of the network's.

    Our networks define their layers in the order in which they run, so that the order of definition is the map.
    """
    tensors: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for layer in weights:
        number = counts[layer.kind] = counts.get(layer.kind, 0) + 1
        tensors |= {f"{layer.kind} {number}/{part}": value for part, value in layer.arrays.items()}
    mapping: dict[str, str] = {}
    counts = {}
    for path, parts in order:
        kind = next(part for part in ("kernel", "slope", "scale") if part in parts)
        number = counts[kind] = counts.get(kind, 0) + 1
        mapping |= {f"{kind} {number}/{part}": f"{path}/{part}" for part in parts}
    return tensors, mapping


def _check_finite(source: Path, tensors: Mapping[str, np.ndarray], dtype: type[np.floating]) -> None:
    with np.errstate(over="ignore"):
        bad = [name for name, value in tensors.items() if not np.isfinite(value.astype(dtype, copy=False)).all()]
    if bad:
        advice = ": convert it without --half" if dtype == np.float16 else ": get it again from where it came"
        raise ValueError(
            f"{source} has weights that are not finite as {np.dtype(dtype)}, in {len(bad)} tensors, the first of them "
            f"{bad[0]}{advice}"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with reading.source(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
