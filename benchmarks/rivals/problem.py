"""Makes the problem file of the rivals from our extractors and from faces: in the project's own environment.

    python benchmarks/rivals/problem.py PHOTOS... --out FILE.npz [--extractors A,B] [--rho R] [--goal G] [--reference]

PHOTOS are files, or folders that are searched; the first face of each photo counts. --reference adds what the engine
itself finds on the first two faces: embeddings, and objective, DSSIM, gradient and step of the paper's solver at two
points, to which `check` of the rivals compares theirs. It compiles the solver: minutes where cores are few.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import problem_file

from engine import checkpoint, faces, photo, sharding
from engine.checkpoint import flatten
from engine.cloak import paper, projection, solver
from engine.cloak.objective import window_weights
from engine.config import CANVAS, Recipe
from engine.detect import YuNet
from engine.extractors import Extractor, load
from engine.extractors.crop import resampling_matrix
from engine.extractors.registry import about
from engine.extractors.spec import InputSpec

CHECKED = 2
"""Faces that the reference is made of."""
FAR = 0.05
"""Noise, in tanh space, that brings the second of the two points of the reference far past the budget."""


def rows_of(spec: InputSpec) -> np.ndarray | None:
    """The matrix of the network's crop, (size, c); None where it is the window as it is."""
    low, high = spec.window
    if low >= 0 and high <= CANVAS and low == int(low) and high == low + spec.size:
        return None
    return np.asarray(resampling_matrix(CANVAS, size=spec.size, window=jnp.array(spec.window, jnp.float32)))


def network_of(extractor: Extractor, *, kind: str, share: float) -> problem_file.Network:
    """An extractor as the file has it. kind: the module of engine.extractors that defines it."""
    spec = extractor.spec
    if spec.down:
        raise ValueError(f"{extractor.name} sees another window down than across; the rivals' crops have one")
    weights = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(extractor.params).items()}
    return problem_file.Network(
        extractor.name, kind, spec.size, spec.window, rows_of(spec), spec.mean, spec.scale, spec.bgr, share, weights
    )


def write(
    path: Path | str,
    extractor_names: Sequence[str],
    canvases: np.ndarray,
    masks: np.ndarray,
    regions: np.ndarray,
    *,
    grey: np.ndarray | None = None,
    identities: np.ndarray | None = None,
    goals: np.ndarray | float = 0.0,
    rho: float = Recipe.rho,
    reference: bool = False,
) -> None:
    """Writes the problem of cloaking these faces, objective "away", by the paper's solver.

    extractor_names: as `Recipe.extractors`; in float32. canvases (n, c, c, 3) in [0, 1], masks (n, c, c, 1), regions
    (n, c, c) bool and identities (n, 4) as in `solver.Batch`; the identities default to the faces' indices. goals: the
    weighted mean shift that each face, or all, are to reach, 0 for none. reference: add what `check` compares to.
    """
    recipe = Recipe(rho=rho, extractors=tuple(extractor_names), objective="away", solver="paper")
    if any(member.precision == "bfloat16" for member in recipe.members):
        raise ValueError(f"the rivals work in float32; extractors ask for another precision: {extractor_names}")
    networks = tuple(load(name) for name in recipe.names)
    total = sum(recipe.weights)
    count = len(canvases)
    if identities is None:
        identities = np.stack([np.zeros(count), *[np.arange(count)] * 3], axis=1)
    batch = solver.Batch(
        canvas=jnp.asarray(canvases, jnp.float32),
        mask=jnp.asarray(masks, jnp.float32),
        region=jnp.asarray(regions, bool),
        target=tuple(jnp.zeros((count, network.dim)) for network in networks),
        grey=jnp.zeros(count, bool) if grey is None else jnp.asarray(grey, bool),
        identity=jnp.asarray(identities, jnp.uint32),
    )
    # The engine's own beginning, so that the rivals start where it does; its state does not depend on embeddings.
    state = solver.begin(recipe, batch, batch.target, jnp.ones(count, bool)).state
    references = reference_of(recipe, networks, batch) if reference else {}
    problem = problem_file.Problem(
        networks=tuple(
            network_of(network, kind=about(network.name)["network"], share=weight / total)
            for network, weight in zip(networks, recipe.weights, strict=True)
        ),
        canvas=np.asarray(batch.canvas),
        mask=np.asarray(batch.mask),
        windows=np.asarray(jax.vmap(window_weights)(batch.region)),
        grey=np.asarray(batch.grey),
        start=np.asarray(state.variable),
        goals=np.broadcast_to(np.asarray(goals, np.float32), (count,)),
        rho=rho,
        reference=references,
    )
    problem_file.write(path, problem)


