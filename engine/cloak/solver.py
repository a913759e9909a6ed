"""The solvers behind one interface, jitted and vmapped over a batch of faces.

A solver is a module of pure functions: `init` makes the state of one face, `step` advances it; one whose iterates
have to be judged apart has `settle`. Nothing couples two faces of a batch, and four small programs serve every
call: one forward pass (`embed`), one step, and the bookkeeping before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from engine import dssim
from engine.cloak import fawkes1, paper, projected, projection
from engine.cloak.objective import Extractors, Problem, distances, embeddings, window_weights
from engine.cloak.state import State
from engine.config import Recipe

CHUNK = 10
"""Steps between two looks at the iterates, and between two reports of progress."""


class Solver(NamedTuple):
    """init(recipe, face), step(recipe, extractors, face, state), settle(recipe, face, state, embeddings) or None."""

    init: Callable[[Recipe, Problem], State]
    step: Callable[[Recipe, Extractors, Problem, State], State]
    settle: Callable[[Recipe, Problem, State, tuple[Array, ...]], State] | None


SOLVERS: dict[str, Solver] = {
    "projected": Solver(projected.init, projected.step, projected.settle),
    "paper": Solver(paper.init, paper.step, None),
    "fawkes1": Solver(fawkes1.init, fawkes1.step, None),
}


class Batch(NamedTuple):
    """Faces as they come from the host, all with a leading batch axis.

    canvas: (b, c, c, 3) in [0, 1]. mask: (b, c, c, 1) in [0, 1]. region: (b, c, c). target: for each extractor (b, d):
    the person's embedding or the one to go to; zeros stand for the face's own, and objective "away" does not read it.
    grey: (b,). identity: (b, 4), from which the face's PRNG key is folded: the seed, two words of the photo's content
    hash, the face's index in the photo.
    """

    canvas: Float[Array, "b c c 3"]
    mask: Float[Array, "b c c 1"]
    region: Bool[Array, "b c c"]
    target: tuple[Float[Array, "b d"], ...]
    grey: Bool[Array, "b"]
    identity: UInt32[Array, "b 4"]


class Result(NamedTuple):
    """delta: (b, c, c, 3), add it to the canvas. dssim: (b,) on the canvas. shift: (b, k), L2 distance from clean."""

    delta: Float[Array, "b c c 3"]
    dssim: Float[Array, "b"]
    shift: Float[Array, "b k"]


@jax.jit
def embed(extractors: Extractors, canvas: Float[Array, "b c c 3"]) -> tuple[Float[Array, "b d"], ...]:
    """The embeddings of a batch of canvases by every extractor."""
    return jax.vmap(lambda one: embeddings(extractors, one))(canvas)


@partial(jax.jit, static_argnums=0)
def _begin(recipe: Recipe, batch: Batch, clean: tuple[Array, ...]) -> tuple[Problem, State]:
    def one(face: Batch, own: tuple[Array, ...]) -> tuple[Problem, State]:
        weights = window_weights(face.region)
        seed, *words = face.identity
        key = jax.random.key(seed)
        for word in words:
            key = jax.random.fold_in(key, word)
        posed = Problem(dssim.clean(face.canvas), face.mask, weights, own, _target(recipe, face, own), face.grey, key)
        return posed, SOLVERS[recipe.solver].init(recipe, posed)

    return jax.vmap(one)(batch, clean)


def _target(recipe: Recipe, face: Batch, own: tuple[Array, ...]) -> tuple[Array, ...]:
    if recipe.objective == "away":
        return own
    return tuple(jnp.where(jnp.any(given != 0), given, clean) for given, clean in zip(face.target, own, strict=True))


def _vstep(recipe: Recipe, extractors: Extractors, problems: Problem, state: State) -> State:
    step = SOLVERS[recipe.solver].step
    return jax.vmap(lambda face, one: step(recipe, extractors, face, one))(problems, state)


_step = jax.jit(_vstep, static_argnums=0, donate_argnums=3)


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def _steps(recipe: Recipe, extractors: Extractors, problems: Problem, state: State, count: Array) -> State:
    return jax.lax.fori_loop(0, count, lambda _, now: _vstep(recipe, extractors, problems, now), state)


def _advance(recipe: Recipe, extractors: Extractors, problems: Problem, state: State, count: int) -> State:
    # Inside a loop XLA:CPU runs the convolutions several times slower (jaxlib 0.10), so there the loop is the host's;
    # an accelerator gets all the steps in one call.
    if jax.default_backend() != "cpu":
        return _steps(recipe, extractors, problems, state, jnp.int32(count))
    for _ in range(count):
        state = _step(recipe, extractors, problems, state)
    return state


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _settle(recipe: Recipe, problems: Problem, state: State, found: tuple[Array, ...]) -> State:
    settle = SOLVERS[recipe.solver].settle
    assert settle is not None
    return jax.vmap(lambda face, one, its: settle(recipe, face, one, its))(problems, state, found)


@jax.jit
def _cloaked(problems: Problem, delta: Float[Array, "b c c 3"]) -> Float[Array, "b c c 3"]:
    return problems.original.image + delta


@jax.jit
def _finish(problems: Problem, delta: Float[Array, "b c c 3"], found: tuple[Array, ...]) -> Result:
    def one(face: Problem, change: Array, its: tuple[Array, ...]) -> Result:
        return Result(change, projection.cost(face, change), distances(its, face.clean))

    return jax.vmap(one)(problems, delta, found)


def solve(
    recipe: Recipe, extractors: Extractors, batch: Batch, *, progress: Callable[[int], None] | None = None
) -> Result:
    """Cloak a batch of faces; the result stays on the device. `progress` gets the number of steps done so far.

    The cloak of a face depends on the face, its key and the recipe, not on what else is in the batch.

    Example:
        >>> solve(Recipe(steps=20), (load("web-incept"),), batch).dssim.max() <= 0.007
        True
    """
    problems, state = _begin(recipe, batch, embed(extractors, batch.canvas))
    # What begins as a constant XLA copies to every device, and the step would be compiled again once it is none.
    problems, state = jax.device_put((problems, state), jnp.asarray(batch.canvas).sharding)
    for done in range(0, recipe.steps, CHUNK):
        count = min(CHUNK, recipe.steps - done)
        state = _advance(recipe, extractors, problems, state, count)
        if SOLVERS[recipe.solver].settle is not None:
            state = _settle(recipe, problems, state, embed(extractors, _cloaked(problems, state.variable)))
        if progress is not None:
            jax.block_until_ready(state.step)
            progress(done + count)
    return _finish(problems, state.best, embed(extractors, _cloaked(problems, state.best)))
