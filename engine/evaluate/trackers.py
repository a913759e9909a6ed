"""Trackers that learn on embeddings: what a recogniser sees, and a head that puts names to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int

from engine.evaluate.protocol import NOBODY
from engine.evaluate.recognisers import Recogniser

Name = Callable[[Float32[np.ndarray, "m d"]], Int[np.ndarray, "m"]]
Head = Callable[[Float32[np.ndarray, "n d"], Int[np.ndarray, "n"]], Name]
"""Learns from embeddings and their labels, any integers; what it returns names others."""

DECAY = 1e-4
"""Weight decay of the linear head."""
SPREAD = 8.0
"""Mean distance of the embeddings from their mean that the linear head is given, whatever the network's own is."""
STEPS = 500
"""Most steps of the linear head: a bound for what does not converge."""
FLAT = 1e-6
"""Largest entry of the gradient at which it has converged; or else when a step changes the loss no more in float32."""
ROWS, CLASSES, LEAST_DIM = 256, 64, 128
"""Multiples to which the linear head's arrays are filled up (the dimension: a power of two). It takes seconds to
compile, and the conditions of an evaluation differ by a few photos or people."""


def softmax_regression(
    rows: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], *, classes: int
) -> tuple[Float32[np.ndarray, "d k"], Float32[np.ndarray, "k"]]:
    """Kernel and bias that minimise the mean cross entropy plus DECAY times the kernel's squared length.

    labels: 0 to classes - 1. By L-BFGS (Liu & Nocedal 1989) from zero, until it has converged.

    Example:
        >>> kernel, bias = softmax_regression(np.eye(2, dtype=np.float32), np.array([0, 1]), classes=2)
        >>> (np.eye(2) @ kernel + bias).argmax(axis=1)
        array([0, 1])
    """
    (count, dim), more = rows.shape, -len(rows) % ROWS
    dims = max(LEAST_DIM, 1 << (dim - 1).bit_length())
    absent = np.arange(classes + -classes % CLASSES) >= classes
    kernel, bias = _minimise(
        np.pad(np.asarray(rows, np.float32), ((0, more), (0, dims - dim))),
        np.pad(np.asarray(labels, np.int32), (0, more)),
        np.pad(np.full(count, 1 / count, np.float32), (0, more)),
        np.where(absent, np.float32(-1e9), np.float32(0)),
    )
    return np.asarray(kernel)[:dim, :classes], np.asarray(bias)[:classes]


@jax.jit
def _minimise(
    x: Float[Array, "n d"], y: Int[Array, "n"], weights: Float[Array, "n"], offset: Float[Array, "k"]
) -> tuple[Float[Array, "d k"], Float[Array, "k"]]:
    def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
        kernel, bias = params
        # TF32 products, a GPU's default, end the line search long before the gradient is flat.
        logits = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + (bias + offset)[None]
        fit = jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, y))
        return fit + DECAY * jnp.sum(kernel**2)

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry: tuple) -> tuple:
        count, params, state, before, _ = carry
        value, gradient = value_and_gradient(params, state=state)
        update, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        flattest = jnp.max(jnp.array([jnp.max(jnp.abs(part)) for part in jax.tree.leaves(gradient)]))
        done = (flattest < FLAT) | (jnp.abs(before - value) <= jnp.finfo(jnp.float32).eps * value)
        return count + 1, optax.apply_updates(params, update), state, value, done

    params = (jnp.zeros((x.shape[1], offset.shape[0]), jnp.float32), jnp.zeros_like(offset))
    begin = (jnp.int32(0), params, solver.init(params), jnp.float32(jnp.inf), jnp.bool_(False))
    return jax.lax.while_loop(lambda carry: (carry[0] < STEPS) & ~carry[4], step, begin)[1]


def linear_head(rows: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> Name:
    """Softmax regression trained to convergence, on embeddings centred and scaled to SPREAD."""
    known, targets = np.unique(labels, return_inverse=True)
    mean = rows.mean(axis=0)
    scale = SPREAD / max(float(np.linalg.norm(rows - mean, axis=1).mean()), 1e-9)
    kernel, bias = softmax_regression((rows - mean) * scale, targets, classes=len(known))
    return lambda tests: known[((tests - mean) * scale @ kernel + bias).argmax(axis=1)]


def nearest_neighbour(rows: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> Name:
    """The label of the nearest embedding, all scaled to length one."""
    return lambda tests: labels[_nearest(_unit(tests), _unit(rows))]


def nearest_centroid(rows: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> Name:
    """The label whose mean embedding is nearest, embeddings scaled to length one."""
    known = np.unique(labels)
    unit = _unit(rows)
    centroids = np.stack([unit[labels == label].mean(axis=0) for label in known])
    return lambda tests: known[_nearest(_unit(tests), centroids)]


def _unit(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _nearest(tests: Float32[np.ndarray, "m d"], rows: Float32[np.ndarray, "n d"]) -> Int[np.ndarray, "m"]:
    """Index of the nearest row by Euclidean distance; of |t|^2 - 2 t.r + |r|^2 the first is the same for all."""
    return ((rows**2).sum(axis=1) - 2 * tests @ rows.T).argmin(axis=1)


HEADS: dict[str, Head] = {
    "linear head": linear_head,
    "1-NN": nearest_neighbour,
    "nearest centroid": nearest_centroid,
}


class EmbeddingTracker:
    """A recogniser and a head of HEADS. A photo without a face is not learnt from, and named NOBODY.

    Example:
        >>> EmbeddingTracker(recogniser("sface", DetectedOnce()), "1-NN").name
        '1-NN on sface'
    """

    def __init__(self, recogniser: Recogniser, head: str) -> None:
        """head: a key of HEADS. Raises ValueError for another."""
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
        self.name = f"{head} on {recogniser.name}"
        self.extractors = recogniser.extractors
        self._recogniser = recogniser
        self._head = HEADS[head]

    def names(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]
    ) -> Int[np.ndarray, "m"]:
        """A label or NOBODY for each test photo."""
        learnt = [
            (row, label) for row, label in zip(self._recogniser.embed(photos), labels, strict=True) if row is not None
        ]
        asked = self._recogniser.embed(tests)
        seen = [index for index, row in enumerate(asked) if row is not None]
        named = np.full(len(tests), NOBODY)
        if learnt and seen:
            head = self._head(np.stack([row for row, _ in learnt]), np.array([label for _, label in learnt]))
            named[seen] = head(np.stack([row for row in asked if row is not None]))
        return named
