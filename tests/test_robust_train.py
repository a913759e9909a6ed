"""engine.robust.train: the losses are what they say, training lowers them, and no split of a batch matters."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_robust
from flax import nnx

from engine.checkpoint import flatten
from engine.config import CANVAS
from engine.extractors import Extractor, InputSpec, embed_batch
from engine.extractors.order import layers
from engine.robust import distributed, freezing, train
from engine.robust import head as heads
from engine.robust.adversary import Attack
from engine.robust.train import Batch, Losses, Optimiser, State, Training

pytestmark = pytest.mark.usefixtures("quick_compiles")

COUNT = 8
ATTACK = Attack(4 / 255, 1, 4 / 255)
OPTIMISER = Optimiser(learning_rate=2e-3, warmup=0.0)
DISTILLED = Training(ATTACK, Losses(distillation=1.0), 12, OPTIMISER)


def extractor() -> Extractor:
    graphdef, state = nnx.split(tiny_robust.Network(rngs=nnx.Rngs(5)))
    spec = InputSpec(size=tiny_robust.SIZE, window=(32.0, 144.0), mean=(127.5, 127.5, 127.5), scale=64.0)
    return Extractor(nnx.to_pure_dict(state), "small", spec, graphdef, tiny_robust.DIM, "0" * 64)


CLEAN = extractor()


def batch() -> Batch:
    canvas = np.stack([tiny_robust.face(person, 0) for person in range(COUNT)])
    return Batch(
        canvas=jnp.asarray(canvas),
        window=jnp.tile(jnp.array(CLEAN.spec.window, jnp.float32), (COUNT, 2, 1)),
        label=jnp.arange(COUNT, dtype=jnp.int32),
        anchor=embed_batch(CLEAN, canvas.astype(np.float32) / 255),
        noise=jnp.arange(COUNT, dtype=jnp.uint32),
    )


BATCH = batch()
OBJECTIVE = jax.jit(train.objective, static_argnums=0)


def rows(first: int, last: int) -> Batch:
    return jax.tree.map(lambda leaf: leaf[first:last], BATCH)


def trained(training: Training, *, batches: list[Batch], head: jax.Array | None = None) -> tuple[State, list[dict]]:
    state = train.init(training, CLEAN, head=head)
    figures_by_step = []
    for examples in batches:
        state, figures = train.step(training, CLEAN, state, examples)
        figures_by_step.append({name: float(value) for name, value in figures.items()})
    return state, figures_by_step


def assert_close(state: State, expected: State, *, atol: float) -> None:
    for name, leaf in state.trained.items():
        np.testing.assert_allclose(leaf, expected.trained[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("replays", [0, 4])
def test_training_lowers_the_loss_on_adversarial_examples(replays: int) -> None:
    _, figures = trained(replace(DISTILLED, replays=replays), batches=[BATCH] * 12)
    losses = [row["loss"] for row in figures]
    assert losses[-1] < 0.7 * losses[0]
    assert figures[-1]["shift"] < 0.9 * figures[0]["shift"]


def test_each_loss_is_its_formula() -> None:
    """Against NumPy, from the embeddings of the clean and the changed crops."""
    weights = Losses(classification=0.5, consistency=2.0, distillation=1.0, clean=3.0)
    training = Training(ATTACK, weights, 1, OPTIMISER)
    head = jnp.asarray(np.random.default_rng(1).standard_normal((COUNT, CLEAN.dim)), jnp.float32)
    state = train.init(training, CLEAN, head=head)
    crops = train.crops_of(CLEAN, BATCH.canvas, BATCH.window)
    changes = jnp.asarray(np.random.default_rng(2).uniform(-0.03, 0.03, crops.shape), jnp.float32)
    anchor = jnp.roll(BATCH.anchor, 1, axis=0)
    loss, terms = OBJECTIVE(training, CLEAN, state.trained, BATCH._replace(anchor=anchor), crops, changes)

    def embedded(x: jax.Array) -> np.ndarray:
        raw = jax.jit(jax.vmap(nnx.merge(CLEAN.graphdef, CLEAN.params)))((x * 255 - 127.5) / 64)
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    plain, harmed = embedded(crops), embedded(crops + changes)
    unit = head / np.linalg.norm(head, axis=1, keepdims=True)
    logits = heads.SCALE * harmed @ unit.T
    expected = {
        "classification": float(np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))),
        "consistency": float(((harmed - plain) ** 2).sum(axis=1).mean()),
        "distillation": float(((harmed - np.asarray(anchor)) ** 2).sum(axis=1).mean()),
        "clean": float(((plain - np.asarray(anchor)) ** 2).sum(axis=1).mean()),
    }
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name
    assert float(loss) == pytest.approx(sum(getattr(weights, name) * expected[name] for name in expected), rel=1e-4)


def test_accumulated_batches_are_one_large_batch() -> None:
    whole, _ = trained(DISTILLED, batches=[BATCH] * 2)
    parts = replace(DISTILLED, optimiser=replace(OPTIMISER, accumulate=2))
    halves, _ = trained(parts, batches=[rows(0, 4), rows(4, 8)] * 2)
    assert_close(halves, whole, atol=2e-5)


def test_eight_devices_are_one_device() -> None:
    """Within a fortieth of what the steps change: the devices' smaller batches sum floats in another order."""

    single, _ = trained(DISTILLED, batches=[BATCH] * 3)
    mesh = distributed.mesh(8)
    clean = distributed.copied(CLEAN, mesh)
    eight = distributed.copied(train.init(DISTILLED, clean), mesh)
    for _ in range(3):
        eight, figures = train.step(DISTILLED, clean, eight, distributed.spread(BATCH, mesh))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves((eight, figures))} == {8}
    assert_close(eight, single, atol=5e-5)
    begun = flatten(CLEAN.params)
    assert max(float(np.abs(leaf - begun[name[8:]]).max()) for name, leaf in single.trained.items()) > 2e-3


