"""Gradient descent on photos: one loop, its schedule and its record, for every network that an evaluation trains.

A model is a pytree of weights, an example a pytree of arrays (a canvas, its label, ...). An objective is a function of
the two. What is learnt is the objective's own affair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from engine.evaluate.views import Range

Model = TypeVar("Model")
Objective = Callable[[Any, Any, PRNGKeyArray, Range], tuple[Float[Array, ""], Float[Array, ""]]]
"""(model, one example, key, how far a look may be off) -> (loss, 1 if the example is named rightly else 0)."""

LOOK = Range()


@dataclass(frozen=True)
class Schedule:
    """AdamW (Loshchilov and Hutter, ICLR 2019): the rate rises over the first twentieth of the steps and falls to zero
    along a cosine.

    epochs: passes over the examples; more if that makes fewer than `least` steps. batch: examples a step. rate: the
    highest. decay: of matrices and kernels, not of biases and scales. look: the augmentation. watch: how many times the
    tests are named on the way, the last time at the end.
    """

    epochs: int
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.0
    look: Range = LOOK
    watch: int = 10
    least: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "watch", "least"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive; got {self.rate}")


@dataclass(frozen=True)
class History:
    """History of a training.

    loss, accuracy: of the augmented training examples, mean of each epoch. epochs: those after which the tests were
    named, counted from 1. named: (e, m), what each test was called then, a label or NOBODY.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    epochs: tuple[int, ...]
    named: Int[np.ndarray, "e m"]

    def right(self, truth: Int[np.ndarray, "m"], which: slice = slice(None)) -> tuple[float, ...]:
        """After each of `epochs`, the share of the tests `which` that were called by their true label."""
        hits = (self.named == np.asarray(truth)[None])[:, which]
        return tuple(float(np.mean(row)) if row.size else float("nan") for row in hits)


class _State(NamedTuple):
    model: Any
    optimiser: Any
    loss: Float[Array, ""]
    right: Float[Array, ""]


def fit(
    model: Model,
    examples: Any,
    *,
    objective: Objective,
    schedule: Schedule,
    key: PRNGKeyArray,
    after: Callable[[int, Model], None] = lambda epoch, model: None,
) -> tuple[Model, tuple[float, ...], tuple[float, ...]]:
    """The trained model, and its loss and accuracy by epoch.

    examples: arrays of one leading axis n. objective: hashable, compiled once for each shape. after: called with the
    number of the epoch, from 1, and the model whenever the schedule watches. Raises ValueError for no examples and
    FloatingPointError if the loss is no longer finite.
    """
    count = len(jax.tree.leaves(examples)[0])
    if not count:
        raise ValueError("there is nothing to learn from: no examples")
    batches = -(-count // schedule.batch)
    epochs = max(schedule.epochs, -(-schedule.least // batches))
    steps = batches * epochs
    watched = set(np.linspace(epochs, 0, schedule.watch, endpoint=False).round().astype(int).tolist())
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    # Leaves keep their own type, not a Python number's. Else the second step, given the first one's, is compiled anew.
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), model)
    zero = jnp.zeros(())
    state = _State(model, _optimiser(schedule, steps).init(model), zero, zero)  # type: ignore[arg-type]
    losses, accuracies = [], []
    for epoch in range(epochs):
        state = state._replace(loss=zero, right=zero)
        # The last batch is filled up from the beginning of the same order, so that all have one shape.
        order = np.resize(random.permutation(count), batches * schedule.batch).reshape(batches, -1)
        for index, rows in enumerate(order):
            batch = jax.tree.map(lambda column, rows=rows: column[rows], examples)
            step_key = jax.random.fold_in(key, epoch * batches + index)
            state = _step(state, batch, step_key, objective=objective, schedule=schedule, steps=steps)
        losses.append(float(state.loss) / batches)
        accuracies.append(float(state.right) / batches)
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} after epoch {epoch + 1}; try a lower rate")
        if epoch + 1 in watched:
            after(epoch + 1, state.model)
    return state.model, tuple(losses), tuple(accuracies)


def _optimiser(schedule: Schedule, steps: int) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, schedule.rate, max(1, steps // 20), max(2, steps))
    return optax.adamw(
        rate,
        weight_decay=schedule.decay,
        mask=lambda model: jax.tree.map(lambda leaf: leaf.ndim > 1, model),
    )


@functools.partial(jax.jit, static_argnames=("objective", "schedule", "steps"))
def _step(state, batch, key, *, objective, schedule, steps):
    def mean(model):
        keys = jax.random.split(key, schedule.batch)
        loss, right = jax.vmap(lambda example, example_key: objective(model, example, example_key, schedule.look))(
            batch, keys
        )
        return jnp.mean(loss), jnp.mean(right)

    (loss, right), gradient = jax.value_and_grad(mean, has_aux=True)(state.model)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of integer counts
        update, optimiser = _optimiser(schedule, steps).update(gradient, state.optimiser, state.model)
    model = optax.apply_updates(state.model, update)
    return _State(model, optimiser, state.loss + loss, state.right + right)


def batched(
    function: Callable[[Model, np.ndarray], Array], model: Model, canvases: np.ndarray, *, size: int = 32
) -> np.ndarray:
    """function(model, uint8 (size, c, c, 3)) over any number of canvases, always at one shape; (n, ...) float32."""
    rows = []
    for start in range(0, len(canvases), size):
        part = canvases[start : start + size]
        filled = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
        rows.append(np.asarray(function(model, filled))[: len(part)])
    return np.concatenate(rows)
