"""A classification head: which of the training people an embedding is, by its cosine to one vector for each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

SCALE = 32.0
"""Scale of the cosines before the softmax. With bare cosines the loss of a perfect head would still be large (NormFace,
Wang et al., ACM MM 2017, section 3.2)."""


def of_means(rows: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> Float32[np.ndarray, "p d"]:
    """A head whose vectors are the mean embeddings of people 0 to p - 1: of use before any training.

    Raises ValueError for a person without a row.
    """
    counts = np.bincount(labels)
    if not counts.all():
        raise ValueError(f"every person needs an embedding; number {int(np.argmin(counts))} has none")
    sums = np.zeros((len(counts), rows.shape[1]), np.float32)
    np.add.at(sums, labels, rows)
    return sums / counts[:, None].astype(np.float32)


def logits(head: Float[Array, "p d"], embedding: Float[Array, " d"]) -> Float[Array, " p"]:
    """Scaled cosines to every person; the embedding has length one, the head's vectors any length."""
    return SCALE * (head @ embedding) * jax.lax.rsqrt(jnp.sum(head * head, axis=1) + 1e-12)


def cross_entropy(head: Float[Array, "p d"], embedding: Float[Array, " d"], label: Int[Array, ""]) -> Float[Array, ""]:
    """Softmax cross-entropy of one embedding."""
    return -jax.nn.log_softmax(logits(head, embedding))[label]
