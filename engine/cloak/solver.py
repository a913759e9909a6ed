"""The solvers behind one interface, jitted and vmapped over a batch of faces.

A solver is a module of pure functions: `init` makes the state of one face, and `step` advances it. A solver whose
iterates have to be judged apart has `settle` too. Nothing couples two faces of a batch, so faces may come and go while
others are half-way. Each has its own count of steps and stands still once it is done. A few small programs of one shape
serve every call: one forward pass (`embed`), one step, and the bookkeeping before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from engine import dssim
from engine.cloak import fawkes1, paper, projected, projection
from engine.cloak.objective import Extractors, Problem, window_weights
from engine.cloak.state import State, seeded
from engine.config import CANVAS, CHUNK, Recipe
from engine.extractors import Extractor
from engine.extractors import embed as embed_one
from engine.programs import Call, kept


class Pull(Protocol):
    """All that one step of one face asks of the extractors. members: indices of those given, one of `recipe.turns`."""

    def __call__(  # noqa: D102
        self, recipe: Recipe, extractors: Extractors, face: Problem, state: State, *, members: tuple[int, ...]
    ) -> Any: ...


class Advance(Protocol):
    """The rest of the step, without them. pulled: what `Pull` returned. push: `recipe.push` of its extractors."""

    def __call__(self, recipe: Recipe, face: Problem, state: State, pulled: Any, *, push: Array) -> State: ...  # noqa: D102


class Solver(NamedTuple):
    """init(recipe, face), pull as `Pull`, move as `Advance`, settle(recipe, face, state, embeddings) or None.

    A step has two parts since each turn needs a program of its own for the first alone. pulled(state): anything of the
    same types and shapes as what `pull` returns; None if that is known only once it was called.
    """

    init: Callable[[Recipe, Problem], State]
    pull: Pull
    move: Advance
    settle: Callable[[Recipe, Problem, State, tuple[Array, ...]], State] | None
    pulled: Callable[[State], Any] | None


def _whole(init: Callable[[Recipe, Problem], State], step: Callable[..., State]) -> Solver:
    """A solver whose step is one piece and always uses all extractors."""
    return Solver(
        init,
        lambda recipe, extractors, face, state, *, members: step(recipe, extractors, face, state),
        lambda recipe, face, state, pulled, *, push: pulled,
        None,
        None,
    )


SOLVERS: dict[str, Solver] = {
    "projected": Solver(projected.init, projected.pull, projected.move, projected.settle, lambda state: state.memory),
    "paper": _whole(paper.init, paper.step),
    "fawkes1": _whole(fawkes1.init, fawkes1.step),
}


class Batch(NamedTuple):
    """Faces as they come from the host, all with a leading batch axis.

    canvas: (b, c, c, 3) in [0, 1]. mask: (b, c, c, 1) in [0, 1]. region: (b, c, c). target: for each extractor (b, d),
    the person's embedding or the one to go to. Zeros stand for the face's own, and objective "away" does not read it.
    grey: (b,). identity: (b, 4), from which the face's PRNG key is folded. It holds the seed, two words of the photo's
    content hash, and the face's index in the photo.
    """

    canvas: Float[Array, "b c c 3"]
    mask: Float[Array, "b c c 1"]
    region: Bool[Array, "b c c"]
    target: tuple[Float[Array, "b _d"], ...]
    grey: Bool[Array, "b"]
    identity: UInt32[Array, "b 4"]


class Slots(NamedTuple):
    """Faces being cloaked, all with a leading batch axis."""

    problems: Problem
    state: State


class Result(NamedTuple):
    """delta: (b, c, c, 3), add it to the canvas. dssim: (b,) on the canvas. shift: (b, k), L2 distance from clean.

    step: (b,), steps done. done: (b,), whether nothing is left to do, after all steps or with `enough` shift.
    """

    delta: Float[Array, "b c c 3"]
    dssim: Float[Array, "b"]
    shift: Float[Array, "b k"]
    step: Int[Array, "b"]
    done: Bool[Array, "b"]


@kept()
def _embed(extractor: Extractor, canvas: Float[Array, "b c c 3"]) -> Float[Array, "b d"]:
    return jax.vmap(partial(embed_one, extractor))(canvas)


def embed(extractors: Extractors, canvas: Float[Array, "b c c 3"]) -> tuple[Float[Array, "b _d"], ...]:
    """The embeddings of a batch of canvases by every extractor."""
    return tuple(_embed(extractor, canvas) for extractor in extractors)


@kept(static=0)
def begin(recipe: Recipe, batch: Batch, clean: tuple[Float[Array, "b _d"], ...], fresh: Bool[Array, "b"]) -> Slots:
    """Slots with the faces of the batch at their start. Slots that are not fresh are empty: done before they begin.

    clean: their embeddings, of `embed`.
    """

    def one(face: Batch, own: tuple[Array, ...], new: Array) -> Slots:
        weights = window_weights(face.region)
        seed, *words = face.identity
        key = seeded(seed)
        for word in words:
            key = jax.random.fold_in(key, word)
        posed = Problem(dssim.clean(face.canvas), face.mask, weights, own, _target(recipe, face, own), face.grey, key)
        state = SOLVERS[recipe.solver].init(recipe, posed)
        return Slots(posed, state._replace(step=jnp.where(new, 0, recipe.steps)))

    return jax.vmap(one)(batch, clean, fresh)


def _target(recipe: Recipe, face: Batch, own: tuple[Array, ...]) -> tuple[Array, ...]:
    if recipe.objective == "away":
        return own
    return tuple(jnp.where(jnp.any(given != 0), given, clean) for given, clean in zip(face.target, own, strict=True))


@kept(donated=0)
def enter(slots: Slots, new: Slots, fresh: Bool[Array, "b"]) -> Slots:
    """The slots, with fresh ones replaced by new ones. The others go on where they are."""
    return jax.vmap(lambda old, other, which: _where(which, other, old))(slots, new, fresh)


def _where(condition: Bool[Array, ""], these: Any, those: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), these, those)


def _running(recipe: Recipe, state: State) -> Bool[Array, ""]:
    running = state.step < recipe.steps
    if recipe.enough is None:
        return running
    weights = jnp.array(recipe.weights) / sum(recipe.weights)
    return running & ((weights * state.shift).sum() < recipe.enough)


class Turn(NamedTuple):
    """Static argument for which `_pull` is compiled. members: indices of the extractors that the step uses."""

    recipe: Recipe
    members: tuple[int, ...]


def _pull(turn: Turn, extractors: Extractors, slots: Slots) -> Any:
    """Pulls of a turn's extractors, in its order, on every face."""
    recipe, members = turn
    pull = partial(SOLVERS[recipe.solver].pull, recipe, extractors, members=members)
    return jax.vmap(pull)(*slots)


