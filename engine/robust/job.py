"""Training, ready to begin: network, faces, who is held out; and what it will cost, before it begins."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from engine.config import CANVAS, Precision
from engine.extractors import Extractor, load
from engine.extractors.registry import loadable
from engine.robust import data, distributed, freezing, train
from engine.robust import head as heads
from engine.robust.adversary import Attack
from engine.robust.data import Split
from engine.robust.presets import Preset
from engine.robust.store import Progress, Store
from engine.robust.train import Batch, State, Training


@dataclass(frozen=True)
class Options:
    """How a preset is run.

    steps: instead of the preset's epochs. every: steps between checkpoints, each after a validation. held_out: people
    for validation, two photos each. check_steps: of the PGD that validation attacks with, at the preset's epsilon.
    freeze: share of the network's lower layers that stay as they are. frozen: names or prefixes of more of them.
    precision: of the network's products; weights, gradients and pixels stay float32. devices: how many of a process
    that is alone, all by default. Raises ValueError for numbers outside their range.
    """

    steps: int | None = None
    every: int = 200
    held_out: int = 32
    check_steps: int = 10
    freeze: float = 0.0
    frozen: tuple[str, ...] = ()
    precision: Precision = "float32"
    devices: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if self.every < 1 or self.check_steps < 1:
            raise ValueError(f"every and check_steps must be at least 1; got {self.every} and {self.check_steps}")
        if self.seed < 0:
            raise ValueError(f"--seed must be 0 or more; got {self.seed}")


class Job(NamedTuple):
    """A training before its first step. extractor: the clean one, on every device. check: what validation attacks
    with. settings: all that decides its result, as JSON can hold it.
    """

    extractor: Extractor
    frozen: frozenset[str]
    head: jax.Array | None
    canvases: np.ndarray
    anchors: np.ndarray
    part: Split
    training: Training
    check: Attack
    mesh: Mesh
    settings: dict[str, Any]


def prepare(
    extractor: str,
    people: Mapping[str, list[Path]],
    *,
    preset: Preset,
    options: Options,
    store: Store,
    progress: Progress | None = None,
) -> Job:
    """Align the faces of all photos, embed them by the clean extractor, and draw who is held out.

    people: the photos of each, as `data.photos_of` gives them. Raises ValueError for an extractor, people or options
    that cannot be used.
    """
    mesh = _mesh(preset, options)
    build = loadable(extractor).build
    frozen = freezing.lower(build, options.freeze) | freezing.named(build, options.frozen)
    paths = [path for photos in people.values() for path in photos]
    aligned = iter(store.align(paths, progress=progress).tolist())
    rows = {name: [next(aligned) for _ in photos] for name, photos in people.items()}
    part = data.split(rows, held_out=options.held_out, seed=options.seed)
    anchors = store.embeddings(load(extractor), progress=progress)
    training = preset.training(options.steps or preset.steps(len(part.rows)))
    clean = load(extractor, precision=options.precision)
    settings = {
        "extractor": extractor,
        "weights": clean.weights_sha256,
        "faces": part.sha256(store.photos()),
        "training": asdict(training),
        "batch": preset.batch,
        "guard": None if preset.guard is None else asdict(preset.guard),
        "augmentation": asdict(preset.augmentation),
        "every": options.every,
        "check_steps": options.check_steps,
        "frozen": sorted(frozen),
        "precision": options.precision,
        "seed": options.seed,
    }
    return Job(
        extractor=distributed.copied(clean, mesh),
        frozen=frozen,
        head=jnp.asarray(heads.of_means(anchors[part.rows], part.labels)) if training.with_head else None,
        canvases=store.canvases(),
        anchors=anchors,
        part=part,
        training=training,
        check=_check(preset.attack, options.check_steps),
        mesh=mesh,
        settings=settings,
    )


def _check(attack: Attack, steps: int) -> Attack:
    """The attack of validation: so many steps within the same bound, aimed at the embedding."""
    size = attack.epsilon / 4 if attack.norm == "linf" else attack.step_size
    return Attack(attack.epsilon, steps, size, norm=attack.norm)


def begin(job: Job) -> State:
    """The state before the first step, on every device."""
    state = train.init(job.training, job.extractor, frozen=job.frozen, head=job.head)
    return distributed.copied(state, job.mesh)


class Cost(NamedTuple):
    """passes: forward and backward through the network for each face of a step. faces: of a step. seconds: of a step,
    measured. validation: seconds of a validation, from its passes at the same rate. total: seconds of all.
    """

    steps: int
    faces: int
    passes: int
    seconds: float
    validation: float
    total: float


def estimate(extractor: str, photos: int, people: int, *, preset: Preset, options: Options) -> Cost:
    """Cost of a training on so many photos, by timing one step (after one that compiles) on random pixels.

    Raises ValueError as `prepare`.
    """
    mesh = _mesh(preset, options)
    build = loadable(extractor).build
    frozen = freezing.lower(build, options.freeze) | freezing.named(build, options.frozen)
    clean = distributed.copied(load(extractor, precision=options.precision), mesh)
    training = preset.training(options.steps or preset.steps(photos))
    head = jnp.ones((people, clean.dim)) if training.with_head else None
    state = distributed.copied(train.init(training, clean, frozen=frozen, head=head), mesh)
    pixels = np.random.default_rng(0).integers(0, 256, (preset.batch, CANVAS, CANVAS, 3), np.uint8)
    batch = Batch(
        canvas=jnp.asarray(pixels),
        window=jnp.tile(jnp.array(clean.spec.window_yx, jnp.float32), (preset.batch, 1, 1)),
        label=jnp.zeros(preset.batch, jnp.int32),
        anchor=jnp.full((preset.batch, clean.dim), clean.dim**-0.5),
        noise=jnp.arange(preset.batch, dtype=jnp.uint32),
    )
    batch = distributed.spread(batch, mesh)
    state, _ = jax.block_until_ready(train.step(training, clean, state, batch))
    begun = time.perf_counter()
    jax.block_until_ready(train.step(training, clean, state, batch))
    seconds = (time.perf_counter() - begun) * training.optimiser.accumulate
    faces = preset.batch * training.optimiser.accumulate
    validation = seconds / (faces * training.passes) * options.held_out * (options.check_steps + 1)
    validations = 1 + -(-training.steps // options.every)  # before the first step, and at every checkpoint
    total = training.steps * seconds + validations * validation
    return Cost(training.steps, faces, training.passes, seconds, validation, total)


def _mesh(preset: Preset, options: Options) -> Mesh:
    mesh = distributed.mesh(options.devices)
    if preset.batch % mesh.size:
        raise ValueError(f"a batch of {preset.batch} cannot be split over {mesh.size} devices; give a multiple")
    return mesh
