"""All extractors: those that come with the engine, those a user has converted, and those of other packages.

checkpoints/manifest.toml names the first, the cards of `engine.extractors.converted` the second. Each has a table,
whose `network` key names a module of this package. The module has a function `build(*, rngs, **options) -> nnx.Module`.
What it builds maps one crop (s, s, 3) to one embedding (d,). `rngs=None` asks for a network that is about to be filled:
any values will do.

A package brings an extractor of its own by an entry point of the group `fawkes_engine.extractors`. The entry point's
name is the extractor's. Its value is an `Entry`, or a function without arguments that returns one. `register` does the
same for one process.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from engine import checkpoint, sharding
from engine.config import Precision
from engine.extractors import converted
from engine.extractors.extractor import Extractor
from engine.extractors.spec import InputSpec

log = logging.getLogger(__name__)


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


GROUP = "fawkes_engine.extractors"
"""Group of the entry points by which other packages bring extractors."""

_registered: dict[str, Entry] = {}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def register(name: str, entry: Entry) -> None:
    """Adds an extractor under `name`. Raises ValueError if the name is taken."""
    if name in available():
        raise ValueError(f"an extractor named {name!r} is registered already; choose another name")
    _registered[name] = entry


def check_name(name: str, *, folder: Path | None, replace: bool) -> None:
    """Raises ValueError for a name that an extractor about to be written to `folder` cannot have or that is taken.

    folder: stands in for `converted.home()`. replace: an extractor of that name that is in it may be replaced.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a name has up to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit; got {name!r}"
        )
    if name in set(available()) - set(converted.read()[0]):
        raise ValueError(f"{name!r} is the name of an extractor that comes with a package; choose another")
    if any(name in cards for cards in converted.read(folder)) and not replace:
        raise ValueError(f"there is an extractor named {name!r} already; --replace replaces it")


def available() -> tuple[str, ...]:
    """The names `load` knows, sorted; those whose card is damaged are in `damaged` instead."""
    return tuple(sorted({*_registered, *tables(), *entry_points(group=GROUP).names}))


def tables() -> dict[str, dict[str, Any]]:
    """Tables of the extractors that come with the engine and of those converted, `path` absolute.

    If both define a name, the shipped one wins. A damaged card is left out (`damaged`): it concerns nobody who does not
    ask for that extractor.
    """
    shipped = checkpoint.manifest().get("extractors", {})
    absolute = {name: table | {"path": str(checkpoint.folder(table))} for name, table in shipped.items()}
    return converted.read()[0] | absolute


def damaged() -> dict[str, str]:
    """The converted extractors whose card cannot be used, each with a sentence that says what is wrong."""
    shipped = checkpoint.manifest().get("extractors", {})
    return {name: said for name, said in converted.read()[1].items() if name not in shipped}


def missing() -> dict[str, str]:
    """The extractors that come with the engine but without their weights here, each with a sentence that says so."""
    shipped = checkpoint.manifest().get("extractors", {})
    said = {name: checkpoint.uninstalled(name, table) for name, table in sorted(shipped.items())}
    return {name: sentence for name, sentence in said.items() if sentence is not None}


def about(name: str) -> dict[str, Any]:
    """Facts about an extractor, with the keys of a table of checkpoints/manifest.toml and `megabytes` on disk.

    `installed` says whether its weights are here; `megabytes` is None if they are not. For extractors of other
    packages, `metric` and all about their source are lacking. Raises ValueError for an unknown name.
    """
    table: dict[str, Any] | None = tables().get(name)
    if table is None:
        entry = find(name)
        table = {
            "description": "an extractor of another package",
            "path": str(entry.path),
            "dim": entry.dim,
            "input": asdict(entry.spec),
            "robust": False,
            "licence": "unknown",
            "source": entry.build.__module__,
        }
    here = Path(table["path"]).is_dir()
    return {
        "name": name,
        **table,
        "installed": here,
        "megabytes": checkpoint.megabytes(table["path"]) if here else None,
    }


def lineage(names: Iterable[str]) -> frozenset[str]:
    """These extractors and all that they were trained from, as their cards tell; a name not known stands for itself."""
    known = tables()
    ancestors: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in ancestors:
            ancestors.add(name)
            waiting += known.get(name, {}).get("trained_from", [])
    return frozenset(ancestors)


