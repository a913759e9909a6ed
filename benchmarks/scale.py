"""Collections that outgrow a laptop: who is who among up to a million made-up faces, and planning many photos.

    python benchmarks/scale.py group [--counts 10000,20000,50000,100000,300000]
    python benchmarks/scale.py plan [--counts 1000,10000,100000]

The faces are of people in sizes that follow a power law (1 to 1,000 photos), with the spreads of mobilefacenet-192 on
LFW (results/identity.json; each row has both). Measured are the time, memory, pairwise precision and recall of
`people.group`; up to 50,000 faces also by cells alone, against the exact groups. The ceiling is what average linkage
gives at that size, which falls with the number of people: the more there are, the more look alike.

`plan` makes so many photos of a few bytes, and a row and a file for each in place of a cloak. Measured is what calls
cost besides looking at faces: the first plan, which hashes all, a second one that has nothing to do, the same as a dry
run, `cloak status`, and the report, without pictures. Each is a process of its own. The ceiling is a time for a photo
that does not grow with their number, and looking at each file once.

Each count is a process of its own. CPU seconds are the process's own, so other work on the machine lengthens only the
wall time. What was measured replaces that of the same count in results/scale.json, and scale.svg is drawn anew. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.bulk import linkage, people, status
from engine.bulk import plan as planner
from engine.bulk.album import publish
from engine.bulk.inputs import collect
from engine.bulk.manifest import YOUNG, Manifest, finished
from engine.bulk.plan import Options
from engine.bulk.plan import plan as planned

ROOT = Path(__file__).resolve().parent.parent

DIM = 192
LARGEST, POWER = 1000, 1.7
"""Photos of a person at most, and the exponent of how many people have how many."""
BETWEEN, WITHIN = 0.4, 0.42
"""Exponents of the spectra between people and within one: with them pairs of strangers are spread as on LFW."""
NOISE, VARIED = 0.575, 0.33
"""How far a face is from its person, and the spread of its logarithm: pairs of one person are as on LFW."""


def crowd(faces: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, DIM) of length one in random order, and whose they are."""
    draw = np.random.default_rng(seed)
    share = np.arange(1, LARGEST + 1) ** -POWER
    sizes = draw.choice(np.arange(1, LARGEST + 1), size=faces, p=share / share.sum())
    people = int(np.searchsorted(sizes.cumsum(), faces)) + 1
    label = np.repeat(np.arange(people), sizes[:people])[:faces]

    def spectrum(power: float) -> np.ndarray:
        values = np.arange(1, DIM + 1, dtype=np.float32) ** -power
        return values / np.linalg.norm(values)

    centres = _unit(draw.standard_normal((people, DIM), np.float32) * spectrum(BETWEEN))
    rows = np.empty((faces, DIM), np.float32)
    for first in range(0, faces, 100_000):
        some = label[first : first + 100_000]
        noise = draw.standard_normal((len(some), DIM), np.float32) * spectrum(WITHIN)
        noise *= (NOISE * np.exp(VARIED * draw.standard_normal(len(some), np.float32)))[:, None]
        rows[first : first + 100_000] = _unit(centres[some] + noise)
    order = draw.permutation(faces)
    return rows[order], label[order]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def spreads(rows: np.ndarray, label: np.ndarray, pairs: int = 500_000) -> dict[str, list[float]]:
    """Mean, standard deviation, 1st and 99th percentile of the cosine of pairs of one person, and of strangers."""
    draw = np.random.default_rng(1)
    left_rows, right_rows = draw.integers(len(rows), size=(2, pairs))
    apart = label[left_rows] != label[right_rows]
    order = np.argsort(label, kind="stable")
    next_to = np.flatnonzero(label[order][1:] == label[order][:-1])
    # Of each person as many pairs as photos, as LFW's figures count small and large people alike.
    together = order[next_to], order[next_to + 1]
    result = {}
    for name, (left, right) in {"same": together, "different": (left_rows[apart], right_rows[apart])}.items():
        cosine = np.einsum("ij,ij->i", rows[left], rows[right])
        values = cosine.mean(), cosine.std(), *np.quantile(cosine, (0.01, 0.99))
        result[name] = [round(float(value), 4) for value in values]
    return result


