"""What each part of `accelerator.py` does: from what it is about to what was found, as JSON can hold it."""

from __future__ import annotations

import gzip
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import accelerator_cloaks as cloaks
import accelerator_files as carried
import jax
import numpy as np
import pipeline
from transfer import parsed

from engine import photo, sharding
from engine.bench import bench, machine
from engine.commands import training
from engine.commands.train_robust import Processes, TrainOptions
from engine.config import ENSEMBLE, Member, Recipe
from engine.extractors import registry
from engine.robust.run import Summary

ROOT = Path(__file__).resolve().parent.parent
CLOSE = 0.05
"""Gain of faces/s under which a larger batch of a training is not worth its memory."""
RESERVE = 60
"""Seconds of a training's time that are left for its compilation, its validations and its end."""
TRIED = 0.25
"""Share of a training's time after which no other batch is tried: each one has to be compiled."""
SEVERAL = (
    "test_batching.py::test_any_number_of_devices_gives_the_same_cloaks",
    "test_batching.py::test_one_face_compiles_all_there_is[3]",
)
"""Tests that need several devices: conftest.py makes those of a CPU, and an accelerator may be one."""
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
PACKAGES += ("opencv-python-headless", "pillow", "scipy")


class Places(NamedTuple):
    """bring: what was brought. work: stays on the machine. out: what comes back."""

    bring: Path
    work: Path
    out: Path


