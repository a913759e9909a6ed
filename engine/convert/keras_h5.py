"""Keras models and weights in HDF5 (.h5, .hdf5), read with h5py: layers are never built from the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from engine.convert import reading
from engine.convert.extra import need
from engine.convert.source_file import SourceError, SourceFile


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every weight of a model saved by Keras 2 (or by Keras 3 as .h5), as float32, by its variable's name.

    A whole model and weights alone both do; the names are "layer/kernel", "layer/moving_mean", ... without Keras's
    ":0". Kernels of convolutions are (kh, kw, i, o), of depthwise ones (kh, kw, c, 1), matrices (i, o). Needs h5py
    (ImportError otherwise). Raises SourceError (a ValueError) for a file that is not one of Keras's. Raises it too for
    one that refers to others (external links and storage, virtual datasets).
    """
    return reading.read(path, module=__name__, kind="a Keras HDF5 file", needs=("h5py", "h5py"))


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`."""
    h5py = need("h5py", package="h5py")
    tensors: dict[str, np.ndarray] = {}
    with h5py.File(file.stream, "r") as model:
        root = _member(h5py, file, model, "model_weights") if model.id.links.exists(b"model_weights") else model
        if "layer_names" not in root.attrs and "layer_names0" not in root.attrs:
            raise ValueError("it is an HDF5 file, but not one of Keras's: it has no layer_names")
        for layer in _texts(root, "layer_names"):
            group = _member(h5py, file, root, layer)
            for weight in _texts(group, "weight_names"):
                name = re.sub(r":\d+$", "", weight)
                if name in tensors:
                    raise ValueError(f"two weights are named {name}")
                tensors[name] = _values(h5py, file, _member(h5py, file, group, weight), name)
    if not tensors:
        raise ValueError("there are no weights in it")
    return tensors


def _member(h5py: Any, file: SourceFile, group: Any, name: str) -> Any:
    """Member of a group under a path, reached by hard links alone: others lead to other files."""
    for part in filter(None, name.split("/")):
        # Group.get follows a link before it says what kind it is.
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise SourceError(
                f"{file.path} has a link at {name!r}, which may lead anywhere: save the model as one file"
            )
        group = group[part]
    return group


def _values(h5py: Any, file: SourceFile, data: Any, name: str) -> np.ndarray:
    """A dataset that is whole in the file, as float32."""
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiub":
        raise ValueError(f"weight {name} is no array of numbers")
    if data.external or data.is_virtual:
        raise SourceError(f"{file.path} keeps weight {name!r} in another file: save the model as one file")
    # A dataset has the size that it declares, whether anything is stored; a chunk may be larger than its dataset.
    file.claim(data.shape, data.dtype.itemsize + 4, f"weight {name}")
    file.claim(data.chunks or (), data.dtype.itemsize, f"a chunk of weight {name}")
    return np.asarray(data[()], np.float32)


def _texts(group: Any, attribute: str) -> list[str]:
    """An attribute that lists names; Keras spreads a long one over attribute0, attribute1, ..."""
    if attribute in group.attrs:
        chunks = [group.attrs[attribute]]
    else:
        chunks = []
        while f"{attribute}{len(chunks)}" in group.attrs:
            chunks.append(group.attrs[f"{attribute}{len(chunks)}"])
    return [text.decode() if isinstance(text, bytes) else str(text) for chunk in chunks for text in chunk]
