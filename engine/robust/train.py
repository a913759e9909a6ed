"""One step of adversarial training: `init` and `step` over an explicit state.

Batch norms are folded into the convolutions of all our extractors, so there are no running statistics to keep. The
network that is trained computes the same function alone and in a batch. What is trained is a flat dictionary of
parameters by name; everything else of the extractor stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Float32, Int, UInt8, UInt32

from engine.checkpoint import flatten
from engine.extractors import Extractor, crop, embed_crop
from engine.robust import adversary
from engine.robust import head as heads
from engine.robust.adversary import Attack, Target

HEAD = "head"
"""The name of the classification head among the trained parameters; the network's are under "network/"."""


@dataclass(frozen=True)
class Losses:
    """Weights of what is minimised, mean over the batch; those that are 0 are not computed.

    x is the augmented crop of a photo, x' the adversary's change of it. E is the network in training, T the embedding
    of the plain photo by the frozen clean extractor.

    classification: cross-entropy of the head on E(x') (Madry et al., ICLR 2018; the paper's section 5.3).
    consistency: |E(x') - E(x)|^2, the form of TRADES (Zhang et al., ICML 2019) on embeddings.
    distillation: |E(x') - T|^2, which needs no labels, so a few thousand faces serve (adversarially robust
    distillation, Goldblum et al., AAAI 2020). clean: |E(x) - T|^2, what keeps the clean accuracy.

    Raises ValueError for a negative weight, or if all are 0.
    """

    classification: float = 0.0
    consistency: float = 0.0
    distillation: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.classification, self.consistency, self.distillation, self.clean)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(
                f"weights of losses must be finite and not be negative, and one must be positive; got {self}"
            )

    @property
    def clean_pass(self) -> bool:
        """Whether E(x) has to be computed too."""
        return bool(self.consistency or self.clean)


@dataclass(frozen=True)
class Optimiser:
    """AdamW under a cosine schedule with a linear warm-up.

    learning_rate: at its highest. warmup: share of the steps. decay: of the weights. clip: largest norm of the
    gradient. accumulate: batches whose gradients are averaged before each update.
    """

    learning_rate: float = 1e-4
    warmup: float = 0.05
    decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be a share in [0, 1); got {self.warmup}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1; got {self.accumulate}")

    def transformation(self, updates: int) -> optax.GradientTransformation:
        """The optax optimiser for so many updates."""
        warm = round(self.warmup * updates)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0 if warm else self.learning_rate, self.learning_rate, warm, max(updates, warm + 1)
        )
        chain = optax.chain(
            optax.clip_by_global_norm(self.clip), optax.adamw(schedule, b2=0.99, weight_decay=self.decay)
        )
        if self.accumulate == 1:
            return chain
        return optax.MultiSteps(chain, every_k_schedule=self.accumulate).gradient_transformation()


@dataclass(frozen=True)
class Training:
    """How to train; hashable, a static argument. steps: batches, or `accumulate` batches, one after the other.

    replays: how often a batch is gone through. Each time its adversarial change takes a step with the gradient that the
    weights' update computes anyway ("free", Shafahi et al., NeurIPS 2019). With 0 the adversary is run for itself.

    Raises ValueError for replays with accumulation or with an adversary of several steps.
    """

    attack: Attack
    losses: Losses
    steps: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    replays: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}")
        if self.replays < 0:
            raise ValueError(f"replays must not be negative; got {self.replays}")
        if self.replays and (self.optimiser.accumulate > 1 or self.attack.steps > 1):
            raise ValueError("replays go with an adversary of 1 step and without accumulation")
        if self.replays and not self.losses.classification + self.losses.consistency + self.losses.distillation:
            raise ValueError("replays need a loss on adversarial examples")

    @property
    def with_head(self) -> bool:
        """Whether there is a classification head."""
        return bool(self.losses.classification) or self.attack.aim == "head"

    @property
    def passes(self) -> int:
        """Passes forward and backward through the network that one photo costs in one step."""
        learning = 1 + self.losses.clean_pass
        return self.replays * learning if self.replays else self.attack.steps + learning

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimiser of the whole training."""
        return self.optimiser.transformation(self.steps * max(self.replays, 1))


class Batch(NamedTuple):
    """Photos as the device gets them.

    canvas: uint8. window: rows (lo, hi) of y, then x, of the crop, in canvas pixels; lo > hi mirrors. label: person.
    anchor: the plain photo's embedding by the frozen clean extractor. noise: seed of the adversary's start.
    """

    canvas: UInt8[Array, "b c c 3"]
    window: Float32[Array, "b 2 2"]
    label: Int[Array, " b"]
    anchor: Float32[Array, "b d"]
    noise: UInt32[Array, " b"]


class State(NamedTuple):
    """A training half-way. trained: parameters by name, float32. shrink: of the adversary's steps, see `guard`."""

    trained: dict[str, Array]
    optimiser: Any
    shrink: Float[Array, ""]