def reference_of(recipe: Recipe, networks: tuple[Extractor, ...], batch: solver.Batch) -> dict[str, np.ndarray]:
    """The engine on the first faces: embeddings, and its paper solver at the start and far past the budget.

    embedding/NAME (m, d). point (2, m, c, c, 3): the variables. gain, dssim (2, m). gradient, after (2, m, c, c, 3):
    the gradient of the loss, and the variable that one step of the solver makes of the point.
    """
    batch = jax.tree.map(lambda leaf: leaf[:CHECKED], batch)
    clean = solver.embed(networks, batch.canvas)
    references = {
        f"embedding/{network.name}": np.asarray(embedding) for network, embedding in zip(networks, clean, strict=True)
    }
    rows: dict[str, list[np.ndarray]] = {}
    noise = FAR * jax.random.normal(jax.random.key(1), batch.canvas.shape)
    for scale in (0.0, 1.0):
        slots = solver.begin(recipe, batch, clean, jnp.ones(len(batch.canvas), bool))
        point = slots.state.variable + scale * noise
        delta = jax.jit(jax.vmap(paper._delta))(slots.problems, point)
        embeddings = solver.embed(networks, batch.canvas + delta)
        shift = np.stack([np.linalg.norm(a - b, axis=1) for a, b in zip(embeddings, clean, strict=True)], axis=1)
        rows.setdefault("point", []).append(np.asarray(point))
        rows.setdefault("gain", []).append(shift @ np.array(recipe.weights) / sum(recipe.weights))
        rows.setdefault("dssim", []).append(np.asarray(jax.vmap(projection.cost)(slots.problems, delta)))
        state = solver.advance(recipe, networks, slots._replace(state=slots.state._replace(variable=point)), 1).state
        # After its first step Adam's mean is (1 - .9) times the gradient: that of the engine's own, unchanged step.
        rows.setdefault("gradient", []).append(np.asarray(state.memory[0].mu) / 0.1)
        rows.setdefault("after", []).append(np.asarray(state.variable))
    return references | {key: np.stack(value).astype(np.float32) for key, value in rows.items()}


def cuts(paths: Sequence[Path]) -> list[tuple[faces.Cut, bool]]:
    """The first face of every photo in which there is one, and whether the photo is grey."""
    detector = YuNet(checkpoint.detector())
    listed = []
    for path in paths:
        picture = photo.read(path)
        if seen := detector.detect(picture.pixels):
            listed.append((faces.cut(picture.pixels, seen[0]), picture.grey))
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", help="files, or folders that are searched")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extractors", default=",".join(Recipe.extractors))
    parser.add_argument("--faces", type=int, help="at most so many (default: all)")
    parser.add_argument("--rho", type=float, default=Recipe.rho)
    parser.add_argument("--goal", type=float, default=0.0, help="weighted mean shift to reach; 0 for none")
    parser.add_argument("--reference", action="store_true", help="add the engine's own figures, for `check`")
    options = parser.parse_args()
    sharding.configure()
    paths = []
    for path in options.photos:
        inside = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in photo.SUFFIXES)
        paths += inside if path.is_dir() else [path]
    listed = cuts(paths[: options.faces])
    if not listed:
        parser.error("there is no face in these photos")
    write(
        options.out,
        options.extractors.split(","),
        np.stack([cut.canvas for cut, _ in listed]),
        np.stack([cut.mask for cut, _ in listed]),
        np.stack([cut.region for cut, _ in listed]),
        grey=np.array([grey for _, grey in listed]),
        goals=options.goal,
        rho=options.rho,
        reference=options.reference,
    )
    print(json.dumps({"file": str(options.out), "faces": len(listed), "extractors": options.extractors.split(",")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
