"""The pipeline under a device of a given speed: photos a second, CPU seconds a photo, and who waits for whom.

    python benchmarks/pipeline.py PHOTOS [--sizes .06,2,12,24] [--speeds 30,300,1000] [--threads 1,2,4,8] [--save FILE]
    python benchmarks/pipeline.py PHOTOS --sizes 12 --count 200 --make FOLDER   # the photos alone

PHOTOS is a folder of people's photos. From them JPEGs of the given megapixels with a face each are made. All of
`cloak run` is real: both passes, decoding, detection, fitting, encoding, manifest and report. Only the solver is a
stand-in: it sleeps for as long as a device of the given faces/s would work on its slots, and returns smooth random
changes that spend the budget. So no figure says anything of protection, and the device takes no core. The speed "real"
is the solver itself with the default recipe.

Threads are tried at the middle speed, other speeds with as many threads as cores. --processes N shares the photos among
N processes (shards) with the same threads in all, each with a device of a part of the speed. Every trial has processes
of its own; loading is not counted. The ceiling of photos/s is the device's speed, or cores over CPU seconds a photo.

`cpu` is CPU seconds a photo, `main` those of the one thread that everything passes through, so no more than 1 / `main`
photos a second can pass a process. `cores` is how many would keep the device busy. `group` to `report` are seconds a
photo: `group` is the first pass (who is who), `device` is the solver at work, `wait` the solver waiting for photos,
`between` its pauses, `blocked` its waiting for files to be written, `report` the report's pages. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from host import AMPLITUDE, compose, portraits

from engine import checkpoint
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, Lane
from engine.bulk.cloaker import Cloaker
from engine.bulk.desk import Desk
from engine.bulk.run import Options, fingerprint, run
from engine.config import CANVAS, CHUNK, ENSEMBLE, Detection, Output, Recipe
from engine.detect import YuNet
from engine.faces import Cut
from engine.sharding import ACCELERATOR_SLOTS

COUNTS = {0.06: 128, 2.0: 48, 12.0: 16, 24.0: 8}
"""Photos by megapixels, some 15 seconds of one core; other sizes get as many as the next larger one."""
PEOPLE = 8
SHARE = 0.4
"""Of a photo's height that is a person's picture, of which the face is a half: as in photos of phones."""
LATE = 60
"""Seconds after which a trial's processes give up waiting for each other."""
COLUMNS = (
    "photos_per_s",
    "cpu",
    "main",
    "cores",
    "group",
    "device",
    "wait",
    "between",
    "blocked",
    "report",
    "occupancy",
)


class Trial(NamedTuple):
    """speed: faces/s of the device, 0 for the real solver, with these networks. threads: of each process."""

    megapixels: float
    speed: float
    threads: int
    processes: int = 1
    networks: tuple[str, ...] = ENSEMBLE


class _Lane(Lane):
    """Slots whose faces take time and nothing else."""

    def advance(self) -> list[tuple[Any, FaceCloak]]:
        if not self.busy:
            return []
        begun, standin = time.perf_counter(), self.batcher
        assert isinstance(standin, StandIn)
        if self._ended is not None:
            self.usage.between += begun - self._ended
        for slot in range(standin.size):
            if self._seats[slot] is None and self._waiting:
                self._seats[slot], self._steps[slot] = self._waiting.popleft(), 0
        taken = [slot for slot, seat in enumerate(self._seats) if seat is not None]
        count = min(CHUNK, standin.recipe.steps - int(self._steps[taken].min()))
        time.sleep(standin.size * count / standin.recipe.steps / standin.speed)
        self._steps[taken] += count
        self.usage.calls += 1
        self.usage.slot_steps += count * standin.size
        self.usage.worked += count * len(taken)
        done = [self._left(slot) for slot in taken if self._steps[slot] >= standin.recipe.steps]
        self._ended = time.perf_counter() if self.busy else None
        self.usage.seconds += time.perf_counter() - begun
        return done

    def _left(self, slot: int) -> tuple[Any, FaceCloak]:
        face = self._seats[slot]
        assert face is not None
        assert isinstance(self.batcher, StandIn)
        self._seats[slot] = None
        self.usage.faces += 1
        return face.ticket, self.batcher.cloak(face.job)


