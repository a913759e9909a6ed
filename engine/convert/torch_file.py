"""PyTorch checkpoints (.pt, .pth, .bin), read as data: nothing in the file is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.convert import reading
from engine.convert.extra import need
from engine.convert.source_file import SourceFile

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every floating-point tensor of a state dict, as float32, by name.

    The dict may lie inside another one (as "state_dict", "model_state_dict" or "model"), and its names may begin with
    the "module." of DataParallel. Kernels of convolutions are (o, i / groups, kh, kw), matrices (o, i). Needs torch
    (ImportError otherwise). Raises SourceError (a ValueError) for what is no checkpoint, or holds more than tensors and
    plain values. Such a file could run code when it is loaded, so it is not loaded.
    """
    kind = "a PyTorch state dict that can be read without running code"
    return reading.read(path, module=__name__, kind=kind, needs=("torch", "torch"))


def parse(file: SourceFile) -> dict[str, np.ndarray]:
    """The reader itself, for `engine.convert.reading`."""
    torch = need("torch", package="torch")
    if zipfile.is_zipfile(file.stream):
        _check_archive(file)
    file.stream.seek(0)
    loaded = torch.load(file.stream, map_location="cpu", weights_only=True)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    tensors = {name: value for name, value in _entries(loaded) if torch.is_tensor(value) and value.is_floating_point()}
    if not tensors:
        raise ValueError("there are no tensors in it")
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    for name, value in tensors.items():
        file.claim(value.shape, 4, f"tensor {name}")  # a view may repeat a small storage without end
    return {name.removeprefix(prefix): value.detach().float().numpy() for name, value in tensors.items()}


def _check_archive(file: SourceFile) -> None:
    """Refuses what torch.save does not write: packed entries, two of one name, more bytes than the file has."""
    with zipfile.ZipFile(file.stream) as archive:
        entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if len(names) < len(entries):
        raise ValueError("its archive has two entries of one name")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its archive has compressed entries")
    if sum(entry.file_size for entry in entries) > file.total:
        raise ValueError("its archive describes more bytes than it has")


def _entries(loaded: Any) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in loaded.items()] if isinstance(loaded, Mapping) else []
