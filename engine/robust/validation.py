"""How a network does on people it was not trained on, clean and attacked: what training shows and is judged by."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8, UInt32

from engine.extractors import Extractor
from engine.robust import adversary, distributed
from engine.robust.adversary import Attack, Target
from engine.robust.train import crops_of, embedded


class Held(NamedTuple):
    """Photos of the people held out, as crops of one network, on the devices.

    gallery, probes: crops (b, s, s, 3) in batches of one size, the last filled up. anchors: (v, d), the probes'
    embeddings by the frozen clean extractor. The n-th probe and the n-th photo of the gallery are of one person.
    noise: (b,) for each batch of probes, the seeds of the adversary's starts, the same for every validation.
    """

    gallery: tuple[Float[Array, "b s s 3"], ...]
    probes: tuple[Float[Array, "b s s 3"], ...]
    anchors: Float32[np.ndarray, "v d"]
    noise: tuple[UInt32[Array, " b"], ...]


class Validation(NamedTuple):
    """accuracy: share of the probes whose nearest photo of the gallery is the same person's. margin: mean cosine to
    that photo less the largest to any other. robust_accuracy, robust_margin: the same of probes that the adversary
    changed. cosine: of clean probes to the frozen clean extractor's embeddings. shift: mean distance that the adversary
    moves an embedding, 0 to 2.
    """

    accuracy: float
    margin: float
    robust_accuracy: float
    robust_margin: float
    cosine: float
    shift: float

    @property
    def score(self) -> float:
        """Score, highest for the best checkpoint: the mean of both margins. Accuracies of few people tie too often."""
        return (self.margin + self.robust_margin) / 2


def hold(
    extractor: Extractor,
    gallery: UInt8[np.ndarray, "v c c 3"],
    probes: UInt8[np.ndarray, "v c c 3"],
    anchors: Float32[np.ndarray, "v d"],
    *,
    batch: int,
    mesh: Mesh,
) -> Held:
    """The photos of the people held out, cut as the extractor wants them; batch: a multiple of the devices."""

    window = np.array(extractor.spec.window_yx, np.float32)
    windows = distributed.spread(np.tile(window, (batch, 1, 1)), mesh)

    def batches(canvases: np.ndarray) -> tuple[Array, ...]:
        filled = np.resize(canvases, (-(-len(canvases) // batch) * batch, *canvases.shape[1:]))
        parts = (distributed.spread(filled[n : n + batch], mesh) for n in range(0, len(filled), batch))
        return tuple(crops_of(extractor, part, windows) for part in parts)

    cut = batches(probes)
    noise = tuple(distributed.spread(np.arange(batch, dtype=np.uint32) + batch * n, mesh) for n in range(len(cut)))
    return Held(batches(gallery), cut, np.asarray(anchors), noise)


def measure(attack: Attack, network: Extractor, held: Held) -> Validation:
    """All figures of a network; attack: one that aims at the embedding."""
    count = len(held.anchors)
    gallery = _joined([embedded(network, crops) for crops in held.gallery], count)
    clean, changed = [], []
    for crops, noise in zip(held.probes, held.noise, strict=True):
        embeddings = embedded(network, crops)
        target = Target(None, embeddings, jnp.zeros(len(embeddings), jnp.int32))
        deltas = adversary.against(attack, network, target, crops, noise)
        clean.append(embeddings)
        changed.append(embedded(network, crops + deltas))
    return figures(gallery, _joined(clean, count), _joined(changed, count), held.anchors)


def figures(
    gallery: Float32[np.ndarray, "v d"],
    clean: Float32[np.ndarray, "v d"],
    changed: Float32[np.ndarray, "v d"],
    anchors: Float32[np.ndarray, "v d"],
) -> Validation:
    """The figures, from embeddings of length one; row n of all four is one person, of whom there are at least two."""

    def margins(rows: np.ndarray) -> np.ndarray:
        cosine = rows @ gallery.T
        best_other = np.where(np.eye(len(cosine), dtype=bool), -np.inf, cosine).max(axis=1)
        return np.diag(cosine) - best_other

    plain, harmed = margins(clean), margins(changed)
    return Validation(
        accuracy=float((plain > 0).mean()),
        margin=float(plain.mean()),
        robust_accuracy=float((harmed > 0).mean()),
        robust_margin=float(harmed.mean()),
        cosine=float((clean * anchors).sum(axis=1).mean()),
        shift=float(np.linalg.norm(changed - clean, axis=1).mean()),
    )


def _joined(parts: list[Array], count: int) -> Float32[np.ndarray, "v d"]:
    return np.concatenate([distributed.whole(part) for part in parts])[:count]
