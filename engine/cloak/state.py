"""The state that every solver shares, and how the best feasible iterate is kept on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class State(NamedTuple):
    """One face half-way. vmap over a batch.

    variable: what the solver changes. memory: its momentum or optimiser state. best: the best feasible cloak so
    far, (c, c, 3), zero if none. best_gain: its gain, -inf if none. step: steps done.
    """

    variable: Any
    memory: Any
    best: Float[Array, "c c 3"]
    best_gain: Float[Array, ""]
    step: Int[Array, ""]


def start(variable: Any, memory: Any, like: Float[Array, "c c 3"]) -> State:
    """A state in which nothing feasible has been seen."""
    return State(variable, memory, jnp.zeros_like(like), jnp.float32(-jnp.inf), jnp.int32(0))


def keep(state: State, candidate: Array, *, gain: Array, feasible: Array) -> State:
    """The state with `candidate` as best if it is feasible and better."""
    better = feasible & (gain > state.best_gain)
    return state._replace(
        best=jnp.where(better, candidate, state.best), best_gain=jnp.where(better, gain, state.best_gain)
    )


def step_key(key: Array, step: Array) -> Array:
    """The key of one step of one face: the same in any batch, and however the steps are split into calls."""
    return jax.random.fold_in(key, step)
