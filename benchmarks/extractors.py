"""The shipped extractors: how well they tell people apart, and how fast they are here and in their own frameworks.

    python benchmarks/extractors.py [LFW] --cache DIR [--repeats N] [--out FILE.json]    LFW: identity/photo

Measured, for each extractor: the AUC and the TAR at a FAR of 1e-3 on the pairs of tools/lfw_pairs.py ("-" without the
photos), and milliseconds per image in a batch of 16 network inputs, forward, and forward with the gradient of the
input, of our network (jitted, compiled before) and of the source file in its own runtime (tools/references.py), none
of which gives a gradient: "-". Ours and theirs take turns; the figure is the median of the repeats. OpenCV
and onnxruntime run those files one image at a time, LiteRT in pairs. The physical ceiling is a forward pass at the
CPU's peak rate: `gflops` over it; with the gradient, two to three times that. `load` is the machine's load average
before each network: over the number of cores, times are of a busy machine, and only their ratios mean something.

--cache keeps the source files. The runtimes are those of tools/golden_embeddings.py; an absent one is skipped, and why
is said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import lfw_pairs
from references import Missing, prepared, reference

from engine import extractors, sharding
from engine.extractors import Extractor

ROOT = Path(__file__).resolve().parent.parent
BATCH = 16


def network(extractor: Extractor) -> tuple[Callable, Callable]:
    """Compiled functions of (weights, inputs (b, s, s, 3)): raw embeddings, and them with the gradient of their sum."""

    def forward(params, images):
        return jax.vmap(lambda image: nnx.merge(extractor.graphdef, params)(image))(images)

    def both(params, images):
        value, pull = jax.vjp(lambda images: forward(params, images), images)
        return value, pull(jnp.ones_like(value))

    return jax.jit(forward), jax.jit(both)


def milliseconds(function: Callable, *arguments) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return 1000 * (time.perf_counter() - begun)


def speed(extractor: Extractor, canvases: np.ndarray, *, repeats: int, cache: Path) -> dict[str, object]:
    """Milliseconds per image, ours and theirs."""
    images = prepared(canvases, extractor.spec)
    device = jax.device_put(images)
    forward, both = network(extractor)
    compiling = milliseconds(forward, extractor.params, device) + milliseconds(both, extractor.params, device)
    try:
        theirs = reference(extractor.name, cache=cache)
        raw = theirs.embed(images)
        runtime, skipped = theirs.runtime, None
        with jax.default_matmul_precision("highest"):
            ours = np.asarray(forward(extractor.params, device))
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, raw)]
        cosine = round(float((unit[0] * unit[1]).sum(axis=1).min()), 6)
    except Missing as error:
        theirs, runtime, skipped, cosine = None, None, str(error), None
    times: dict[str, list[float]] = {"forward": [], "with_gradient": [], "theirs": []}
    for _ in range(repeats):
        times["forward"].append(milliseconds(forward, extractor.params, device))
        times["with_gradient"].append(milliseconds(both, extractor.params, device))
        if theirs:
            times["theirs"] += theirs.milliseconds(images, 1)

    def per_image(values: list[float]) -> dict[str, float] | None:
        if not values:
            return None
        return {
            name: round(value / len(images), 3)
            for name, value in [("median", statistics.median(values)), ("min", min(values)), ("max", max(values))]
        }

    return {
        "compile_seconds": round(compiling / 1000, 1),
        "ours_forward_ms": per_image(times["forward"]),
        "ours_with_gradient_ms": per_image(times["with_gradient"]),
        "theirs": runtime,
        "theirs_skipped": skipped,
        "theirs_forward_ms": per_image(times["theirs"]),
        "theirs_with_gradient_ms": None,  # inference runtimes, all of them
        "cosine_min": cosine,
    }


def table(rows: list[dict]) -> str:
    """The result as Markdown."""
    lines = [
        "| extractor | AUC | TAR | GFLOPs | forward ms | with gradient ms | own framework | forward ms | gradient |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def cell(value: object) -> str:
        if isinstance(value, dict):
            return f"{value['median']:.2f}"
        return "-" if value is None else str(value)

    for row in rows:
        values = [
            *(row[key] for key in ("name", "auc", "tar", "gflops", "ours_forward_ms", "ours_with_gradient_ms")),
            row["theirs"] or f"skipped: {row['theirs_skipped']}",
            *(row[key] for key in ("theirs_forward_ms", "theirs_with_gradient_ms")),
        ]
        lines.append(f"| {' | '.join(cell(value) for value in values)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT.parent / "shared" / "faces" / "lfw")
    parser.add_argument("--cache", type=Path, required=True, help="where the source files are kept")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "extractors.json")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    sharding.configure()
    if options.folder.is_dir():
        canvases, labels = lfw_pairs.canvases(options.folder)
    else:
        with np.load(ROOT / "tests" / "goldens" / "embeddings.npz") as golden:
            canvases, labels = np.resize(golden["canvases"], (BATCH, *golden["canvases"].shape[1:])), None
    rows = []
    for name in extractors.available():
        extractor = extractors.load(name)
        load = round(os.getloadavg()[0], 1)
        row = {"name": name, "gflops": extractors.card(name)["gflops"], "load": load, "auc": None, "tar": None}
        row |= speed(extractor, canvases[:BATCH], repeats=options.repeats, cache=options.cache)
        if labels is not None:
            figures = lfw_pairs.accuracy(lfw_pairs.embedded(extractor, canvases), labels)
            row |= {key: round(value, 4) for key, value in figures.items()}
        rows.append(row)
    result = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "batch": BATCH,
        "jax": jax.__version__,
        "repeats": options.repeats,
        "extractors": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
