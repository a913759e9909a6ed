"""Keras models and weights in HDF5 (.h5, .hdf5), read with h5py: layers are never built from the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from engine.convert.extra import need


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every weight of a model saved by Keras 2 (or by Keras 3 as .h5), as float32, by its variable's name.

    A whole model and weights alone both do; the names are "layer/kernel", "layer/moving_mean", ... without Keras's
    ":0". Kernels of convolutions are (kh, kw, i, o), of depthwise ones (kh, kw, c, 1), matrices (i, o). Needs h5py
    (ImportError otherwise); raises ValueError for a file that is not one of Keras's.
    """
    h5py = need("h5py", package="h5py")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file ({error})") from error
    tensors: dict[str, np.ndarray] = {}
    with file:
        root = file.get("model_weights", file)
        if "layer_names" not in root.attrs and "layer_names0" not in root.attrs:
            raise ValueError(f"{path} is an HDF5 file, but not one of Keras's: it has no layer_names")
        for layer in _texts(root, "layer_names"):
            for weight in _texts(root[layer], "weight_names"):
                name = re.sub(r":\d+$", "", weight)
                if name in tensors:
                    raise ValueError(f"{path} has two weights named {name}")
                tensors[name] = np.asarray(root[layer][weight], np.float32)
    if not tensors:
        raise ValueError(f"{path} has no weights in it")
    return tensors


def _texts(group, attribute: str) -> list[str]:
    """An attribute that lists names; Keras spreads a long one over attribute0, attribute1, ..."""
    if attribute in group.attrs:
        chunks = [group.attrs[attribute]]
    else:
        chunks = []
        while f"{attribute}{len(chunks)}" in group.attrs:
            chunks.append(group.attrs[f"{attribute}{len(chunks)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for chunk in chunks for text in chunk]