def test_bfloat16_trains_alike_and_keeps_float32_weights() -> None:
    half = replace(CLEAN, precision="bfloat16")
    state = train.init(DISTILLED, half)
    losses: list[float] = []
    for _ in range(12):
        state, figures = train.step(DISTILLED, half, state, BATCH)
        losses.append(float(figures["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert {leaf.dtype for leaf in state.trained.values()} == {np.dtype(np.float32)}


def test_frozen_layers_stay_and_the_others_move() -> None:
    frozen = freezing.lower(tiny_robust.build, 0.34)
    assert frozen == {"stem/kernel", "stem/bias"}
    state = train.init(DISTILLED, CLEAN, frozen=frozen)
    state, _ = train.step(DISTILLED, CLEAN, state, BATCH)
    begun, after = flatten(CLEAN.params), flatten(train.network(CLEAN, state.trained).params)
    assert {name for name in begun if np.array_equal(begun[name], after[name])} == frozen


def test_layers_are_counted_in_the_order_in_which_they_run() -> None:
    assert [path for path, _ in layers(tiny_robust.build)] == ["stem", "body", "bottleneck"]
    assert freezing.named(tiny_robust.build, ["body", "stem/bias"]) == {"body/kernel", "body/bias", "stem/bias"}
    with pytest.raises(ValueError, match="below 'block'; there are stem, body, bottleneck"):
        freezing.named(tiny_robust.build, ["block"])
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        freezing.lower(tiny_robust.build, 1.0)


def test_a_head_of_means_names_everybody() -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 3)
    faces = draw.standard_normal((5, CLEAN.dim))[labels] + 0.2 * draw.standard_normal((15, CLEAN.dim))
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
    head = jnp.asarray(heads.of_means(faces, labels))
    labels_told = [int(jnp.argmax(heads.logits(head, jnp.asarray(face)))) for face in faces]
    assert labels_told == labels.tolist()
    with pytest.raises(ValueError, match="number 1 has none"):
        heads.of_means(faces[:2], np.array([0, 2]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Losses(), "one must be positive"),
        (lambda: Losses(distillation=1.0, clean=-1.0), "not be negative"),
        (lambda: replace(DISTILLED, replays=2, optimiser=Optimiser(accumulate=2)), "without accumulation"),
        (lambda: replace(DISTILLED, replays=2, losses=Losses(clean=1.0)), "a loss on adversarial examples"),
        (lambda: Optimiser(learning_rate=0.0), "must be positive"),
        (lambda: train.init(DISTILLED, CLEAN, frozen=frozenset(flatten(CLEAN.params))), "everything is frozen"),
        (lambda: train.init(DISTILLED, CLEAN, frozen=frozenset({"tail"})), "has no parameters tail"),
        (lambda: train.init(DISTILLED, CLEAN, head=jnp.ones((2, 16))), "only there"),
        (lambda: distributed.mesh(9), "devices must be 1 to 8"),
    ],
)
def test_what_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_crops_are_the_ones_the_extractor_would_cut() -> None:
    """A training photo with the plain window is what `embed_batch` sees: its distance to its anchor is nothing."""
    training = Training(ATTACK, Losses(clean=1.0), 1, OPTIMISER)
    state = train.init(training, CLEAN)
    crops = train.crops_of(CLEAN, BATCH.canvas, BATCH.window)
    assert crops.shape == (COUNT, tiny_robust.SIZE, tiny_robust.SIZE, 3)
    assert BATCH.canvas.shape == (COUNT, CANVAS, CANVAS, 3)
    _, terms = OBJECTIVE(training, CLEAN, state.trained, BATCH, crops, jnp.zeros_like(crops))
    assert float(terms["clean"]) < 1e-9
