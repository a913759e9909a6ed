"""The paper's solver (Shan et al. 2020, sections 4.2 and 5.1): Adam in tanh space, the budget as a penalty.

min Dist(E(x + d), E(target)) + penalty * max(DSSIM - rho, 0). With objective "away" the first term is minus the
distance from the clean embedding, as in the released code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from engine.cloak import projection
from engine.cloak.objective import Extractors, Problem, embeddings, gain
from engine.cloak.state import State, keep, start, step_key
from engine.config import Recipe

RATE = 0.05
"""The paper says .5 and not of which units. Here the image is tanh of the variable. A rate of .5 throws the first
iterates far past any budget, and hundreds of steps do not bring them back. A tenth of it comes back within some tens of
steps."""
PENALTY = 1000.0
"""Weight of DSSIM past the budget, which the paper does not state."""
NOISE = 1e-2
OPTIMISER = optax.adam(RATE)


def _delta(face: Problem, variable: jax.Array) -> jax.Array:
    cloaked = (jnp.tanh(variable) + 1) / 2
    return projection.shape(face, cloaked - face.original.image)


def init(recipe: Recipe, face: Problem) -> State:
    """The clean image in tanh space, and a little noise, since the gradient there may be zero."""
    del recipe
    inside = jnp.clip(face.original.image * 2 - 1, -1 + 1e-3, 1 - 1e-3)
    noise = NOISE * jax.random.normal(step_key(face.key, jnp.int32(-1)), inside.shape)
    variable = jnp.arctanh(inside) + noise
    return start(face, variable, OPTIMISER.init(variable))


def step(recipe: Recipe, extractors: Extractors, face: Problem, state: State) -> State:
    """One Adam step; the iterate it starts from is kept if it is feasible and the best so far."""

    def loss(variable: jax.Array) -> tuple[jax.Array, tuple]:
        delta = _delta(face, variable)
        found = embeddings(extractors, face.original.image + delta)
        reached, dssim = gain(recipe, face, found), projection.cost(face, delta)
        return -reached + PENALTY * jnp.maximum(dssim - recipe.rho, 0.0), (delta, found, reached, dssim)

    gradient, (delta, found, reached, dssim) = jax.grad(loss, has_aux=True)(state.variable)
    state = keep(face, state, delta, found=found, gain=reached, feasible=dssim <= recipe.rho)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its integer count
        update, memory = OPTIMISER.update(gradient, state.memory)
    return state._replace(variable=optax.apply_updates(state.variable, update), memory=memory, step=state.step + 1)