def init(
    training: Training, extractor: Extractor, *, frozen: frozenset[str] = frozenset(), head: Array | None = None
) -> State:
    """The state before the first step. frozen: names of parameters (as `checkpoint.flatten` has them) that stay as
    they are. head: (p, d), the classification head, if there is one.

    Raises ValueError for frozen names that are not the network's or are all of it, and for a head too many or missing.
    """
    parameters = flatten(extractor.params)
    if unknown := sorted(frozen - set(parameters)):
        raise ValueError(f"{extractor.name} has no parameters {', '.join(unknown)}")
    if frozen == set(parameters):
        raise ValueError("everything is frozen; nothing would be trained")
    if training.with_head != (head is not None):
        raise ValueError("a head is needed where a loss or the adversary uses it, and only there")
    # Copies: the steps give the state's memory back, and the extractor's is still needed.
    trained = {f"network/{name}": jnp.array(leaf) for name, leaf in parameters.items() if name not in frozen}
    if head is not None:
        trained[HEAD] = jnp.array(head)
    # Jitted: otherwise every shape of a parameter is a program of its own.
    return State(trained, jax.jit(training.transformation.init)(trained), jnp.float32(1.0))


def network(extractor: Extractor, trained: Mapping[str, Array]) -> Extractor:
    """The extractor with its trained parameters in place of its own."""

    def leaf(path: Any, initial: Array) -> Array:
        return trained.get("network/" + jax.tree_util.keystr(path, simple=True, separator="/"), initial)

    return replace(extractor, params=jax.tree_util.tree_map_with_path(leaf, extractor.params))


def step(training: Training, extractor: Extractor, state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
    """One batch: its adversary, then the update (or, with accumulation, its share of one); all replays of it, if any.

    The state given is used up. The figures, on the device, are the mean over the batch of `loss`, of each of its terms
    that has a weight, and of `shift`. A shift is the distance between the embeddings of x' and the photo's.
    """
    crops = crops_of(extractor, batch.canvas, batch.window)
    if not training.replays:
        current = network(extractor, state.trained)
        # TRADES' adversary leaves the network's own output, the others' the teacher's.
        anchor = embedded(current, crops) if training.losses.consistency else batch.anchor
        target = Target(state.trained.get(HEAD), anchor, batch.label)
        changes = adversary.against(training.attack, current, target, crops, batch.noise, shrink=state.shrink)
        return _learn(training, extractor, state, batch, crops, changes)
    changes = adversary.begin(training.attack, crops, batch.noise)
    figures: dict[str, Array] = {}
    for _ in range(training.replays):
        state, figures, changes = _replay(training, extractor, state, batch, crops, changes)
    return state, figures


@jax.jit
def crops_of(
    extractor: Extractor, canvases: UInt8[Array, "b c c 3"], windows: Float[Array, "b 2 2"]
) -> Float[Array, "b s s 3"]:
    """The extractor's crops of a batch of canvases, in [0, 1]; windows: as in `Batch`."""
    pixels = canvases.astype(jnp.float32) / 255.0
    return jax.vmap(lambda canvas, window: crop(canvas, size=extractor.spec.size, window_yx=window))(pixels, windows)


@jax.jit
def embedded(current: Extractor, crops: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
    """The embeddings of a batch of crops."""
    return jax.vmap(lambda face_crop: embed_crop(current, face_crop))(crops)


def objective(
    training: Training, extractor: Extractor, trained: Mapping[str, Array], batch: Batch, crops: Array, changes: Array
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of a batch of crops and their adversarial changes, and the figures that `step` returns."""
    current = network(extractor, trained)
    weights = training.losses
    harmed = jax.vmap(lambda face_crop: embed_crop(current, face_crop))(crops + changes)
    apart = jnp.sum((harmed - batch.anchor) ** 2, axis=1)
    terms: dict[str, Array] = {}
    if weights.classification:
        terms["classification"] = jax.vmap(partial(heads.cross_entropy, trained[HEAD]))(harmed, batch.label).mean()
    if weights.distillation:
        terms["distillation"] = apart.mean()
    if weights.clean_pass:
        plain = jax.vmap(lambda face_crop: embed_crop(current, face_crop))(crops)
        if weights.consistency:
            terms["consistency"] = jnp.sum((harmed - plain) ** 2, axis=1).mean()
        if weights.clean:
            terms["clean"] = jnp.sum((plain - batch.anchor) ** 2, axis=1).mean()
    loss = jnp.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    return loss, {"loss": loss, **terms, "shift": jnp.sqrt(jax.lax.stop_gradient(apart)).mean()}


def _updated(training: Training, state: State, gradient: dict[str, Array]) -> State:
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of integer counts
        updates, optimiser = training.transformation.update(gradient, state.optimiser, state.trained)
    trained: Any = optax.apply_updates(state.trained, updates)
    return state._replace(trained=trained, optimiser=optimiser)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _learn(
    training: Training, extractor: Extractor, state: State, batch: Batch, crops: Array, changes: Array
) -> tuple[State, dict[str, Array]]:
    gradient, figures = jax.grad(objective, argnums=2, has_aux=True)(
        training, extractor, state.trained, batch, crops, changes
    )
    return _updated(training, state, gradient), figures


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _replay(
    training: Training, extractor: Extractor, state: State, batch: Batch, crops: Array, changes: Array
) -> tuple[State, dict[str, Array], Array]:
    """One backward pass for both: the weights go down the loss, the change of the pixels up."""
    (down, up), figures = jax.grad(objective, argnums=(2, 5), has_aux=True)(
        training, extractor, state.trained, batch, crops, changes
    )
    move = partial(adversary.moved, training.attack, shrink=state.shrink)
    return _updated(training, state, down), figures, jax.vmap(move)(up, crops, changes)