def _move(recipe: Recipe, slots: Slots, pulled: Any, push: Float[Array, ""]) -> Slots:
    """The step of every face that is not done."""

    def one(face: Problem, state: State, found: Any) -> State:
        moved = SOLVERS[recipe.solver].move(recipe, face, state, found, push=push)
        return _where(_running(recipe, state), moved, state)

    return slots._replace(state=jax.vmap(one)(*slots, pulled))


_pull_kept = kept(static=0)(_pull)
_move_kept = kept(static=0, donated=1)(_move)


def _push(value: float) -> Float[Array, ""]:
    return jnp.asarray(value, jnp.float32)


def _of(extractors: Extractors, members: tuple[int, ...]) -> Extractors:
    return tuple(extractors[index] for index in members)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _steps(recipe: Recipe, extractors: Extractors, slots: Slots, count: Array) -> Slots:
    turns = recipe.turns
    pulls = [partial(_pull, Turn(recipe, members), _of(extractors, members)) for members in turns]
    pushes = jnp.array([recipe.push(members) for members in turns], jnp.float32)

    def one(index: Array, now: Slots) -> Slots:
        turn = index % len(turns)
        pulled = jax.lax.switch(turn, pulls, now) if len(turns) > 1 else pulls[0](now)
        return _move(recipe, now, pulled, pushes[turn])

    return jax.lax.fori_loop(0, count, one, slots)


