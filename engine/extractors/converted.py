"""Extractors that a user has converted: a folder each, with a card (TOML) and an Orbax checkpoint, in one home.

The home is `<FAWKES_ENGINE_HOME>` or the platform's folder for a user's data. An extractor lies in
`<home>/extractors/<name>`, and its card has the fields of a table of checkpoints/manifest.toml.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from engine import checkpoint
from engine.files import opened

CARD, WEIGHTS = "card.toml", "weights"
LARGEST = 2**20
"""Bytes of a card: one that a person wrote has some thousand."""
MOST = 2**16
"""Largest side of an input or length of an embedding that a card may give."""
OPTIONAL = ("options", "training", "trained_from", "cosine")
FIELDS: dict[str, Any] = {
    "network": str,
    "options": dict,
    "path": str,
    "sha256": str,
    "dim": int,
    "robust": bool,
    "description": str,
    "licence": str,
    "source": str,
    "trained_from": (str, None),
    "training": {
        **dict.fromkeys(("step", "steps", "people", "epsilon", "attack_steps", "cosine"), float),
        "norm": str,
    },
    "input": {"size": int, "window": (float, 2), "mean": (float, 3), "scale": float, "bgr": bool},
}
"""Keys that the engine reads of a card, and their kinds: (kind, count) is a list."""
WORDS = {
    str: "text",
    dict: "a table",
    int: f"a whole number from 1 to {MOST}",
    float: "a finite number",
    bool: "true or false",
    (str, None): "a list of texts",
    (float, 2): "a list of 2 finite numbers",
    (float, 3): "a list of 3 finite numbers",
}


def home() -> Path:
    """FAWKES_ENGINE_HOME, or `fawkes-engine` in the platform's folder for a user's data."""
    if place := os.environ.get("FAWKES_ENGINE_HOME"):
        return Path(place)
    return platformdirs.user_data_path("fawkes-engine", appauthor=False)


def cards(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The card of every converted extractor by name, its `path` absolute. `folder` stands in for the home.

    Raises `checkpoint.CheckpointError` if any card is damaged.
    """
    usable, damaged = read(folder)
    for sentence in damaged.values():
        raise checkpoint.CheckpointError(sentence)
    return usable


def read(folder: Path | None = None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The cards that can be used, as `cards` has them, and of each damaged one, by name, a sentence that says so."""
    usable, damaged = {}, {}
    for path in sorted(((folder or home()) / "extractors").glob(f"[a-z0-9]*/{CARD}")):
        try:
            with opened(path) as file:
                data = file.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise ValueError(f"it is larger than {LARGEST} bytes")
            card = tomllib.loads(data.decode())
            _check(card, FIELDS, "")
            known = {name: value for name, value in card.items() if name != "metric"}  # nobody here has measured it
            usable[path.parent.name] = known | {"path": str(path.parent / card["path"])}
        except (OSError, ValueError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            damaged[path.parent.name] = f"{path} is damaged ({said}); convert the extractor again or delete its folder"
    return usable, damaged


def _check(table: Mapping[str, Any], fields: Mapping[str, Any], inside: str) -> None:
    """Raises ValueError for a field that is missing or of another kind; those of `OPTIONAL` may be missing."""
    for name, kind in fields.items():
        value = table.get(name)
        if value is None:
            if name in OPTIONAL:
                continue
            raise ValueError(f"{inside}{name} is missing")
        if isinstance(kind, dict):
            if not isinstance(value, Mapping):
                raise ValueError(f"{inside}{name} must be a table; got {value!r:.80}")
            _check(value, kind, f"{name}.")
        elif not _is(value, kind):
            raise ValueError(f"{inside}{name} must be {WORDS[kind]}; got {value!r:.80}")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        item_kind, count = kind
        return isinstance(value, list) and count in (None, len(value)) and all(_is(part, item_kind) for part in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST
    if kind is dict:
        return isinstance(value, dict)
    return isinstance(value, kind)


def write(
    name: str,
    card: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    folder: Path | None,
    dtype: Any,
) -> Path:
    """Writes an extractor, or replaces it, and returns its folder, which appears only when it is complete.

    `folder` stands in for the home. `card` lacks the `path` and `sha256` that are added here. dtype: on disk.
    """
    extractors = (folder or home()) / "extractors"
    extractors.mkdir(parents=True, exist_ok=True)
    target = extractors / name
    with tempfile.TemporaryDirectory(dir=extractors, prefix=".converting-") as temporary:
        made = Path(temporary) / name
        made.mkdir()
        sha256 = checkpoint.save(made / WEIGHTS, dict(tensors), dtype=dtype)
        (made / CARD).write_text(_toml({**card, "path": WEIGHTS, "sha256": sha256}), encoding="utf-8")
        if target.exists():
            os.rename(target, Path(temporary) / "replaced")
        os.rename(made, target)
    return target


def _toml(table: Mapping[str, Any]) -> str:
    """A table of plain values, lists of them, and tables of these."""
    lines = [f"{key} = {plain(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += [f"[{key}]", *(f"{inner} = {plain(entry)}" for inner, entry in value.items())]
    return "\n".join(lines) + "\n"


def plain(value: Any) -> str:
    """One plain value or list of them as TOML."""
    # What JSON writes of these types is TOML too, but for the one character that only TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
