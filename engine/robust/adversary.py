"""Projected gradient descent in pixel space (PGD; Madry et al., ICLR 2018): the small change that harms most.

`init` and `step` are pure functions of one picture, (h, w, 3) in [0, 1], a crop or a canvas. They take any function
that is to be raised. vmap them. `against` and the functions below it are the same for batches of a network's crops,
compiled. With one step this is FGSM from a random start (Wong et al., ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from engine import dssim
from engine.extractors import Extractor, embed_crop
from engine.robust import head as heads

Norm = Literal["linf", "dssim"]
Aim = Literal["embedding", "head"]
Ascent = Callable[[Float[Array, "h w 3"]], Float[Array, ""]]


@dataclass(frozen=True)
class Attack:
    """How strong the adversary is; hashable, a static argument of jitted functions.

    epsilon: its bound. With norm "linf" that is the largest change of a pixel in units of [0, 1], with "dssim" the mean
    DSSIM of the whole picture. steps: 1 is FGSM. step_size: the step of a pixel, in units of [0, 1]. With "linf" it
    goes by the gradient's sign; with "dssim" it is the root mean square of a step along the gradient. aim: what is
    raised, the distance to the clean embedding or the cross-entropy of the classification head. random_start: from a
    random point within the bound.

    Raises ValueError for values outside their range, and for an aim of "embedding" without a random start. At the clean
    picture the distance to its own embedding has no gradient.
    """

    epsilon: float
    steps: int
    step_size: float
    norm: Norm = "linf"
    aim: Aim = "embedding"
    random_start: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("norm", Norm), ("aim", Aim)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}; got {getattr(self, name)!r}")
        most = 1.0 if self.norm == "linf" else 0.5
        if not 0 < self.epsilon < most:
            raise ValueError(f"epsilon must be in (0, {most:g}) for the norm {self.norm}; got {self.epsilon}")
        if self.steps < 1:
            raise ValueError(f"the adversary needs at least 1 step; got {self.steps}")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size must be in (0, 1], in units of a pixel's range; got {self.step_size}")
        if self.aim == "embedding" and not self.random_start:
            raise ValueError("an adversary that aims at the embedding needs a random start")


def init(attack: Attack, picture: Float[Array, "h w 3"], *, key: PRNGKeyArray) -> Float[Array, "h w 3"]:
    """The change to start from: none or a random one.

    A random one is uniform in the L-inf ball, or uniform noise of a random share of the DSSIM budget.
    """
    return _start(attack, picture, *_noise(picture.shape, key))


def _noise(shape: tuple[int, ...], key: PRNGKeyArray) -> tuple[Float[Array, "h w 3"], Float[Array, ""]]:
    """Uniform in [-1, 1], and a share in [0, 1]."""
    noise_key, share_key = jax.random.split(key)
    return jax.random.uniform(noise_key, shape, minval=-1.0), jax.random.uniform(share_key)


def _start(
    attack: Attack, picture: Float[Array, "h w 3"], noise: Float[Array, "h w 3"], share: Float[Array, ""]
) -> Float[Array, "h w 3"]:
    if not attack.random_start:
        return jnp.zeros_like(picture)
    if attack.norm == "linf":
        return _inside(picture, attack.epsilon * noise)
    # Noise of half the range passes every budget of use, so the budget bounds it, and not its own amplitude.
    return _scaled(picture, _inside(picture, 0.5 * noise), rho=attack.epsilon * share)


def step(
    attack: Attack,
    ascent: Ascent,
    picture: Float[Array, "h w 3"],
    delta: Float[Array, "h w 3"],
    *,
    shrink: Float[Array, ""] | float = 1.0,
) -> Float[Array, "h w 3"]:
    """One step up `ascent`, a function of the changed picture, and back into the bound; shrink: of the step size."""
    return moved(attack, jax.grad(ascent)(picture + delta), picture, delta, shrink=shrink)


def moved(
    attack: Attack,
    gradient: Float[Array, "h w 3"],
    picture: Float[Array, "h w 3"],
    delta: Float[Array, "h w 3"],
    *,
    shrink: Float[Array, ""] | float = 1.0,
) -> Float[Array, "h w 3"]:
    """The change after a step along a gradient that is known already; otherwise as `step`."""
    size = attack.step_size * shrink
    if attack.norm == "linf":
        delta = delta + size * jnp.sign(gradient)
        return _inside(picture, jnp.clip(delta, -attack.epsilon, attack.epsilon))
    root_mean_square = jnp.sqrt(jnp.mean(gradient * gradient)) + 1e-20
    return _scaled(picture, _inside(picture, delta + size * gradient / root_mean_square), rho=attack.epsilon)


def _inside(picture: Array, delta: Array) -> Array:
    """The change without what passes black or white."""
    return jnp.clip(picture + delta, 0.0, 1.0) - picture


def _scaled(picture: Array, delta: Array, *, rho: Array | float) -> Array:
    """The change scaled down to a mean DSSIM of at most rho."""
    original = dssim.clean(picture)
    windows = original.mean.shape[:2]
    weights = jnp.full(windows, 1 / (windows[0] * windows[1]))
    return delta * dssim.largest_scale(original, dssim.change(original, delta), weights=weights, rho=rho)


class Target(NamedTuple):
    """Target of an attack on a batch of crops.

    head: (p, d), None if the aim is the embedding. anchor: (b, d), the embeddings to get away from. label: (b,).
    """

    head: Float[Array, "p d"] | None
    anchor: Float[Array, "b d"]
    label: Int[Array, " b"]


def harm(
    attack: Attack, head: Array | None, embedding: Float[Array, " d"], anchor: Float[Array, " d"], label: Int[Array, ""]
) -> Float[Array, ""]:
    """Harm that the adversary raises: squared distance to the anchor, or the head's cross-entropy."""
    if attack.aim == "embedding":
        return jnp.sum((embedding - anchor) ** 2)
    if head is None:
        raise ValueError("an adversary that aims at the head needs one")
    return heads.cross_entropy(head, embedding, label)


