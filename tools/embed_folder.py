"""Embeddings of the photos of a folder laid out as identity/photo, each computed once: for the tools and benchmarks.

The face of a photo is the one nearest to its centre (in LFW the person the folder is named after). With a cache, an
.npz of float32 rows by extractor, a photo is never embedded twice by the same weights.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint, extractors, photo
from engine.detect import YuNet
from engine.extractors import Extractor
from engine.faces import central, cut
from engine.types import PhotoError

BATCH = 16
SAVED_EVERY = 512


def central_canvas(path: Path, detector: YuNet) -> np.ndarray | None:
    """The canvas of the face nearest to the centre of a photo; None where there is no face, or no photo."""
    try:
        pixels = photo.read(path).pixels
    except PhotoError:
        return None
    boxed = detector.detect(pixels)
    return cut(pixels, boxed[central([face.box for face in boxed], pixels.shape[:2])]).canvas if boxed else None


def embed_photos(paths: Sequence[Path], *, names: Sequence[str], cache: Path | None = None) -> dict[str, np.ndarray]:
    """For each extractor the embeddings (n, d) of the photos, in order; a row of NaN where a photo shows no face."""
    networks = {name: extractors.load(name) for name in names}
    slots = {name: f"{name}:{network.weights_sha256}" for name, network in networks.items()}
    known = _read(cache)
    keys = ["/".join(path.parts[-3:]) for path in paths]
    todo = [
        (key, path) for key, path in zip(keys, paths, strict=True) if any((slots[n], key) not in known for n in names)
    ]
    detector = YuNet(checkpoint.detector())
    for done, batch in enumerate(_batches(todo, BATCH), start=1):
        canvases = [central_canvas(path, detector) for _, path in batch]
        for name, network in networks.items():
            rows = _embed(network, canvases)
            known.update({(slots[name], key): row for (key, _), row in zip(batch, rows, strict=True)})
        if done * BATCH % SAVED_EVERY == 0:
            print(f"{done * BATCH} of {len(todo)} photos embedded", file=sys.stderr, flush=True)
            _write(cache, known)
    if todo:
        _write(cache, known)
    return {name: np.stack([known[slots[name], key] for key in keys]) for name in names}


def _embed(network: Extractor, canvases: Sequence[np.ndarray | None]) -> np.ndarray:
    there = {slot: canvas for slot, canvas in enumerate(canvases) if canvas is not None}
    rows = np.full((len(canvases), network.dim), np.nan, np.float32)
    rows[list(there)] = extractors.embed_all(network, list(there.values()), batch=BATCH)
    return rows


def _batches(items: Sequence[tuple[str, Path]], size: int) -> Iterator[Sequence[tuple[str, Path]]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _read(cache: Path | None) -> dict[tuple[str, str], np.ndarray]:
    if cache is None or not cache.exists():
        return {}
    with np.load(cache) as file:
        slots = [name.removesuffix("|keys") for name in file.files if name.endswith("|keys")]
        pairs = {slot: (file[f"{slot}|keys"].tolist(), file[slot]) for slot in slots}
    return {(slot, key): row for slot, (keys, rows) in pairs.items() for key, row in zip(keys, rows, strict=True)}


def _write(cache: Path | None, known: dict[tuple[str, str], np.ndarray]) -> None:
    if cache is None:
        return
    arrays: dict[str, Any] = {}
    for slot in sorted({slot for slot, _ in known}):
        mine = {key: row for (slot_of_row, key), row in known.items() if slot_of_row == slot}
        arrays[slot], arrays[f"{slot}|keys"] = np.stack(list(mine.values())), np.array(list(mine))
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as file:
        np.savez(file, **arrays)
    os.replace(file.name, cache)