def pair_scores(group: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Pairwise precision and recall of a grouping, from how many faces each group and person share."""

    def pairs(numbers: np.ndarray) -> float:
        counts = np.unique(numbers, return_counts=True)[1].astype(float)
        return float((counts * (counts - 1) / 2).sum())

    both = pairs(group.astype(np.int64) * (int(label.max()) + 1) + label)
    return round(both / max(pairs(group), 1), 4), round(both / max(pairs(label), 1), 4)


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a call returns, with its CPU and wall seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    return result, {"cpu_seconds": round(spent[0], 2), "seconds": round(spent[1], 2)}


def group(count: int) -> dict[str, Any]:
    """Who is who among so many made-up faces."""
    rows, label = crowd(count)
    before = peak()
    groups, spent = timed(lambda: people.group(rows))
    precision, recall = pair_scores(groups, label)
    result: dict[str, Any] = {
        "faces": count,
        "people": int(label.max()) + 1,
        "groups": int(groups.max()) + 1,
        "precision": precision,
        "recall": recall,
        **spent,
        "peak_mb": peak(),
        "embeddings_mb": round(rows.nbytes / 1e6),
        "peak_mb_before": before,
        "spreads": spreads(rows, label),
    }
    if count <= linkage.EXACT:
        defaults = linkage.average_linkage.__kwdefaults__
        assert defaults is not None
        defaults["exact"] = count // 10
        cells, spent = timed(lambda: people.group(rows))
        against = pair_scores(cells, groups)
        result["cells"] = {
            **dict(zip(("precision", "recall"), pair_scores(cells, label), strict=True)),
            "precision_to_exact": against[0],
            "recall_to_exact": against[1],
            **spent,
        }
    return result


def plan(count: int) -> dict[str, Any]:
    """What calls of `cloak run` and `cloak status` cost in a folder of so many photos, besides looking at faces."""
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        for number in range(count):
            place = photos / f"{number // 1000:04d}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:07d}.jpg").write_bytes(b"\xff\xd8\xff" + number.to_bytes(8, "big"))
        time.sleep(YOUNG / 1e9)
        result: dict[str, Any] = {"photos": count}
        for name, call in CALLS.items():
            begun = time.perf_counter()
            with multiprocessing.get_context("fork").Pool(1) as alone:  # memory of its own, as a call has
                result[name] = alone.apply(call, (photos, Path(folder) / "out", count))
            print(name, round(time.perf_counter() - begun), "s", result[name], file=sys.stderr, flush=True)
    return result


def first(photos: Path, out: Path, count: int) -> dict[str, Any]:
    """All files are collected and hashed; a file of some bytes and a row are made for each, in place of a cloak."""
    items, collecting = timed(lambda: collect([photos], out=out))
    with Manifest(out) as manifest:
        collection, planning = timed(lambda: planned(items, out, "settings", Options()))
        done = peak()
        rows = []
        for task in collection.tasks:
            place = out / task.item.target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data := task.sha256.encode())
            rows.append(finished(task.row("cloaked", "", faces=[FACE]), out, data))
        _, writing = timed(lambda: manifest.put(*rows))
    size = manifest.path.stat().st_size
    return {"collect": collecting, **planning, "rows": writing, "manifest_mb": round(size / 1e6, 1), "peak_mb": done}


def again(photos: Path, out: Path, count: int, *, dry_run: bool = False) -> dict[str, Any]:
    """Finds that nothing is to be done; `hashed` are the photos that were read for it."""
    hashed: list[Path] = []
    planner.digest = lambda path, real=planner.digest: hashed.append(path) or real(path)  # type: ignore[func-returns-value]
    items, collecting = timed(lambda: collect([photos], out=out))
    collection, planning = timed(lambda: planned(items, out, "settings", Options(dry_run=dry_run)))
    if collection.tasks or collection.earlier["cloaked"] != count:
        sys.exit(f"{len(collection.tasks)} of {count} photos are to be done again")
    return {"collect": collecting, **planning, "hashed": len(hashed), "peak_mb": peak()}


def told(photos: Path, out: Path, count: int) -> dict[str, Any]:
    """`cloak status`, without the printing."""
    lines, spent = timed(lambda: sum(1 for row in status.rows(out) if status.line(row)))
    if lines != count:
        sys.exit(f"{lines} of {count} photos have a row")
    return {**spent, "peak_mb": peak()}


def report(photos: Path, out: Path, count: int) -> dict[str, Any]:
    """The personal report; the files cannot be decoded, so it has no pictures."""
    published, spent = timed(lambda: publish(out, workers=os.cpu_count() or 1))
    if published.report is None:
        sys.exit(f"no report: {published.reason}")
    pages = list(published.report.parent.glob("report*.html"))
    return {
        **spent,
        "pages": len(pages),
        "mb": round(sum(page.stat().st_size for page in pages) / 1e6, 1),
        "peak_mb": peak(),
    }


FACE = {"box": [20.0, 20.0, 40.0, 50.0], "dssim": 0.0061, "shift": {"web-incept": 1.31, "sface": 0.8}, "scale": 1.0}
CALLS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "first": first,
    "second": again,
    "dry_run": partial(again, dry_run=True),
    "status": told,
    "report": report,
    "report_again": report,
}


def peak() -> float:
    """Largest resident memory so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3), 1)


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """CPU time and memory over the number, both on logarithmic scales: a slope of one is linear."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "scale"  # the same file for the same figures
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
    for (seconds, memory), (section, rows) in zip(axes.T, sorted(results.items()), strict=True):
        counts = [row[NOUN[section]] for row in rows]
        for name in CALLS if section == "plan" else ["who is who"]:
            shown = [row[name] if section == "plan" else row for row in rows]
            seconds.plot(counts, [row["cpu_seconds"] for row in shown], ".-", label=name.replace("_", " "))
            memory.plot(counts, [row["peak_mb"] for row in shown], ".-")
        seconds.set(title=f"{NOUN[section]}: CPU seconds")
        memory.set(title=f"{NOUN[section]}: peak MB", xlabel=NOUN[section])
        seconds.legend(frameon=False)
        for panel in (seconds, memory):
            panel.set(xscale="log", yscale="log")
            panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


SECTIONS: dict[str, Callable[[int], dict[str, Any]]] = {"group": group, "plan": plan}
COUNTS = {"group": "10000,20000,50000,100000,300000", "plan": "1000,10000,100000"}
NOUN = {"group": "faces", "plan": "photos"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=list(SECTIONS))
    parser.add_argument("--counts", help="how many faces or photos, separated by commas")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(SECTIONS[options.section](options.one)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scale.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    noun = NOUN[options.section]
    rows = {row[noun]: row for row in results.get(options.section, [])}
    for count in (options.counts or COUNTS[options.section]).split(","):
        command = [sys.executable, __file__, options.section, "--one", count]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
        row = {**json.loads(done.stdout.splitlines()[-1]), **machine}
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows[row[noun]] = row
        results[options.section] = [rows[key] for key in sorted(rows)]
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        if len(results) == len(SECTIONS):
            plot(results, file.with_suffix(".svg"))
    print(json.dumps(results[options.section]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
