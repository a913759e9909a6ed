"""PyTorch checkpoints (.pt, .pth, .bin), read as data: nothing in the file is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.convert.extra import need

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Every floating-point tensor of a state dict, as float32, by name.

    The dict may lie inside another one (as "state_dict", "model_state_dict" or "model"), and its names may begin with
    the "module." of DataParallel. Kernels of convolutions are (o, i / groups, kh, kw), matrices (o, i). Needs torch
    (ImportError otherwise); raises ValueError for what is no checkpoint, or holds more than tensors and plain values:
    such a file could run code when it is loaded, so it is not.
    """
    torch = need("torch", package="torch")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a PyTorch state dict that can be read without running code "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    tensors = {name: value for name, value in _entries(loaded) if torch.is_tensor(value) and value.is_floating_point()}
    if not tensors:
        raise ValueError(f"{path} has no tensors in it; expected a PyTorch state dict")
    prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): value.float().numpy() for name, value in tensors.items()}


def _entries(loaded: Any) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in loaded.items()] if isinstance(loaded, Mapping) else []
