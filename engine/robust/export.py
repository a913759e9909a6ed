"""A trained network as an extractor: its weights in float16 and a card, in a folder that the registry can look in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from engine import checkpoint
from engine.extractors import Extractor, converted, registry

COPIED = ("network", "options", "dim", "licence", "licence_note", "input")
"""Keys that a robust extractor's card has from the one it was trained from."""


def check(extractor: str, name: str, *, folder: Path) -> None:
    """Raises ValueError if `extractor` cannot be exported as `name` under `folder`."""
    if extractor not in registry.tables():
        raise ValueError(
            f"{extractor!r} has no card: only extractors of the engine and those of `cloak convert` can be trained; "
            f"there are {', '.join(registry.tables())}"
        )
    registry.check_name(name, folder=folder, replace=True)


def export(
    extractor: Extractor, name: str, *, folder: Path, command: str, training: Mapping[str, Any], description: str
) -> Path:
    """Write `extractor` as `name` under `folder`, a FAWKES_ENGINE_HOME, or replace it; returns its folder.

    extractor: the trained one, still under the name of the one that it was trained from. training: what the card says
    of the training, in plain values. Raises ValueError as `check`, and for weights that float16 cannot hold.
    """
    check(extractor.name, name, folder=folder)
    weights = {path: np.asarray(leaf) for path, leaf in checkpoint.flatten(extractor.params).items()}
    largest = max(float(np.abs(leaf).max(initial=0)) for leaf in weights.values())
    if not largest <= float(jnp.finfo(jnp.float16).max):
        raise ValueError(f"the weights of {name} cannot be kept in float16: the largest is {largest:g}")
    table = registry.tables()[extractor.name]
    card = {
        **{key: table[key] for key in COPIED if key in table},
        "robust": True,
        "description": description,
        "source": f"extractor {extractor.name}",
        "trained_from": [extractor.name],
        "source_sha256": extractor.weights_sha256,
        "command": command,
        "training": dict(training),
    }
    return converted.write(name, card, weights, folder=folder, dtype=np.float16)
