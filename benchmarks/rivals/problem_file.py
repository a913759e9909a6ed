"""The files between our engine and its rivals: the problem they are given, the result they give back.

NumPy alone, since each rival reads it in an environment of its own; `problem.py` makes the problem, in ours. Both files
are .npz without pickles. A problem holds everything that a rival needs to solve exactly what our solver solves: the
networks' weights and input scaling, the crop, the faces, the mask, DSSIM's windows, the budget and the first iterate.

    faces/canvas (n, c, c, 3) in [0, 1]    faces/mask (n, c, c, 1)    faces/windows (n, c-10, c-10), each sum 1
    faces/grey (n,)    faces/start (n, c, c, 3)    faces/goals (n,), 0 for none    rho ()    extractors (k,) names
    extractors/NAME/{network, size, window, mean, scale, bgr, share}    extractors/NAME/rows, absent for an exact copy
    extractors/NAME/weights/PATH    reference/..., only where it was asked for
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Network(NamedTuple):
    """One extractor without a framework.

    network: the module of engine.extractors that defines it. size: side of its input. window: (lo, hi) of its crop on
    both axes of the canvas. rows: (size, c), the crop is rows @ canvas @ rows^T for each channel; None where that is
    the window itself. Pixels in [0, 1] become (x * 255 - mean) / scale, channels reversed first where `bgr`. share: of
    its distance in the objective; all shares sum to 1. weights: by path, float32, as engine.checkpoint.flatten has it.
    """

    name: str
    network: str
    size: int
    window: tuple[float, float]
    rows: np.ndarray | None
    mean: tuple[float, float, float]
    scale: float
    bgr: bool
    share: float
    weights: dict[str, np.ndarray]


class Problem(NamedTuple):
    """The faces to cloak and the networks to cloak them for; shapes as in the module's docstring.

    start: the first iterate of the paper's solver, in tanh space, noise included. goals: the objective (the weighted
    mean shift) that a face is to reach within the budget, 0 for none. reference: our engine's own figures, for `check`.
    """

    networks: tuple[Network, ...]
    canvas: np.ndarray
    mask: np.ndarray
    windows: np.ndarray
    grey: np.ndarray
    start: np.ndarray
    goals: np.ndarray
    rho: float
    reference: dict[str, np.ndarray]

    def faces(self, chosen: Any) -> Problem:
        """The problem of some of its faces (a slice or indices), without the reference."""
        per_face = ("canvas", "mask", "windows", "grey", "start", "goals")
        return self._replace(reference={}, **{name: getattr(self, name)[chosen] for name in per_face})

    def network(self, name: str | None) -> Network:
        """The network of that name, the first one for None. Raises ValueError where there is none."""
        for network in self.networks:
            if name in (None, network.name):
                return network
        raise ValueError(f"no extractor {name!r} in the problem; it has {', '.join(n.name for n in self.networks)}")


class Weights:
    """The weights of one network, each to be taken once: what is missing or left over is an error."""

    def __init__(self, network: Network):
        self._name = network.name
        self._left = dict(network.weights)

    def take(self, path: str) -> np.ndarray:
        """The array at `path`. Raises ValueError where it is missing or taken already."""
        if path not in self._left:
            raise ValueError(f"the problem has no weights {path!r} (left) for {self._name}")
        return self._left.pop(path)

    def __contains__(self, path: str) -> bool:
        return path in self._left

    def finish(self) -> None:
        """Raises ValueError if anything was not taken."""
        if self._left:
            raise ValueError(f"weights of {self._name} that its network does not have: {', '.join(sorted(self._left))}")


def crops(network: Network, canvas: np.ndarray) -> np.ndarray:
    """What the network sees of canvases (n, c, c, 3), before scaling: (n, size, size, 3)."""
    if network.rows is None:
        low, high = (int(edge) for edge in network.window)
        return canvas[:, low:high, low:high]
    return np.einsum("oy,nyxc,px->nopc", network.rows, canvas, network.rows, optimize=True)


def inputs(network: Network, canvas: np.ndarray) -> np.ndarray:
    """The network's scaled input, (n, size, size, 3), contiguous float32."""
    seen = crops(network, canvas)[..., :: -1 if network.bgr else 1]
    return np.ascontiguousarray((seen * 255 - np.array(network.mean)) / network.scale, np.float32)


def write(path: Path | str, problem: Problem) -> None:
    """Writes a problem file."""
    arrays: dict[str, Any] = {"extractors": [network.name for network in problem.networks], "rho": problem.rho}
    for network in problem.networks:
        fields = network._asdict()
        weights, rows = fields.pop("weights"), fields.pop("rows")
        arrays |= {f"extractors/{network.name}/{key}": value for key, value in fields.items() if key != "name"}
        arrays |= {f"extractors/{network.name}/weights/{key}": value for key, value in weights.items()}
        if rows is not None:
            arrays[f"extractors/{network.name}/rows"] = rows
    for key in ("canvas", "mask", "windows", "grey", "start", "goals"):
        arrays[f"faces/{key}"] = getattr(problem, key)
    arrays |= {f"reference/{key}": value for key, value in problem.reference.items()}
    _save(path, arrays)


def read(path: Path | str) -> Problem:
    """Reads a problem file. Raises KeyError for a file that is none, ValueError for one with a pickle in it."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}

    networks = []
    for name in arrays["extractors"].tolist():
        fields = below(f"extractors/{name}/")
        networks.append(
            Network(
                name=name,
                network=fields["network"].item(),
                size=fields["size"].item(),
                window=tuple(fields["window"].tolist()),
                rows=fields.get("rows"),
                mean=tuple(fields["mean"].tolist()),
                scale=fields["scale"].item(),
                bgr=fields["bgr"].item(),
                share=fields["share"].item(),
                weights=below(f"extractors/{name}/weights/"),
            )
        )
    return Problem(tuple(networks), rho=arrays["rho"].item(), reference=below("reference/"), **below("faces/"))


def write_result(path: Path | str, summary: dict[str, Any], **arrays: np.ndarray) -> None:
    """Writes a result file: arrays by name, and the summary as JSON under "summary"."""
    _save(path, {"summary": json.dumps(summary), **arrays})


def read_result(path: Path | str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The summary and the arrays of a result file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(arrays.pop("summary").item()), arrays


def _save(path: Path | str, arrays: dict[str, Any]) -> None:
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    if pickled := [key for key, value in arrays.items() if value.dtype.hasobject]:
        raise ValueError(f"arrays that only a pickle can hold: {', '.join(pickled)}")
    with open(path, "wb") as file:  # given a name, NumPy would append .npz
        np.savez(file, **arrays)