class StandIn(Batcher):
    """A device of so many faces a second. An embedding takes it as long as one step of a face."""

    def __init__(self, real: Batcher, speed: float) -> None:
        self.recipe, self.extractors, self.size, self.mesh = real.recipe, real.extractors, real.size, real.mesh
        self.speed = speed
        noise = np.random.default_rng(0).standard_normal((CANVAS, CANVAS)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), 2)
        self.noise = np.repeat((smooth / np.abs(smooth).max() * AMPLITUDE)[..., None], 3, axis=2)

    def prepare(self) -> None:
        """There is nothing to compile."""

    def lane(self) -> Lane:
        return _Lane(self)

    def cloak(self, job: FaceJob) -> FaceCloak:
        return FaceCloak(self.noise * job.cut.mask, 0.0, (1.0,) * len(self.extractors), self.recipe.steps)

    def embed(self, canvases: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        batches = -(-len(canvases) // self.size)
        time.sleep(batches * self.size / self.recipe.steps / self.speed)
        return [tuple(_embedding(canvas, extractor.dim) for extractor in self.extractors) for canvas in canvases]


def _embedding(canvas: np.ndarray, dim: int) -> np.ndarray:
    """Of length one, another for every face."""
    vector = np.random.default_rng(np.frombuffer(canvas[::16].tobytes()[:256], np.uint8)).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def cloaker(trial: Trial) -> Cloaker:
    """What a run works with; a stand-in needs one small network, for its name."""
    recipe = Recipe(extractors=("mobilefacenet-192-robust",) if trial.speed else trial.networks)
    made = Cloaker(recipe=recipe, batch=ACCELERATOR_SLOTS if trial.speed else None, workers=trial.threads)
    if trial.speed:
        made.batcher = StandIn(made.batcher, trial.speed / trial.processes)
        made._identifier = made.batcher
        made.desk = Desk(made.batcher, workers=made.workers)
    else:
        # All that there is to compile is compiled here, not while photos are counted.
        empty = np.full((CANVAS, CANVAS, 3), 0.5, np.float32)
        face = Cut(empty, np.ones((CANVAS, CANVAS, 1), np.float32), np.ones((CANVAS, CANVAS), bool), np.eye(2, 3))
        made.batcher.solve([FaceJob(face, False, "0" * 64, 0, made.batcher.no_target())])
        made.identify([empty])
    return made


def worker(trial: Trial, index: int, photos: Path, out: Path, ready: Any, answers: Any) -> None:
    """One process of a trial: its share of the photos, once all processes are ready."""
    cv2.setNumThreads(1)
    made = cloaker(trial)
    assert made._networks
    settings = fingerprint(made.recipe, Detection(), Output())
    options = Options(shard=(index, trial.processes), album=True)
    ready.wait(LATE)
    begun, alone = resource.getrusage(resource.RUSAGE_SELF), time.thread_time()
    summary = run(lambda count: made, [photos], out, settings=settings, options=options)
    ended, alone = resource.getrusage(resource.RUSAGE_SELF), time.thread_time() - alone
    cpu = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
    answers.put({"cpu": cpu, "main": alone, "max_rss_mb": round(ended.ru_maxrss / 1e3), **vars(summary)})


def measure(trial: Trial, photos: Path) -> dict[str, Any]:
    """The row of a trial. Its processes are new ones: nothing is warm but the file cache."""
    count = len(list(photos.iterdir()))
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    ready = context.Barrier(trial.processes)
    with tempfile.TemporaryDirectory() as out:
        team = [
            context.Process(target=worker, args=(trial, index, photos, Path(out), ready, answers))
            for index in range(trial.processes)
        ]
        for process in team:
            process.start()
        results = []
        while len(results) < len(team):
            if any(process.exitcode for process in team):
                raise SystemExit(f"a process of {trial} failed")
            if not answers.empty():
                results.append(answers.get())
            time.sleep(0.05)
        for process in team:
            process.join()
    return row(trial, results, count)


def row(trial: Trial, results: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """What a trial's processes found, as one row. count: of photos."""
    total = max(result["seconds"]["total"] + result["seconds"].get("report", 0.0) for result in results)
    faces = sum(result["faces"] for result in results)
    cpu = sum(result["cpu"] for result in results) / count
    each = {name: sum(result["seconds"][name] for result in results) / count for name in results[0]["seconds"]}
    used = [result["occupancy"] for result in results if result["occupancy"] is not None]
    return {
        "megapixels": trial.megapixels,
        "speed": trial.speed,
        "threads": trial.threads,
        "processes": trial.processes,
        "photos": count,
        "faces": faces,
        "failed": sum(result["counts"]["failed"] for result in results),
        "dssim_max": max(result["dssim_max"] or 0.0 for result in results),
        "photos_per_s": round(count / total, 3),
        "cpu": round(cpu, 4),
        "main": round(sum(result["main"] for result in results) / count, 5),
        "cores": round(cpu * trial.speed * count / max(faces, 1), 1),
        "device": round(each["solve"], 4),
        **{name: round(each[name], 4) for name in ("group", "wait", "between", "blocked", "report")},
        "prepare": round(each["prepare"], 4),
        "finish": round(each["finish"], 4),
        "occupancy": round(sum(used) / max(len(used), 1), 3),
        "max_rss_mb": sum(result["max_rss_mb"] for result in results),
        "load": round(os.getloadavg()[0], 2),
    }


def make(folder: Path, people: list[np.ndarray], megapixels: float, count: int) -> Path:
    """A folder with so many photos, no two of them the same."""
    place = folder / f"{megapixels:05.2f}"
    place.mkdir(parents=True)
    for number in range(count):
        pixels = compose([people[number % len(people)]], megapixels, seed=number, share=SHARE)
        cv2.imwrite(str(place / f"{number:04d}.jpg"), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return place


def trials(
    sizes: Sequence[float], speeds: Sequence[float], threads: Sequence[int], processes: Sequence[int]
) -> list[Trial]:
    """Those worth a trial, in the order of the table."""
    middle, cores = sorted(speeds)[len(speeds) // 2], len(os.sched_getaffinity(0))
    usual = min(threads, key=lambda count: (abs(count - cores), count))
    listed = []
    for size in sizes:
        listed += [Trial(size, speed, usual) for speed in speeds if speed != middle]
        listed += [Trial(size, middle, count) for count in threads]
        listed += [Trial(size, middle, max(1, usual // several), several) for several in processes if several > 1]
    return listed


def made(megapixels: float, count: int | None) -> int:
    """How many photos of a size to make. count: what was asked for."""
    return count or COUNTS[min((size for size in COUNTS if size >= megapixels), default=max(COUNTS))]


def numbers(text: str) -> list[float]:
    return [0.0 if number == "real" else float(number) for number in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of people's folders")
    parser.add_argument("--sizes", default=".06,2,12,24", help="megapixels")
    parser.add_argument("--speeds", default="30,300,1000", help="faces/s of the device, or real")
    parser.add_argument("--threads", default="1,2,4,8")
    parser.add_argument("--processes", default="1")
    parser.add_argument("--count", type=int, help="photos of each size")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--make", type=Path, help="make the photos there, in a folder for each size, and do no more")
    options = parser.parse_args()
    threads, processes = ([int(number) for number in text.split(",")] for text in (options.threads, options.processes))
    people = portraits(options.photos, PEOPLE, YuNet(checkpoint.detector()))
    if not people:
        raise SystemExit(
            f"no photo with one face is under {options.photos}: give a folder with a folder for each person"
        )
    if options.make is not None:
        for size in numbers(options.sizes):
            print(make(options.make, people, size, made(size, options.count)))
        return 0
    machine = {"cores": len(os.sched_getaffinity(0)), "date": time.strftime("%Y-%m-%d")}
    rows: list[dict[str, Any]] = []
    print("   MP faces/s threads processes " + " ".join(f"{name:>12}" for name in COLUMNS))
    for size in numbers(options.sizes):
        with tempfile.TemporaryDirectory() as folder:
            place = make(Path(folder), people, size, made(size, options.count))
            for trial in trials([size], numbers(options.speeds), threads, processes):
                figures = measure(trial, place)
                rows.append(figures)
                speed = f"{trial.speed:g}" if trial.speed else "real"
                values = " ".join(f"{figures[name]:12.3f}" for name in COLUMNS)
                print(f"{size:5g} {speed:>7} {trial.threads:7d} {trial.processes:9d} {values}", flush=True)
                if options.save is not None:
                    options.save.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(json.dumps({"machine": machine, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
