"""A service: threads that each send photos to one Cloaker and wait for the bytes, as a web server's do.

For 1, 8 and 32 threads: the median and the 99th percentile of a photo's time (latency), photos a second, and how full
the solver's slots were (occupancy). The ceiling of occupancy is 1. With one thread it is one face of all slots, since
each photo is sent when the one before came back. Which caller's faces share a chunk should change no result. So every
photo's bytes are compared with those that it gets alone, and how many are the same is in the row, with DSSIM.

    python benchmarks/service.py PHOTOS --save benchmarks/results/service.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine import Cloaker, Encoded, Recipe

SUFFIXES = (".jpg", ".jpeg", ".png")


def measure(cloaker: Cloaker, photos: Sequence[bytes], alone: Sequence[Encoded], *, threads: int, count: int) -> dict:
    """Send so many photos from so many threads."""

    def send(index: int) -> tuple[float, Encoded]:
        begun = time.perf_counter()
        result = cloaker.encode(photos[index % len(photos)])
        return time.perf_counter() - begun, result

    before = replace(cloaker.usage)
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(send, range(count)))
    seconds = time.perf_counter() - begun
    same = sum(result.data == alone[index % len(photos)].data for index, (_, result) in enumerate(answers))
    times = np.array([taken for taken, _ in answers])
    dssim = [face.dssim for _, result in answers for face in result.faces]
    usage = cloaker.usage
    return {
        "threads": threads,
        "photos": count,
        "faces": len(dssim),
        "p50_s": round(float(np.percentile(times, 50)), 3),
        "p99_s": round(float(np.percentile(times, 99)), 3),
        "photos_per_s": round(count / seconds, 3),
        "occupancy": round((usage.worked - before.worked) / (usage.slot_steps - before.slot_steps), 3),
        "dssim_mean": round(float(np.mean(dssim)), 5),
        "same_bytes_as_alone": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder; its first photos by name are sent")
    parser.add_argument("--different", type=int, default=8, help="photos that are sent in turn")
    parser.add_argument("--count", type=int, default=32, help="photos that are sent for each number of threads")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--extractors", default=",".join(Recipe.extractors))
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    paths = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in SUFFIXES)[: options.different]
    photos = [path.read_bytes() for path in paths]
    recipe = Recipe(steps=options.steps, extractors=tuple(options.extractors.split(",")), objective="away")
    rows = []
    with Cloaker(recipe=recipe, batch=options.batch) as cloaker:
        alone = [cloaker.encode(photo) for photo in photos]  # compiles, too
        for threads in options.threads:
            load = os.getloadavg()[0]
            row = measure(cloaker, photos, alone, threads=threads, count=options.count)
            rows.append({**row, "load_before": round(load, 1)})
            print(rows[-1], flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    settings = {
        "batch": options.batch,
        "steps": options.steps,
        "extractors": options.extractors,
        "different": len(photos),
    }
    text = json.dumps({"machine": machine, "settings": settings, "rows": rows})
    if options.save:
        options.save.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