def begin(attack: Attack, crops: Float[Array, "b s s 3"], noise: UInt32[Array, " b"]) -> Float[Array, "b s s 3"]:
    """`init` of a batch; noise: the seed of each crop, so that its start does not depend on the batch it is in."""
    return _started(attack, crops, _drawn(crops.shape[1:], noise))


# Apart from what the attack decides: random numbers take long to compile, and then serve every attack.
@partial(jax.jit, static_argnums=0)
def _drawn(shape: tuple[int, ...], noise: UInt32[Array, " b"]) -> tuple[Float[Array, "b s s 3"], Float[Array, " b"]]:
    return jax.vmap(lambda seed: _noise(shape, jax.random.key(seed)))(noise)


@partial(jax.jit, static_argnums=0)
def _started(attack: Attack, crops: Array, drawn: tuple[Array, Array]) -> Float[Array, "b s s 3"]:
    return jax.vmap(partial(_start, attack))(crops, *drawn)


@partial(jax.jit, static_argnums=0)
def ascend(
    attack: Attack,
    network: Extractor,
    target: Target,
    crops: Float[Array, "b s s 3"],
    deltas: Float[Array, "b s s 3"],
    shrink: Float[Array, ""],
) -> Float[Array, "b s s 3"]:
    """`step` of a batch."""

    def ascend_crop(crop: Array, delta: Array, anchor: Array, label: Array) -> Array:
        def ascent(changed: Array) -> Array:
            return harm(attack, target.head, embed_crop(network, changed), anchor, label)

        return step(attack, ascent, crop, delta, shrink=shrink)

    return jax.vmap(ascend_crop)(crops, deltas, target.anchor, target.label)


def against(
    attack: Attack,
    network: Extractor,
    target: Target,
    crops: Float[Array, "b s s 3"],
    noise: UInt32[Array, " b"],
    *,
    shrink: Float[Array, ""] | float = 1.0,
) -> Float[Array, "b s s 3"]:
    """The changes that all steps make of a batch of crops.

    Example:
        >>> clean = jax.vmap(lambda crop: embed_crop(extractor, crop))(crops)
        >>> target = Target(None, clean, jnp.zeros(len(crops), int))
        >>> changes = against(Attack(2 / 255, 1, 2 / 255), extractor, target, crops, jnp.zeros(len(crops), "uint32"))
        >>> bool(abs(changes).max() < 2.001 / 255)
        True
    """
    deltas = begin(attack, crops, noise)
    # A host loop: inside a lax loop XLA:CPU runs the convolutions several times slower, and a hundred unrolled steps
    # would take an hour to compile.
    for _ in range(attack.steps):
        deltas = ascend(attack, network, target, crops, deltas, jnp.float32(shrink))
    return deltas
