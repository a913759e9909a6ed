"""The state that every solver shares, and how the best feasible iterate is kept on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from engine.cloak.objective import Problem, distances


class State(NamedTuple):
    """One face half-way. vmap over a batch.

    variable: what the solver changes. memory: its momentum or optimiser state. best: the best feasible cloak so
    far, (c, c, 3), zero if none. best_gain: its gain, -inf if none. shift: how far it moves each extractor's embedding.
    lead: where the embeddings went first, of length one, zero until that is known. step: steps done.
    """

    variable: Any
    memory: Any
    best: Float[Array, "c c 3"]
    best_gain: Float[Array, ""]
    shift: Float[Array, "k"]
    lead: tuple[Float[Array, "_d"], ...]
    step: Int[Array, ""]


def start(face: Problem, variable: Any, memory: Any) -> State:
    """A state in which nothing feasible has been seen."""
    nothing = jnp.zeros_like(face.original.image)
    lead = tuple(map(jnp.zeros_like, face.clean))
    return State(variable, memory, nothing, jnp.float32(-jnp.inf), jnp.zeros(len(face.clean)), lead, jnp.int32(0))


def keep(
    face: Problem, state: State, candidate: Array, *, found: tuple[Array, ...], gain: Array, feasible: Array
) -> State:
    """The state with `candidate` as best if it is feasible and better; found: its embeddings."""
    better = feasible & (gain > state.best_gain)
    return state._replace(
        best=jnp.where(better, candidate, state.best),
        best_gain=jnp.where(better, gain, state.best_gain),
        shift=jnp.where(better, distances(found, face.clean), state.shift),
    )


def seeded(seed: Array | int) -> Array:
    """The key of a seed, of one kind whatever JAX is set to (`jax_default_prng_impl`): cloaks depend on it."""
    return jax.random.key(seed, impl="threefry2x32")


def step_key(key: Array, step: Array) -> Array:
    """The key of one step of one face: the same in any batch, and however the steps are split into calls."""
    return jax.random.fold_in(key, step)
