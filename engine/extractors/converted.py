"""Extractors that a user has converted: a folder each, with a card (TOML) and an Orbax checkpoint, in one home.

The home is `<FAWKES_ENGINE_HOME>` or the platform's folder for a user's data; an extractor lies in
`<home>/extractors/<name>`, its card has the fields of a table of checkpoints/manifest.toml.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine import checkpoint

CARD, WEIGHTS = "card.toml", "weights"


def home() -> Path:
    """FAWKES_ENGINE_HOME, or `fawkes-engine` in the platform's folder for a user's data."""
    if given := os.environ.get("FAWKES_ENGINE_HOME"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "fawkes-engine"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fawkes-engine"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "fawkes-engine"


def cards(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The card of every converted extractor by name, its `path` absolute. `folder` stands in for the home.

    Raises `checkpoint.CheckpointError` for a card that is not TOML.
    """
    found = {}
    for path in sorted(((folder or home()) / "extractors").glob(f"[a-z0-9]*/{CARD}")):
        try:
            card = tomllib.loads(path.read_text(encoding="utf-8"))
            found[path.parent.name] = card | {"path": str(path.parent / card["path"])}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
            raise checkpoint.CheckpointError(f"{path} is damaged ({error}); convert the extractor again") from error
    return found


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
            lines += [f"[{key}]", *(f"{inner} = {plain(one)}" for inner, one in value.items())]
    return "\n".join(lines) + "\n"


def plain(value: Any) -> str:
    """One plain value or list of them as TOML."""
    # What JSON writes of these types is TOML too, but for the one character that only TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
