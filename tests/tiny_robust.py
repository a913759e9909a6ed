"""A tiny extractor with a card and synthetic faces of synthetic people, and the command `cloak` that knows them.

As a program: HOME ARGUMENTS... [--then ARGUMENTS...], with the extractor "small" in the FAWKES_ENGINE_HOME HOME.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import nnx

from engine import checkpoint, cli
from engine.config import CANVAS
from engine.extractors import converted
from engine.extractors.layers import Conv

NAME = "small"
SIZE = 32
DIM = 16


class Network(nnx.Module):
    """Three convolutions: (32, 32, 3) to (16,)."""

    def __init__(self, *, rngs: nnx.Rngs | None) -> None:
        self.stem = Conv(3, 8, (4, 4), stride=4, rngs=rngs)
        self.body = Conv(8, 16, (4, 4), stride=2, rngs=rngs)
        self.bottleneck = Conv(16, DIM, (4, 4), padding="VALID", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bottleneck(jnp.tanh(self.body(jnp.tanh(self.stem(x)))))[0, 0]


def build(*, rngs: nnx.Rngs | None) -> Network:
    return Network(rngs=rngs)


def provide(home: Path) -> None:
    """Make the module that the card names, and the extractor itself under `home` unless it is there."""
    module = types.ModuleType("engine.extractors.small_network")
    module.build = build  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    os.environ["FAWKES_ENGINE_HOME"] = str(home)
    if NAME not in converted.cards():
        _, state = nnx.split(Network(rngs=nnx.Rngs(7)))
        card = {
            "network": "small_network",
            "options": {},
            "dim": DIM,
            "robust": False,
            "description": "three random convolutions",
            "source": "a test",
            "licence": "none",
            "input": {"size": SIZE, "window": [32.0, 144.0], "mean": [127.5] * 3, "scale": 64.0, "bgr": False},
        }
        tensors = {name: np.asarray(leaf) for name, leaf in checkpoint.flatten(nnx.to_pure_dict(state)).items()}
        converted.write(NAME, card, tensors, folder=None, dtype=np.float32)


def face(person: int, photo: int) -> np.ndarray:
    """A canvas (c, c, 3) uint8: a texture for each person, another light and a little noise for each photo."""
    draw = np.random.default_rng([person, photo])
    texture = tiny.texture(1000 + person, CANVAS, CANVAS, sigma=12.0, contrast=0.2)
    light = draw.uniform(-0.05, 0.05, 3) + 0.02 * draw.standard_normal((CANVAS, CANVAS, 3))
    return np.rint((texture + light).clip(0, 1) * 255).astype(np.uint8)


def people(
    root: Path, cache: Path, *, count: int = 14, photos: int = 3, first: int = 0, backwards: bool = False
) -> None:
    """root/person-N/M.jpg, whose bytes mean nothing, and in `cache` a store that has their faces aligned already.

    first: who person 0 is; other numbers are other people. backwards: the store has the last photo in its first row.
    """
    cache.mkdir(parents=True)
    shots = [(person, photo) for person in range(count) for photo in range(photos)]
    lines, canvases = [], []
    for person, photo in reversed(shots) if backwards else shots:
        path = root / f"person-{person:02d}" / f"{photo}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content := f"{first + person} {photo}".encode())
        lines.append(json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "row": len(lines)}) + "\n")
        canvases.append(face(first + person, photo).tobytes())
    (cache / "canvases.u8").write_bytes(b"".join(canvases))
    (cache / "index.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    if devices := os.environ.get("TINY_DEVICES"):
        jax.config.update("jax_num_cpu_devices", int(devices))
    provide(Path(sys.argv[1]))
    for call in "\n".join(sys.argv[2:]).split("\n--then\n"):
        if code := cli.main(call.split("\n")):
            sys.exit(code)