def network(name: str, options: Mapping[str, Any]) -> Callable[..., nnx.Module]:
    """`build` of the module `name` of this package, with its options. Raises ValueError if there is none."""
    module = None
    if name.isidentifier():
        try:
            module = importlib.import_module(f"engine.extractors.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"engine.extractors.{name}":
                raise
    if not hasattr(module, "build"):
        raise ValueError(f"there is no network named {name!r}")
    return functools.partial(module.build, **options)


def find(name: str) -> Entry:
    """The entry of `name`, whether its weights are installed or not.

    Raises ValueError naming the known extractors if there is none, and `checkpoint.CheckpointError` if its card is
    damaged.
    """
    if name in _registered:
        return _registered[name]
    table = tables().get(name)
    if table is None:
        if name in (broken := damaged()):
            raise checkpoint.CheckpointError(broken[name])
        return _of_package(name)
    fields = table["input"]
    try:
        spec = InputSpec(
            size=fields["size"],
            window=(fields["window"][0], fields["window"][1]),
            mean=tuple(fields["mean"]),
            scale=fields["scale"],
            bgr=fields["bgr"],
            down=fields.get("down", 0.0),
        )
        build = network(table["network"], table.get("options", {}))
    except ValueError as error:
        raise checkpoint.CheckpointError(f"the card of extractor {name!r} is damaged: {error}") from error
    return Entry(build, spec, table["dim"], Path(table["path"]), table["sha256"])


def loadable(name: str) -> Entry:
    """The entry of `name`, for a caller that is about to `load` it, now or hours from now.

    Raises what `find` does, and `checkpoint.CheckpointError` if its weights are not installed.
    """
    entry = find(name)
    if name not in _registered and name in (lacking := missing()):
        raise checkpoint.CheckpointError(lacking[name])
    return entry


def _of_package(name: str) -> Entry:
    points = tuple(entry_points(group=GROUP, name=name))
    if not points:
        raise ValueError(f"no extractor named {name!r}; there are {', '.join(available())}")
    loaded = points[0].load()
    entry = loaded() if callable(loaded) else loaded
    if not isinstance(entry, Entry):
        raise ValueError(
            f"the entry point {name!r} ({points[0].value}) must be an engine.extractors.Entry or a function that "
            f"returns one; got {type(entry).__name__}"
        )
    return entry


def abstract(build: Callable[..., nnx.Module]) -> tuple[nnx.GraphDef, dict]:
    """A network without weights: its definition and its parameters as a nested dict of shapes."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(rngs=None)))
    return graphdef, nnx.to_pure_dict(state)


def described(name: str, entry: Entry) -> tuple[nnx.GraphDef, dict]:
    """`abstract` of the entry. If others wrote the entry, it is checked that what they say of it is so.

    Raises `checkpoint.CheckpointError` if it is not.
    """
    if name in checkpoint.manifest().get("extractors", {}):
        return abstract(entry.build)  # the tests see to it, and it takes as long as tracing the network
    crop = jax.ShapeDtypeStruct((entry.spec.size, entry.spec.size, 3), np.float32)
    try:
        graphdef, shapes = abstract(entry.build)
        made = jax.eval_shape(lambda params, x: nnx.merge(graphdef, params)(x), shapes, crop)
        if made.shape != (entry.dim,):
            raise ValueError(f"it makes embeddings of shape {made.shape}, not ({entry.dim},) as its card says")
    except Exception as error:  # a network of others may raise anything
        said = str(error).strip().partition("\n")[0]
        raise checkpoint.CheckpointError(
            f"the network of extractor {name!r} cannot be built as its card says ({type(error).__name__}: {said}): "
            "convert it again"
        ) from error
    return graphdef, shapes


def load(name: str, *, precision: Precision = "float32") -> Extractor:
    """The extractor `name` with its weights, to be run at `precision`.

    Raises ValueError for an unknown name, and `types.DeviceError` if JAX has no device. Raises
    `checkpoint.CheckpointError` for a damaged card, and for weights that are not installed, do not fit the network or
    are not finite. Raises it too if the hash of the weights is not the manifest's.

    >>> extractor = load("web-incept")
    """
    entry = loadable(name)
    sharding.devices_here()  # says so if there are none
    graphdef, shapes = described(name, entry)
    params, sha256 = checkpoint.restore(entry.path, shapes, sha256=entry.sha256)
    log.info("weights of %s (SHA-256 %s) from %s, %s", name, sha256[:12], entry.path, precision)
    return Extractor(
        params=jax.device_put(params),
        name=name,
        spec=entry.spec,
        graphdef=graphdef,
        dim=entry.dim,
        weights_sha256=sha256,
        precision=precision,
    )