def is_installed(name: str) -> bool:
    """Whether a network's weights are here: a tree that is brought lacks some."""
    return registry.about(name)["installed"]


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    networks: of the default recipe, those of them that are installed. steps: of the solver. people, photos: of the
    reference; parity: faces that the CPU cloaks, too. precisions: of products, the first for parity alone. batches: of
    the bench; faces: of a row of it, None for three times the batch. tests: files. trained: networks; training: seconds
    of each; epsilon, widths, updates, held_out, checkpoints: its bound, batches, steps (None for as many as there is
    time for), people held out, validations. recipes: as of transfer.py; cloaked: faces of each. speeds: faces/s of the
    pipeline's device, "real" for the solver itself; megapixels, count, threads: of its photos.
    """

    networks: tuple[str, ...] = ENSEMBLE
    steps: int = Recipe.steps
    people: int = 10
    photos: int = 4
    parity: int = 8
    precisions: tuple[str, ...] = ("highest", "default", "bfloat16")
    batches: tuple[int, ...] = (8, 64, 256, 1024)
    faces: int | None = None
    tests: str = "test_solver.py test_batching.py test_dssim.py test_precision.py"
    trained: tuple[str, ...] = ("mobilefacenet-192", "faceres", "sface", "dlib-resnet", "mobilefacenet-512")
    training: int = 480
    epsilon: float = 2 / 255
    widths: tuple[int, ...] = (128, 256, 512)
    updates: int | None = None
    held_out: int = 32
    checkpoints: int = 6
    recipes: tuple[str, ...] = ()
    cloaked: int = 40
    speeds: tuple[str, ...] = ("300", "1000", "real")
    megapixels: float = 12.0
    count: int = 64
    threads: int = 16

    @property
    def installed(self) -> tuple[str, ...]:
        """Those of the networks, by name."""
        return tuple(name for name in (Member.parse(text).name for text in self.networks) if is_installed(name))

    def recipe(self, precision: str = "", **changes: Any) -> Recipe:
        """The default recipe with the networks that are installed here. precision: "bfloat16", or another of
        `precisions` for float32, which differ in how it is multiplied; "" for what suits the device.
        """
        members = [member for member in map(Member.parse, self.networks) if is_installed(member.name)]
        suffix = {"": "", "bfloat16": ":bfloat16"}.get(precision, ":float32")
        texts = [f"{member.name}:{member.weight:g}{suffix}" for member in members]
        return Recipe(extractors=tuple(texts), steps=self.steps, **changes)


def _levers() -> tuple[str, ...]:
    """Recipes by the dozen: what is random, smoothing, coarse part, turns, steps; every network alone and left out."""
    small = [text for text in ENSEMBLE if "web-incept" not in text]
    whole = ",".join(small)
    return (
        *(f"{whole}/turn=1/jitter={jitter}" for jitter in (0, 0.03, 0.05, 0.1)),
        *(f"{whole}/turn=1/spectrum={spectrum}" for spectrum in (0, 0.2, 0.6)),
        *(f"{whole}/turn=1/smoothing={smoothing}" for smoothing in (0.5, 1.5)),
        *(f"{whole}/turn=1/coarse={coarse}" for coarse in (0, 1.5, 6)),
        *(f"{whole}/turn={turn}" for turn in (2, 5)),
        *(f"{whole}/turn=1/steps={steps}" for steps in (80, 160)),
        *(f"{text}/turn=1" for text in small),
        *(f"{','.join(name for name in small if name != text)}/turn=1" for text in small),
        f"{whole}/turn=1/objective=away",
    )


FULL = Sizes(recipes=_levers())
DRY = Sizes(
    networks=("small",),
    steps=2,
    people=1,
    photos=2,
    parity=2,
    precisions=("highest", "bfloat16"),
    batches=(2,),
    faces=2,
    tests="",
    trained=("small",),
    widths=(2,),
    updates=2,
    held_out=2,
    checkpoints=2,
    recipes=("small:bfloat16/steps=2/turn=1",),
    cloaked=2,
    speeds=("300",),
    megapixels=1.0,
    count=2,
    threads=1,
)


def about_machine(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """The machine in words, and which networks there are."""
    del about, places, seconds_left
    sharding.configure()
    try:
        card = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    except OSError:
        card = "no nvidia-smi here"
    return {
        "machine": machine.describe(),
        "card": card,
        "versions": {name: _version(name) for name in PACKAGES},
        "networks": sizes.installed,
        "missing": registry.missing(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def parity(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """Cloaks beside those of the CPU. about: "highest", "default", or "bfloat16"."""
    del seconds_left
    sharding.configure()
    faces, cpu = cloaks.references(places.bring / carried.REFERENCE), np.load(places.bring / carried.REFERENCE)
    names = set(cpu["networks"].tolist())
    recipe = sizes.recipe(about, objective="away")
    if set(recipe.names) != names:
        here = f"here are {', '.join(recipe.names)}: run `prepare` in the tree that is brought"
        raise SystemExit(f"the reference was made with {', '.join(names)}, {here}")
    with jax.default_matmul_precision("highest" if about == "highest" else None):
        made = cloaks.solved(recipe, faces[: len(cpu["delta"])], batch=min(sizes.parity, 8))
    here, there = (np.array([cloak.delta for cloak in made]), cpu["delta"].astype(np.float32))
    flat, flat_cpu = here.reshape(len(here), -1), there.reshape(len(there), -1)
    alike = (flat * flat_cpu).sum(1) / np.maximum(np.linalg.norm(flat, axis=1) * np.linalg.norm(flat_cpu, axis=1), 1e-9)
    shift = np.array([cloak.shift for cloak in made])
    return {
        "faces": len(made),
        "cosine_of_cloaks": [round(float(value), 5) for value in alike],
        "shift": dict(zip(recipe.names, shift.mean(0).round(4).tolist(), strict=True)),
        "shift_on_cpu": dict(zip(cpu["networks"].tolist(), cpu["shift"].mean(0).round(4).tolist(), strict=True)),
        "dssim_max": max(cloak.dssim for cloak in made),
        "dssim_max_on_cpu": float(cpu["dssim"].max()),
        "rho": recipe.rho,
    }


def tests(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """Tests on the device, at the highest precision. about: their files."""
    del places, sizes
    if not about:
        return {"tests": "none"}
    # A warning of another release of a package is no finding here.
    options = ["-W", "default", *(f"--deselect=tests/{name}" for name in SEVERAL)]
    call = [sys.executable, "-m", "pytest", "-q", *options, *(f"tests/{name}" for name in about.split())]
    environment = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(call, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=seconds_left)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        said.seek(0)
        return {"code": code, "said": said.read()[-3000:]}


def speed(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """`cloak bench` on the bundled faces. about: batch and precision."""
    del places, seconds_left
    batch, precision = about.split()
    made, sections = bench.settings(
        only=("peak", "step", "solve"),
        batches=(batch,),
        devices=("1",),
        recipe=sizes.recipe(precision, objective="away"),
        photos=(ROOT / "tests" / "photos",),
        faces=sizes.faces,
        repeats=2 if sizes.faces else 5,
    )
    return bench.bench(made, sections)


def profile(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """What a chunk of steps spends its time on. about: the batch."""
    del seconds_left
    sharding.configure()
    faces = cloaks.references(places.bring / carried.REFERENCE)
    batch = int(about)
    some = [faces[index % len(faces)] for index in range(batch)]
    recipe = sizes.recipe(sizes.precisions[-1], objective="away")
    cloaks.solved(recipe, some, batch=batch)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            cloaks.solved(recipe, some, batch=batch)
        spent: Counter[str] = Counter()
        for path in Path(folder).rglob("*.trace.json.gz"):
            with gzip.open(path, "rt") as file:
                for event in json.load(file)["traceEvents"]:
                    name = event.get("name", "").split(".")[0]
                    if not name.startswith("$"):  # Python's own frames
                        spent[name] += event.get("dur", 0)
    return {
        "batch": batch,
        "precision": sizes.precisions[-1],
        "steps": recipe.steps,
        "milliseconds": {name: round(value / 1e3, 2) for name, value in spent.most_common(40)},
    }


def train(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """Robust training of a network for the time that is left; its weights come back. about: the network."""
    begun = time.monotonic()
    photos, cache = carried.unpacked(places.bring / carried.TRAINING, places.work / "faces")
    out = places.work / "trained" / about
    known = out / "size.json"
    if not known.exists():
        out.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(_fitting(about, photos, out, cache, sizes, seconds_left)))
    size = json.loads(known.read_text())
    plan = _plan(about, photos, out, cache, sizes, width=size["batch"], steps=size["steps"])
    summary: list[Summary] = []
    lines: list[str] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            summary.append(training.train(plan, restart=False, report=lines.append))
        except BaseException as error:
            failed.append(error)

    # A thread, so that what has been learnt is brought away in time; checkpoints are what the next call goes on from.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(seconds_left - (time.monotonic() - begun) - 10, 1))
    if failed:
        raise failed[0]
    if weights := carried.archived(out / "extractors" / plan.name):
        carried.put(places.out, f"{plan.name}.zip", weights)
    result = {**size, "log": lines[-5:], "unfinished": not summary}
    return {**result, "summary": summary[0].as_dict()} if summary else result


def _plan(about: str, photos: Path, out: Path, cache: Path, sizes: Sizes, *, width: int, steps: int) -> training.Plan:
    options = TrainOptions(
        preset="fast",
        steps=steps,
        batch=width,
        epsilon=sizes.epsilon,
        every=max(1, steps // sizes.checkpoints),
        validation=sizes.held_out,
        precision="float32" if jax.default_backend() == "cpu" else "bfloat16",
    )
    return training.plan(
        about, photos, out, name=None, without=(), cache=cache, options=options, together=Processes(devices=1)
    )


def _fitting(about: str, photos: Path, out: Path, cache: Path, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """The batch from which on a larger one gains nothing, and how many steps of it fill the time."""
    begun, rates = time.monotonic(), dict[int, float]()
    for width in sizes.widths if sizes.updates is None else ():
        try:
            cost = training.cost(_plan(about, photos, out, cache, sizes, width=width, steps=100)).cost
        except jax.errors.JaxRuntimeError:  # the memory is full
            break
        rates[width] = width / cost.seconds
        if time.monotonic() - begun > TRIED * seconds_left:
            break
        if len(rates) > 1 and rates[width] < (1 + CLOSE) * max(
            rate for narrower, rate in rates.items() if narrower < width
        ):
            break
    if not rates:
        return {"batch": sizes.widths[0], "steps": sizes.updates or 100, "faces_per_s": {}}
    best = max(rates, key=lambda width: rates[width])
    time_for = max(seconds_left - (time.monotonic() - begun) - RESERVE, RESERVE)
    return {"batch": best, "steps": max(100, int(time_for * rates[best] / best)), "faces_per_s": rates}


def recipe(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """Cloaks by a recipe; their changes come back. about: as of transfer.py."""
    del seconds_left
    sharding.configure()
    faces = cloaks.references(places.bring / carried.REFERENCE)[: sizes.cloaked]
    made = cloaks.solved(parsed(about), faces, batch=min(len(faces), sharding.ACCELERATOR_SLOTS))
    return {
        "file": cloaks.keep_deltas(places.out, about, made),
        "faces": len(made),
        "dssim_mean": float(np.mean([cloak.dssim for cloak in made])),
        "shift": dict(
            zip(parsed(about).names, np.mean([cloak.shift for cloak in made], axis=0).round(4).tolist(), strict=True)
        ),
    }


def stream(about: str, places: Places, sizes: Sizes, seconds_left: float) -> dict[str, Any]:
    """Photos from file to file with a device of a given speed, or the solver itself. about: faces/s, or real."""
    del places, seconds_left
    people = [photo.read(path).pixels for path in sorted((ROOT / "tests" / "photos").iterdir())]
    (speed,) = pipeline.numbers(about)
    trial = pipeline.Trial(sizes.megapixels, speed, sizes.threads, networks=sizes.recipe().extractors)
    with tempfile.TemporaryDirectory() as folder:
        place = pipeline.make(Path(folder), people, sizes.megapixels, sizes.count)
        if sizes.updates is not None:  # a dry run starts no process
            answers: queue.Queue[dict[str, Any]] = queue.Queue()
            pipeline.worker(trial, 0, place, Path(folder) / "out", threading.Barrier(1), answers)
            return pipeline.row(trial, [answers.get()], sizes.count)
        return pipeline.measure(trial, place)


KINDS: dict[str, Callable[[str, Places, Sizes, float], dict[str, Any]]] = {
    "machine": about_machine,
    "parity": parity,
    "tests": tests,
    "bench": speed,
    "profile": profile,
    "train": train,
    "recipe": recipe,
    "pipeline": stream,
}
