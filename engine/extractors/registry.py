"""Which extractors there are. checkpoints/manifest.toml names the built-in ones, `register` adds another.

A built-in extractor is a table `[extractors.<name>]` there and a module of this package, named by its `network`
key, with a function `build(*, rngs) -> nnx.Module` from one crop (s, s, 3) to one embedding (d,). `rngs=None` asks
for a network that is about to be filled: any values will do.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx

from engine import checkpoint
from engine.config import Precision
from engine.extractors.extractor import Extractor
from engine.extractors.spec import InputSpec


@dataclass(frozen=True)
class Entry:
    """How to make one extractor.

    build: the network, called as build(rngs=nnx.Rngs(seed)) for random weights and build(rngs=None) to be filled.
    path: its Orbax checkpoint. sha256: `checkpoint.content_sha256` of it, or None to take whatever is there.
    """

    build: Callable[..., nnx.Module]
    spec: InputSpec
    dim: int
    path: Path
    sha256: str | None = None


_registered: dict[str, Entry] = {}


def register(name: str, entry: Entry) -> None:
    """Adds an extractor under `name`. Raises ValueError where the name is taken."""
    if name in available():
        raise ValueError(f"an extractor named {name!r} is registered already; choose another name")
    _registered[name] = entry


def available() -> tuple[str, ...]:
    """The names `load` knows, sorted."""
    return tuple(sorted({*_registered, *checkpoint.manifest().get("extractors", {})}))


def find(name: str) -> Entry:
    """The entry of `name`. Raises ValueError naming the known extractors where there is none."""
    if name in _registered:
        return _registered[name]
    table = checkpoint.manifest().get("extractors", {}).get(name)
    if table is None:
        raise ValueError(f"no extractor named {name!r}; there are {', '.join(available())}")
    module = importlib.import_module(f"engine.extractors.{table['network']}")
    given = table["input"]
    spec = InputSpec(
        size=given["size"],
        window=(given["window"][0], given["window"][1]),
        mean=tuple(given["mean"]),
        scale=given["scale"],
        bgr=given["bgr"],
    )
    return Entry(module.build, spec, table["dim"], checkpoint.root() / table["path"], table["sha256"])


def abstract(build: Callable[..., nnx.Module]) -> tuple[nnx.GraphDef, dict]:
    """A network without weights: its definition and its parameters as a nested dict of shapes."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(rngs=None)))
    return graphdef, nnx.to_pure_dict(state)


def load(name: str, *, precision: Precision = "float32") -> Extractor:
    """The extractor `name` with its weights, to be run at `precision`.

    Raises ValueError for an unknown name and `checkpoint.CheckpointError` for weights that do not fit the
    network or whose hash is not the manifest's.

    >>> extractor = load("web-incept")
    """
    entry = find(name)
    graphdef, shapes = abstract(entry.build)
    params, sha256 = checkpoint.restore(entry.path, shapes, sha256=entry.sha256)
    return Extractor(
        params=jax.device_put(params),
        name=name,
        spec=entry.spec,
        graphdef=graphdef,
        dim=entry.dim,
        weights_sha256=sha256,
        precision=precision,
    )
