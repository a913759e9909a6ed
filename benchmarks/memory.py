"""Resident memory over time of `cloak run`, with 100, 1,000 and 10,000 small photos: does it grow with the collection?

    python benchmarks/memory.py PHOTO... [--counts 100,1000,10000] [--arguments "--extractors mobileface --steps 2"]

The photos are those given, of about 250 pixels, each with one row of pixels that is a number in black and white blocks,
so that no two are one file. Few steps on one small network: what is measured is what a run keeps of a photo, not how
fast it is. Each run is a process of its own, looked at once a second, after one of ten photos that fills the compile
cache (compiling takes memory of its own); the ceiling is flat memory, that of the smallest run. `resident_mb` has
[second, MB]; `grown_mb` is by how much the second half's largest exceeds the first half's, speed and DSSIM
are the run's own. The last line is one JSON object, which is also in results/memory.json; the plot in memory.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIDE = 250
BLOCK = 8
"""Pixels of a block: as many as JPEG transforms at once."""
WARM_UP = 10
"""Photos: enough for all the slots of a run's solver."""
POINTS = 1000
"""Of a run's samples that are written."""


def multiply(photos: list[Path], count: int, folder: Path) -> None:
    """Write so many small JPEGs; the number of each is in its last row of pixels."""
    small = []
    for path in photos:
        with Image.open(path) as image:
            image = image.convert("RGB")
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.append(np.asarray(image))
    for number, pixels in zip(range(count), cycle(small), strict=False):
        changed = pixels.copy()
        for bit in range(count.bit_length()):
            changed[-1, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
        place = folder / f"{number // 1000:03d}"  # folders of a thousand, as people and cameras make them
        place.mkdir(exist_ok=True)
        Image.fromarray(changed).save(place / f"{number:05d}.jpg", quality=90)


def resident(pid: int) -> float | None:
    """MB of a process, None when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * resource.getpagesize() / 1e6


def watched(command: list[str], *, interval: float) -> tuple[list[tuple[float, float]], str, float]:
    """[(second, MB)] while a command runs, its stdout and its seconds. Exits when it fails."""
    with tempfile.TemporaryFile("w+") as out:
        begun = time.perf_counter()
        python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(command, stdout=out, env={**os.environ, "PYTHONPATH": python_path})
        samples: list[tuple[float, float]] = []
        while process.poll() is None:
            megabytes = resident(process.pid)
            if megabytes is not None and megabytes > 1:  # not yet the program
                samples.append((round(time.perf_counter() - begun, 2), round(megabytes, 1)))
            time.sleep(interval)
        seconds = time.perf_counter() - begun
        out.seek(0)
        text = out.read()
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}: {text[-2000:]}")
    return samples, text, seconds


def measure(
    photos: list[Path], count: int, cloak: list[str], arguments: list[str], *, interval: float
) -> dict[str, Any]:
    """One run over so many photos, in a folder that is removed."""
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "photos").mkdir()
        multiply(photos, count, folder / "photos")
        command = [*cloak, "run", str(folder / "photos"), "--out", str(folder / "out"), "--json", *arguments]
        samples, text, seconds = watched(command, interval=interval)
    finally:
        shutil.rmtree(folder)
    summary = json.loads(text.splitlines()[-1])
    values = [value for _, value in samples]
    half = len(values) // 2 or 1
    return {
        "photos": count,
        "cloaked": summary["counts"]["cloaked"],
        "faces": summary["faces"],
        "seconds": round(seconds, 1),
        "photos_per_second": round(count / seconds, 3),
        "dssim_max": summary["dssim_max"],
        "seconds_by_phase": summary["seconds"],
        "peak_mb": max(values),
        "median_mb": round(float(np.median(values)), 1),
        "grown_mb": round(max(values[half:] or values) - max(values[:half]), 1),
        "resident_mb": samples[:: -(-len(samples) // POINTS)],
    }


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Memory over the share of a run that has passed: lines that lie on each other do not grow with the collection."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "memory"  # the same file for the same figures
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for run in runs:
        seconds, values = zip(*run["resident_mb"], strict=True)
        label = f"{run['photos']:,} photos, {run['seconds']:.0f} s"
        axes.plot([100 * second / run["seconds"] for second in seconds], values, label=label, linewidth=1.2)
    axes.set(xlabel="% of the run's time", ylabel="resident memory, MB", xlim=(0, 100), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+", help="photos with a face, repeated in turn")
    parser.add_argument("--counts", default="100,1000,10000")
    parser.add_argument("--arguments", default="--extractors mobileface --steps 2", help="of `cloak run`")
    parser.add_argument("--cloak", default=f"{sys.executable} -m engine.cli", help="the command that is run")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    arguments = shlex.split(options.arguments)
    cloak = shlex.split(options.cloak)
    measure(options.photos, WARM_UP, cloak, arguments, interval=options.interval)
    for count in map(int, options.counts.split(",")):
        runs.append(measure(options.photos, count, cloak, arguments, interval=options.interval))
        told = {name: value for name, value in runs[-1].items() if name != "resident_mb"}
        print(json.dumps(told), file=sys.stderr, flush=True)
        result = {"arguments": options.arguments, "cores": os.cpu_count(), "interval": options.interval, "runs": runs}
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "memory.json").write_text(json.dumps(result) + "\n", encoding="utf-8")  # the last takes hours
        plot(runs, options.out / "memory.svg")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
