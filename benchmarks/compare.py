"""Side by side, in one run: our engine, the loop of Fawkes 1.0.4, and a PyTorch rival with the paper's Adam schedule.

    benchmarks/rivals/build DIR
    python benchmarks/compare.py PHOTOS... --rivals DIR --out FILE.json [--faces N] [--only steps,fawkes,paper]
        [--fawkes-faces N] [--paper-steps N] [--reuse]

All work on one extractor (web-incept) and the same faces, the first of each photo, with the objective of all three:
away from the face's own embedding, no jitter, no spectrum. They take turns on an otherwise idle
machine; `load` is the load average before each. The physical ceiling is the FLOPs of a step (three forward passes less
the gradients of weights: two) at the peak rate of a product, which `peak` has.

steps   milliseconds a face of a forward pass with the gradient of the input, ours and PyTorch's, eager and compiled, at
        equal batch sizes, in float32 and in bfloat16: the median and the least of the repeats; rounds alternate between
        the programs. The peak is of float32.
fawkes  the package's loop in mode mid (75 steps, threshold .012) at its default batch size of 1 and at the best of
        others; our port of it (solver fawkes1); and ours at 10, 15 and 40 steps, as free as those are: in colour,
        without smoothing or a coarse part, no cap on a pixel's change; beside it ours at 15, grey and
        capped as by default, and the port held to grey. Last ours at 15 with as much DSSIM, mean, as the package spends
        at the batch size with most faces: its threshold is no bound. All may change the network's crop alone, and DSSIM
        is of that whole crop. Seconds of the loops alone, and of our whole program from files to files (decode, detect,
        cloak, fit to the budget, encode, write, report) at 15 steps. --reuse: the package's rows that FILE has.
paper   PyTorch, the paper's Adam schedule at rho .007, against ours, as free as it, within the same budget on the same
        windows: the fewest steps that move as far (median), and the time in which the rival moves each face as far as
        GOAL_STEPS of ours do, or all its steps where it never does, as if a face that is there left its batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "rivals"))

import problem
import problem_file

from engine import faces as geometry
from engine import sharding
from engine.bench import ceiling
from engine.bench.timing import Times, times
from engine.bulk.batching import Batcher, FaceJob
from engine.bulk.cloaker import Cloaker
from engine.bulk.run import Options, fingerprint, run
from engine.config import Detection, Output, Precision, Recipe
from engine.dssim import change, clean, dssim_map
from engine.extractors import card, load, tuned

HERE = Path(__file__).resolve().parent
NAME = "web-incept"
BATCHES = (8, 16)
RECIPE = Recipe(extractors=(NAME,), objective="away", jitter=0.0, spectrum=0.0)
FREE = replace(RECIPE, smoothing=0.0, coarse=0.0, cap=1.0, colour=True)
"""As free as the solvers of others are."""
TRIED = (5, 10, 20, 50)
GOAL_STEPS = 10
MODE_MID = 0.012


def say(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), flush=True)
    return row


def rival(options: argparse.Namespace, which: str, *arguments: object) -> dict[str, Any]:
    """The JSON line of a rival's program; what it says goes to stderr."""
    python = options.rivals / which / "bin" / "python"
    script = HERE / "rivals" / f"{'torch' if which == 'torch' else 'fawkes'}_rival.py"
    done = subprocess.run(
        [str(part) for part in (python, script, *arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def own_steps(name: str, batch: int, repeats: int, precision: Precision) -> Times:
    """Seconds of a forward pass with the gradient of the input, in the form in which cloaks are made."""
    extractor = tuned(load(name, precision=precision))

    @jax.jit
    def both(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        params, images = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(precision)), (params, images))

        def network(images: jax.Array) -> jax.Array:
            return jax.vmap(lambda image: nnx.merge(extractor.graphdef, params)(image))(images)

        embeddings, pull = jax.vjp(network, images)
        return embeddings, pull(jnp.ones_like(embeddings))[0]

    side = extractor.spec.size
    images = jax.random.normal(jax.random.key(0), (batch, side, side, 3))
    params = jax.device_put(extractor.params)
    return times(lambda: both(params, images), repeats=repeats)


def steps(options: argparse.Namespace, cut: Sequence[tuple[geometry.Cut, bool]], folder: Path) -> dict[str, Any]:
    top = ceiling.product(repeats=options.repeats).best
    rows = []
    for name in (NAME, "mobilefacenet-192"):
        gflops = card(name)["gflops"]
        file = folder / f"{name}.npz"
        write_problem(file, cut[:2], extractor=name, rho=RECIPE.rho)
        rounds: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for turn, precision in itertools.product(range(options.rounds), get_args(Precision)):
            after = "" if precision == "float32" else f", {precision}"
            for batch in BATCHES:
                step_times = own_steps(name, batch, options.repeats, precision)
                pair = 1000 * step_times.median / batch, 1000 * step_times.least / batch
                rounds.setdefault((f"ours{after}", batch), []).append(pair)
            for label, compiled in ((f"torch eager{after}", ()), (f"torch compiled{after}", ("--compile",))):
                if compiled and turn:  # it takes minutes to compile
                    continue
                flags = compiled if precision == "float32" else (*compiled, f"--{precision}")
                sizes = ",".join(map(str, BATCHES))
                theirs = rival(
                    options, "torch", "steps", file, "--batches", sizes, "--repeats", options.repeats, *flags
                )
                for row in theirs["rows"]:
                    if row["what"] == name:
                        pair = row["ms"]["median"] / row["batch"], row["ms"]["min"] / row["batch"]
                        rounds.setdefault((label, row["batch"]), []).append(pair)
        for (label, batch), pairs in rounds.items():
            rate = 2 * gflops / min(least for _, least in pairs) * 1000
            row = {
                "network": name,
                "program": label,
                "batch": batch,
                "ms_median": round(statistics.median(middle for middle, _ in pairs), 1),
                "ms_least": round(min(least for _, least in pairs), 1),
                "gflops_per_second": round(rate, 1),
                "share_of_peak": round(rate / top, 3),
            }
            rows.append(say(row))
    return {"peak_gflops_per_second": round(top, 1), "rows": rows}


def write_problem(
    file: Path, cut: Sequence[tuple[geometry.Cut, bool]], *, extractor: str, rho: float, goal: Any = 0.0
) -> None:
    columns = [np.stack([getattr(face, key) for face, _ in cut]) for key in ("canvas", "mask", "region")]
    problem.write(file, (extractor,), *columns, goals=goal, rho=rho)


def solved(recipe: Recipe, cut: Sequence[tuple[geometry.Cut, bool]], batch: int) -> dict[str, Any]:
    """Our cloaks of the faces; seconds without compiling."""
    batcher = Batcher(recipe, (load(NAME),), size=batch, mesh=sharding.faces_mesh(1))
    jobs = [FaceJob(face, grey, f"{i + 1:064x}", 0, batcher.no_target()) for i, (face, grey) in enumerate(cut)]
    batcher.solve(jobs[:1])
    begun = time.perf_counter()
    cloaks = batcher.solve(jobs)
    seconds = time.perf_counter() - begun
    shift = np.array([cloak.shift[0] for cloak in cloaks])
    return {"delta": np.stack([cloak.delta for cloak in cloaks]), "shift": shift, "seconds": seconds}


def crop_dssim(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """DSSIM of whole crops, (n, s, s, 3)."""

    @jax.jit
    @jax.vmap
    def dssim_of_crop(x: jax.Array, y: jax.Array) -> jax.Array:
        original = clean(x)
        return dssim_map(original, change(original, y - x)).mean()

    return np.asarray(dssim_of_crop(jnp.asarray(before), jnp.asarray(after)))


def quality(shift: np.ndarray, dssim: np.ndarray) -> dict[str, Any]:
    return {
        "shift_median": round(float(np.median(shift)), 4),
        "shift_least": round(float(shift.min()), 4),
        "dssim_mean": round(float(dssim.mean()), 5),
        "dssim_max": round(float(dssim.max()), 5),
    }


def _package(
    options: argparse.Namespace, cut: Sequence[tuple[geometry.Cut, bool]], file: Path, batch: int
) -> dict[str, Any]:
    """The row of the package's own loop."""
    result = file.with_name(f"fawkes-{batch}.npz")
    few = min(len(cut), max(options.fawkes_faces, batch))
    about = rival(options, "tensorflow", "solve", file, "--out", result, "--batch", batch, "--faces", few)
    _, result_arrays = problem_file.read_result(result)
    seconds = float(result_arrays["step_seconds"].sum(axis=0)[::batch].sum())
    row = {"program": "fawkes 1.0.4", "batch": batch, "faces": few, "steps": len(result_arrays["step_seconds"])}
    row |= {"seconds_a_face": round(seconds / few, 3), "load": about["load"]}
    return say(row | quality(result_arrays["shift"][:, 0], result_arrays["dssim"]))


def fawkes(
    options: argparse.Namespace,
    cut: Sequence[tuple[geometry.Cut, bool]],
    folder: Path,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    file = folder / "fawkes.npz"
    write_problem(file, cut, extractor=NAME, rho=MODE_MID)
    network = problem_file.read(file).network(NAME)
    canvases = np.stack([face.canvas for face, _ in cut])
    before = problem_file.crops(network, canvases)
    theirs = (earlier or {}).get("theirs") or [_package(options, cut, file, batch) for batch in options.fawkes_batches]
    low, high = (int(edge) for edge in network.window)
    mask = np.zeros((*canvases.shape[1:3], 1), np.float32)
    mask[low:high, low:high] = 1
    region = mask[..., 0] > 0
    framed = [(face._replace(mask=mask, region=region), grey) for face, grey in cut]
    grey = [(face, True) for face, _ in framed]
    port = replace(RECIPE, rho=MODE_MID, steps=75, solver="fawkes1")
    free = [("ours", replace(FREE, rho=MODE_MID, steps=count), framed) for count in (10, 15, 40)]
    plain = ("ours, grey and capped", replace(RECIPE, rho=MODE_MID, steps=15, smoothing=0.0, coarse=0.0), framed)
    few = theirs[0]["faces"]

    def measured(label: str, recipe: Recipe, faces: Sequence[tuple[geometry.Cut, bool]]) -> dict[str, Any]:
        solution = solved(recipe, faces, options.batch)
        dssim = crop_dssim(before, problem_file.crops(network, canvases + solution["delta"]))
        row = {"program": label, "batch": options.batch, "faces": len(cut), "steps": recipe.steps, "rho": recipe.rho}
        row["seconds_a_face"] = round(solution["seconds"] / len(cut), 3)
        row["first"] = {"faces": few, **quality(solution["shift"][:few], dssim[:few])}
        return say(row | quality(solution["shift"], dssim))

    rows = (("our port", port, framed), ("our port, grey", port, grey), *free, plain)
    ours = [measured(*row) for row in rows]
    # DSSIM of a whole crop and of the windows that the budget counts are not the same number.
    spent = next(row["dssim_mean"] for row in ours if (row["program"], row["steps"]) == ("ours", 15))
    most = max(theirs, key=lambda row: row["faces"])
    rho = round(MODE_MID * most["dssim_mean"] / spent, 5)
    ours.append(measured("ours, DSSIM as theirs", replace(FREE, rho=rho, steps=15), framed))
    files = say(photos_per_hour(replace(FREE, rho=MODE_MID, steps=15), options, folder))
    return {
        "theirs": theirs,
        "ours": ours,
        "files": files,
        "loop_ratios": [
            {
                "program": row["program"],
                "steps": row["steps"],
                "batch": rival_row["batch"],
                "ratio": round(rival_row["seconds_a_face"] / row["seconds_a_face"], 1),
            }
            for row in ours
            if row["program"].startswith("ours")
            for rival_row in theirs
        ],
        "files_ratio_at_default_batch": round(theirs[0]["seconds_a_face"] / files["seconds_a_photo"], 1),
        "files_ratio_at_best_batch": round(min(row["seconds_a_face"] for row in theirs) / files["seconds_a_photo"], 1),
    }


def photos_per_hour(recipe: Recipe, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our whole program on all photos, files to files, after a run on one of them that compiles."""
    settings = fingerprint(recipe, Detection(), Output())
    (folder / "photos").mkdir()
    for number, photo in enumerate(options.photos):  # by number: two folders may both have a 000.jpg
        shutil.copy(photo, folder / "photos" / f"{number:04d}{photo.suffix}")
    copies = sorted((folder / "photos").iterdir())
    for photos, out in ((copies[:1], "warm"), (copies, "all")):
        summary = run(
            lambda _: Cloaker(recipe=recipe, batch=options.batch),
            photos,
            folder / out,
            settings=settings,
            options=Options(album=True),
        )
    total = summary.seconds["total"]
    return {
        "program": "ours, from files to files",
        "photos": summary.counts["cloaked"],
        "faces": summary.faces,
        "photos_per_hour": round(3600 * summary.counts["cloaked"] / total, 1),
        "seconds_a_photo": round(total / summary.counts["cloaked"], 3),
        "seconds": summary.seconds,
        "occupancy": summary.occupancy,
        "steady_occupancy": summary.steady_occupancy,
        "dssim_in_files_mean": round(summary.dssim_mean or 0, 5),
        "dssim_in_files_max": round(summary.dssim_max or 0, 5),
    }


def paper(options: argparse.Namespace, cut: Sequence[tuple[geometry.Cut, bool]], folder: Path) -> dict[str, Any]:
    file, result = folder / "paper.npz", folder / "paper-result.npz"
    cut = cut[: options.batch]
    write_problem(file, cut, extractor=NAME, rho=RECIPE.rho)
    windows = jnp.asarray(problem_file.read(file).windows)
    canvases = jnp.stack([face.canvas for face, _ in cut])
    ours, reached = [], {}
    for count in TRIED:
        got = solved(replace(FREE, steps=count), cut, len(cut))
        dssim = np.asarray(jax.jit(jax.vmap(_window_cost))(canvases, got["delta"], windows))
        row = {"program": "ours", "steps": count, "faces": len(cut)}
        row["seconds_a_face"] = round(got["seconds"] / len(cut), 3)
        ours.append(say(row | quality(got["shift"], dssim)))
        reached[count] = got["shift"]
    write_problem(file, cut, extractor=NAME, rho=RECIPE.rho, goal=reached[GOAL_STEPS])
    about = rival(options, "torch", "solve", file, "--out", result, "--steps", options.paper_steps)
    summary, arrays = problem_file.read_result(result)
    seconds = about.get("seconds", summary.get("seconds"))
    row = {"program": "torch, the paper's Adam", "steps": options.paper_steps, "faces": len(cut), "load": about["load"]}
    theirs = say(
        row | {"seconds_a_face": round(seconds / len(cut), 3)} | quality(arrays["shift"][:, 0], arrays["dssim"])
    )
    enough = next((row for row in ours if row["shift_median"] >= theirs["shift_median"]), None)
    goal = next(row for row in ours if row["steps"] == GOAL_STEPS)
    there = arrays["reached"] > 0
    spent = np.where(there, arrays["reached_seconds"], seconds).mean() / len(cut)
    taken = np.where(there, arrays["reached"], theirs["steps"])
    return {
        "theirs": theirs,
        "ours": ours,
        "as_far_as_all_its_steps": enough
        and {
            "steps": enough["steps"],
            "steps_ratio": theirs["steps"] / enough["steps"],
            "seconds_ratio": round(theirs["seconds_a_face"] / enough["seconds_a_face"], 1),
        },
        "as_far_as_ours": say(
            {
                "goal": "each face as far as ours at these steps",
                "steps": GOAL_STEPS,
                "faces": len(cut),
                "reached": int(there.sum()),
                "their_steps_median": float(np.median(taken)),
                "their_seconds_a_face": round(float(spent), 3),
                "our_seconds_a_face": goal["seconds_a_face"],
                "seconds_ratio": round(float(spent) / goal["seconds_a_face"], 1),
            }
        ),
    }


def _window_cost(canvas: jax.Array, delta: jax.Array, weights: jax.Array) -> jax.Array:
    original = clean(canvas)
    return (dssim_map(original, change(original, delta)) * weights).sum()


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"steps": steps, "fawkes": fawkes, "paper": paper}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", help="files; the first face of each")
    parser.add_argument("--rivals", type=Path, required=True, help="what benchmarks/rivals/build made")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="steps,fawkes,paper")
    parser.add_argument("--batch", type=int, default=8, help="our slots")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--fawkes-faces", type=int, default=4)
    parser.add_argument("--fawkes-batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8])
    parser.add_argument("--paper-steps", type=int, default=1000)
    parser.add_argument("--reuse", action="store_true", help="the package's rows that are in OUT already")
    options = parser.parse_args()
    sharding.configure()
    cut = problem.cuts(options.photos)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results |= {"photos": len(options.photos), "faces": len(cut), "cores": os.cpu_count(), "extractor": NAME}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only.split(","):
            load_average = round(os.getloadavg()[0], 1)
            more = {"earlier": results.get(name)} if name == "fawkes" and options.reuse else {}
            results[name] = {"load": load_average, **PARTS[name](options, cut, Path(folder), **more)}
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
