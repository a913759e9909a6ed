"""An extractor: a network with its weights, from a canvas to an embedding of length one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from engine.config import Precision
from engine.extractors.crop import crop
from engine.extractors.spec import InputSpec

EPSILON = 1e-10
"""Least squared length an embedding is divided by, as in facenet's l2_normalize: no NaN for a grey canvas."""
BATCH = 16
"""Canvases that host code has embedded at once: more gain nothing on a CPU."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Extractor:
    """A network and its weights. A pytree whose leaves are the weights: pass it to a jitted function as it is.

    params: the weights, float32. name: as given to `load`. spec: what the network expects of its input.
    graphdef: the network without weights. dim: length of an embedding. weights_sha256: content hash of the
    checkpoint (`engine.checkpoint.content_sha256`), part of the key of everything computed with it. precision: of the
    network's products and activations.
    """

    params: Any
    name: str = field(metadata={"static": True})
    spec: InputSpec = field(metadata={"static": True})
    graphdef: nnx.GraphDef = field(metadata={"static": True}, repr=False)
    dim: int = field(metadata={"static": True})
    weights_sha256: str = field(metadata={"static": True})
    precision: Precision = field(default="float32", metadata={"static": True})


def tuned(extractor: Extractor) -> Extractor:
    """The extractor in the form in which cloaks are made: the same embeddings up to rounding, gradients of the input
    only, and quicker.

    Layers with a method `tune` rewrite themselves: kernels are kept turned round as gradients need them, products that
    see the same input become one. The weights' hash stays that of the checkpoint; gradients of the weights are NaN.
    """
    network = nnx.merge(extractor.graphdef, extractor.params)
    for _, layer in list(nnx.iter_graph(network)):
        if hasattr(layer, "tune"):
            layer.tune()
    graphdef, state = nnx.split(network)
    return replace(extractor, graphdef=graphdef, params=nnx.to_pure_dict(state))


def embed(
    extractor: Extractor, canvas: Float[Array, "c c 3"], *, window_yx: Float[Array, "2 2"] | None = None
) -> Float[Array, " d"]:
    """The embedding of one canvas, (c, c, 3) in [0, 1], as float32 of length one; vmap it over canvases.

    `window_yx` has the rows (lo, hi) of y, then x, in canvas pixels. It stands in for the network's own window (jitter,
    mirror), and may be traced. Differentiable in the canvas and in the window.

    >>> embeddings = jax.vmap(lambda canvas: embed(extractor, canvas))(canvases)
    """
    spec = extractor.spec
    if window_yx is None:
        window_yx = jnp.array(spec.window_yx, jnp.float32)
    return embed_crop(extractor, crop(canvas, size=spec.size, window_yx=window_yx))


def embed_crop(extractor: Extractor, x: Float[Array, "s s 3"]) -> Float[Array, " d"]:
    """The embedding of one crop of the network's own size, (s, s, 3) RGB in [0, 1], as float32 of length one."""
    spec = extractor.spec
    if spec.bgr:
        x = x[..., ::-1]
    x = (x * 255.0 - jnp.array(spec.mean, jnp.float32)[None, None]) / spec.scale
    precision = jnp.dtype(extractor.precision)
    params, x = jax.tree.map(lambda leaf: leaf.astype(precision), (extractor.params, x))
    raw = nnx.merge(extractor.graphdef, params)(x).astype(jnp.float32)
    return raw * jax.lax.rsqrt(jnp.maximum(jnp.sum(raw * raw), EPSILON))


@jax.jit
def embed_batch(extractor: Extractor, canvases: Float[Array, "b c c 3"]) -> Float[Array, "b d"]:
    """The embeddings of a batch of canvases, compiled: the entry for host code. Float32, length one each."""
    return jax.vmap(lambda canvas: embed(extractor, canvas))(canvases)


def embed_all(
    extractor: Extractor, canvases: Sequence[np.ndarray] | np.ndarray, *, batch: int = BATCH
) -> Float32[np.ndarray, "n d"]:
    """The embeddings of any number of canvases (c, c, 3), `batch` at a time: float32 in [0, 1], or uint8.

    The last batch is filled up with black. So one program serves all, and an embedding depends on how many there are by
    rounding alone.
    """
    rows = np.empty((len(canvases), extractor.dim), np.float32)
    for first in range(0, len(canvases), batch):
        chunk = np.stack([np.asarray(canvas) for canvas in canvases[first : first + batch]])
        scale = np.float32(255 if chunk.dtype == np.uint8 else 1)
        padded = np.zeros((batch, *chunk.shape[1:]), np.float32)
        padded[: len(chunk)] = chunk / scale
        rows[first : first + len(chunk)] = np.asarray(embed_batch(extractor, padded), np.float32)[: len(chunk)]
    return rows
