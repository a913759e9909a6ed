"""The solver of the released Fawkes 1.0.4, as its code runs it: the baseline of every comparison.

It runs Adadelta on a tanh-space modifier, with the change clipped to 15 grey levels. The loss has a squared penalty for
DSSIM past the threshold, and a weight on the distance that doubles and halves. All of it was read from the PyPI package
`fawkes==1.0.4` (`differentiator.py`). tests/test_fawkes1.py holds it to a recorded run of that package. Two of the
package's ways are kept although they can pass the budget. It counts 1.1 times the threshold as inside, and it may keep
the last iterate below .015. The caller's check on the written file catches both.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from engine.cloak import projection
from engine.cloak.objective import Extractors, Problem, embeddings
from engine.cloak.state import State, keep, start, step_key
from engine.config import Recipe

SQUASH = 2 - 1e-6
BOUND = 15 / 255
START = 1e-4
NUDGE = 0.01
INSIDE, OUTSIDE = 0.9, 1.1
HEAVIEST = 129.0
LAST_RESORT_GAIN, LAST_RESORT_DSSIM = 0.3, 0.015
PENALTY = 1e6
"""Weight of the penalty, as on the command line; the package's Python default is 1e7."""
RATES = ((0.004, 25.0), (0.012, 20.0), (1.0, 15.0))
"""Adadelta's learning rate by threshold, from the package's three modes."""
OPTIMISER = optax.scale_by_adadelta(rho=0.95, eps=1e-7)


class Memory(NamedTuple):
    """adadelta: the optimiser's state. weight: g, on the distance. side: +1 inside the budget, -1 outside, 0 at it."""

    adadelta: optax.OptState
    weight: Float[Array, ""]
    side: Float[Array, ""]


def rate_of(recipe: Recipe) -> float:
    """The learning rate that the package's modes have at this threshold."""
    return next(rate for threshold, rate in RATES if recipe.rho <= threshold)


def _delta(face: Problem, modifier: Array) -> Array:
    anchor = jnp.arctanh((face.original.image - 0.5) * SQUASH)
    free = jnp.tanh(anchor + modifier) / SQUASH + 0.5 - face.original.image
    # Not `projection.shape`: the package clips to black and white only at the end, and tanh stays within them.
    return jnp.where(face.grey, free.mean(-1, keepdims=True), free).clip(-BOUND, BOUND) * face.mask


def _distance(recipe: Recipe, face: Problem, found: tuple[Array, ...]) -> Array:
    # The package has no weights: a weight of 1 is its sum.
    squared = jnp.stack([((a - b) ** 2).sum() for a, b in zip(found, face.target, strict=True)])
    total = (jnp.array(recipe.weights) * squared).sum()
    return -total if recipe.objective == "target" else total


def init(recipe: Recipe, face: Problem) -> State:
    """A modifier of uniform noise of 1e-4."""
    del recipe
    noise = jax.random.uniform(step_key(face.key, jnp.int32(-1)), face.original.image.shape, minval=-1.0)
    return from_modifier(face, START * noise)


def from_modifier(face: Problem, modifier: Float[Array, "c c 3"]) -> State:
    """The state in which the package's loop starts from this modifier."""
    memory = Memory(OPTIMISER.init(modifier), jnp.float32(1), jnp.float32(1))
    return start(face, modifier, memory)


def step(
    recipe: Recipe,
    extractors: Extractors,
    face: Problem,
    state: State,
    *,
    rate: float | None = None,
    penalty: float = PENALTY,
) -> State:
    """One pass of the package's loop: judge the iterate, update the modifier, then the weight for the next pass."""
    if recipe.steps == 1:
        # The first pass judges noise that changes no pixel, so a schedule of one step judges its one update too.
        both = replace(recipe, steps=2)
        state = step(both, extractors, face, state, rate=rate, penalty=penalty)
        state = step(both, extractors, face, state, rate=rate, penalty=penalty)
        return state._replace(step=jnp.ones_like(state.step))
    rate = rate_of(recipe) if rate is None else rate

    def loss(modifier: Array) -> tuple[Array, tuple]:
        delta = _delta(face, modifier)
        found = embeddings(extractors, face.original.image + delta)
        distance = _distance(recipe, face, found)
        dssim = projection.cost(face, delta)
        over = jnp.maximum(dssim - recipe.rho, 0.0)
        return penalty * over**2 - state.memory.weight * distance, (delta, found, distance, dssim)

    gradient, (delta, found, distance, dssim) = jax.grad(loss, has_aux=True)(state.variable)
    update, adadelta = OPTIMISER.update(gradient, state.memory.adadelta)
    first = state.step == 0
    modifier = state.variable - rate * jnp.asarray(update) - jnp.where(first, NUDGE * jnp.sign(gradient), 0.0)
    adadelta = jax.tree.map(lambda now: jnp.where(first, jnp.zeros_like(now), now), adadelta)

    judge = partial(keep, face, candidate=delta, found=found, gain=distance)
    state = judge(state, feasible=dssim <= OUTSIDE * recipe.rho)
    last = (state.step == recipe.steps - 1) & (state.best_gain < LAST_RESORT_GAIN)
    state = judge(state, feasible=last & (dssim < LAST_RESORT_DSSIM))
    memory = Memory(adadelta, *_weigh(recipe, state.memory, dssim))
    return state._replace(variable=modifier, memory=memory, step=state.step + 1)


def _weigh(recipe: Recipe, memory: Memory, dssim: Array) -> tuple[Array, Array]:
    """The next weight and side: doubling while inside the budget, halving while outside, 1 at every crossing."""
    weight, side = memory.weight, memory.side
    below = (dssim <= INSIDE * recipe.rho) & (weight <= HEAVIEST)
    above = (dssim >= OUTSIDE * recipe.rho) & (weight >= 1 / HEAVIEST)
    raised = jnp.where(side == -1, 1.0, weight * 2)
    lowered = jnp.where(side == 1, 1.0, weight / 2)
    new_weight = jnp.where(below, raised, jnp.where(above, lowered, 1.0))
    return new_weight, jnp.where(below, 1.0, jnp.where(above, -1.0, 0.0))
