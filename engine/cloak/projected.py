"""Default solver: preconditioned gradient ascent with momentum, every iterate projected into the budget.

All three channels change alike, unless the recipe asks for colour. DSSIM hardly counts colour, so a cloak free to use
it turns eyes green and brows blue. JPEG's coarse chroma erases it. So colour moves embeddings further in a PNG, but
less far in a JPEG of quality 75. There the budget is spent on what is lost. No pixel changes by more than the recipe's
cap, as single ones would show.

A face's embeddings can go many ways, and the distance from where they were prefers none. So which way they go is
decided by the first steps, in each network anew. From step `LEAD` on the way that they went is wanted too. It is what
all networks of the ensemble found together, and a linear goal. That moves networks that took no part further.

The projection scales the cloak down to its DSSIM budget (`dssim.largest_scale`), so every iterate is feasible and
no penalty weight has to be found. The step shrinks as a cosine over the recipe's steps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from engine.cloak import projection
from engine.cloak.objective import Extractors, Problem, gain
from engine.cloak.state import State, keep, start, step_key
from engine.cloak.transforms import seen
from engine.config import LEAD, Recipe

NOISE = 16 / 255
"""Standard deviation of the noise at the start, before it is brought into a tenth of the budget."""
STEP = 0.02
"""First step, root mean square over the canvas, in units of the [0, 1] range, at rho .007."""
REACH = 4
"""The momentum is 1 - REACH / steps, .93 at the usual 60. A momentum that remembers more steps than a schedule can
spare never gathers pace. At 15 steps and the same DSSIM, .9 moved embeddings less far (1.59 for 1.69, one trial on 4
faces)."""


def init(recipe: Recipe, face: Problem) -> State:
    """A tenth of the budget of smooth noise: at the clean image itself the gradient of the distance is zero."""
    shape = (*face.original.image.shape[:2], 3 if recipe.colour else 1)
    noise = jax.random.normal(step_key(face.key, jnp.int32(-1)), shape)
    noise = projection.smooth(noise, sigma=recipe.smoothing)
    delta = projection.budget(face, projection.shape(face, NOISE * noise), rho=recipe.rho / 10)
    return start(face, delta, jnp.zeros(shape))


def pull(
    recipe: Recipe, extractors: Extractors, face: Problem, state: State, *, members: tuple[int, ...]
) -> Float[Array, "c c _k"]:
    """Gradient of the gain by the cloak. extractors: those of `members`, one of `recipe.turns`."""

    def ascent(delta: Array) -> Array:
        canvas, key = face.original.image + delta, step_key(face.key, state.step)
        found = seen(recipe, extractors, canvas, key=key, members=members)
        return gain(recipe, face, found, members=members, lead=_lead(recipe, state))

    gradient = jax.grad(ascent)(state.variable) * face.mask
    return gradient if recipe.colour else gradient.mean(axis=-1, keepdims=True)


def move(
    recipe: Recipe, face: Problem, state: State, pulled: Float[Array, "c c _k"], *, push: Float[Array, ""]
) -> State:
    """One step along the gradient that `pull` found, and its projection. push: how far it goes, as in `Recipe.push`."""
    gradient = projection.direction(face, pulled, smoothing=recipe.smoothing, coarse=recipe.coarse)
    size = jnp.sqrt((gradient**2).mean()) + 1e-20
    kept = max(0.0, 1 - REACH / recipe.steps)
    # Every step's gradient has the same length: what its extractors weigh beside the others' is how far it goes.
    momentum = kept * state.memory + (1 - kept) * push * gradient / size
    left = 0.5 * (1 + jnp.cos(jnp.pi * state.step.astype(jnp.float32) / recipe.steps))
    # DSSIM is quadratic in the change: the cloak's amplitude, and so step and cap, go with the root of the budget.
    amplitude = (recipe.rho / 0.007) ** 0.5
    delta = state.variable + STEP * amplitude * left * momentum
    delta = projection.shape(face, delta.clip(-recipe.cap * amplitude, recipe.cap * amplitude))
    delta = projection.budget(face, delta, rho=recipe.rho)
    return state._replace(variable=delta, memory=momentum, step=state.step + 1)


def settle(recipe: Recipe, face: Problem, state: State, found: tuple[Array, ...]) -> State:
    """Keep the iterate if it is the best so far; found: its embeddings as it is, not transformed.

    After `LEAD` steps its direction becomes the state's lead.
    """
    gained = gain(recipe, face, found, lead=_lead(recipe, state))
    state = keep(face, state, state.variable, found=found, gain=gained, feasible=jnp.bool_(True))
    if not recipe.leads:
        return state
    moved = tuple(after - before for after, before in zip(found, face.clean, strict=True))
    now = state.step == LEAD
    lead = tuple(
        jnp.where(now, one / (jnp.linalg.norm(one) + 1e-12), old) for one, old in zip(moved, state.lead, strict=True)
    )
    return state._replace(lead=lead)


def _lead(recipe: Recipe, state: State) -> tuple[Array, ...] | None:
    return tuple(recipe.lead * one for one in state.lead) if recipe.leads else None