def steps(recipe: Recipe, extractors: Extractors, slots: Slots, count: int) -> Slots:
    """So many steps of every face that is not done; `slots` is used up.

    The first step has the first of `recipe.turns`. Faces enter a multiple of CHUNK steps apart, so which extractors a
    step of a face uses depends on the face's own step alone.
    """
    # Inside a loop XLA:CPU runs the convolutions several times slower (jaxlib 0.10), so there the loop is the host's.
    # An accelerator gets all the steps in one call.
    if jax.default_backend() != "cpu":
        return _steps(recipe, extractors, slots, jnp.int32(count))
    turns = recipe.turns
    for index in range(count):
        members = turns[index % len(turns)]
        pulled = _pull_kept(Turn(recipe, members), _of(extractors, members), slots)
        slots = _move_kept(recipe, slots, pulled, _push(recipe.push(members)))
    return slots


def advance(recipe: Recipe, extractors: Extractors, slots: Slots, count: int) -> Slots:
    """So many `steps`, and a look at where the faces are.

    Every face must be looked at after the same steps of its own: after each CHUNK, and after its last.
    """
    slots = steps(recipe, extractors, slots, count)
    if SOLVERS[recipe.solver].settle is not None:
        slots = _settle(recipe, slots, embed(extractors, _cloaked(slots)))
    return slots


@kept()
def _cloaked(slots: Slots) -> Float[Array, "b c c 3"]:
    return slots.problems.original.image + slots.state.variable


@kept(static=0, donated=1)
def _settle(recipe: Recipe, slots: Slots, found: tuple[Array, ...]) -> Slots:
    settle = SOLVERS[recipe.solver].settle
    assert settle is not None
    return slots._replace(state=jax.vmap(partial(settle, recipe))(*slots, found))


@kept(static=0)
def result(recipe: Recipe, slots: Slots) -> Result:
    """The best cloak so far of each face."""

    def one(face: Problem, state: State) -> Result:
        cost = projection.cost(face, state.best)
        return Result(state.best, cost, state.shift, state.step, ~_running(recipe, state))

    return jax.vmap(one)(*slots)


def programs(recipe: Recipe, extractors: Extractors, size: int, sharding: jax.sharding.Sharding) -> list[Call]:
    """Every call whose program cloaking so many faces at once needs, for `engine.programs.ahead`; in that order.

    sharding: of the faces.
    """

    def faces(like: Any) -> Any:
        return jax.tree.map(
            lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding, weak_type=one.weak_type), like
        )

    def of(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding)

    canvas, fresh = of(jnp.float32, CANVAS, CANVAS, 3), of(bool)
    clean = tuple(of(jnp.float32, extractor.dim) for extractor in extractors)
    mask, region = of(jnp.float32, CANVAS, CANVAS, 1), of(bool, CANVAS, CANVAS)
    batch = Batch(canvas, mask, region, clean, of(bool), of(jnp.uint32, 4))
    slots = faces(jax.eval_shape(partial(begin.jitted, recipe), batch, clean, fresh))
    solver = SOLVERS[recipe.solver]
    calls: list[Call] = [(_embed, (extractor, canvas)) for extractor in extractors]
    calls += [(begin, (recipe, batch, clean, fresh)), (enter, (slots, slots, fresh))]
    calls += [(_pull_kept, (Turn(recipe, members), _of(extractors, members), slots)) for members in recipe.turns]
    if solver.pulled is not None:
        calls.append((_move_kept, (recipe, slots, solver.pulled(slots.state), _push(1.0))))
    if solver.settle is not None:
        calls += [(_cloaked, (slots,)), (_settle, (recipe, slots, clean))]
    return [*calls, (result, (recipe, slots))]


def solve(recipe: Recipe, extractors: Extractors, batch: Batch) -> Result:
    """Cloak a batch of faces from start to end; the result stays on the device.

    The cloak of a face depends on the face, its key and the recipe, not on what else is in the batch. But XLA may round
    differently in the last slots, and the steps enlarge that: the cloak there can be another one of the same strength.

    Example:
        >>> bool(solve(Recipe(extractors=("mobileface",), steps=1), (extractor,), batch).dssim.max() <= 0.007)
        True
    """
    slots = begin(recipe, batch, embed(extractors, batch.canvas), jnp.ones(len(batch.canvas), bool))
    # XLA copies what begins as a constant to every device. Without this the step would be compiled again later, when
    # it is no constant any more.
    slots = jax.device_put(slots, jnp.asarray(batch.canvas).sharding)
    for done in range(0, recipe.steps, CHUNK):
        slots = advance(recipe, extractors, slots, min(CHUNK, recipe.steps - done))
    return result(recipe, slots)
