"""People of a collection: faces grouped by person, the one person of `--only`, and the bank of far targets."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Float32, Int

from engine import checkpoint
from engine.bulk.linkage import average_linkage
from engine.extractors import registry

EXTRACTOR = "mobilefacenet-192"
"""The network whose embeddings tell people apart. At a false accept rate of 1e-3 it accepts 97 % of the pairs of one
person, and web-incept 86 % (python benchmarks/identity.py)."""

SIMILARITY = 0.5
"""Mean cosine similarity at which two groups of faces are one person's. Pairwise precision is .996 and recall .960 on
60 people of LFW. With 200 strangers among them these are .994 and .960, and on 38 people it was not chosen on, 1 and
.975. Lower merges strangers, higher splits people, which is worse if all photos of a person are to share a target
(python benchmarks/identity.py)."""

OTHERS = "Left as they were, unlike the reference photo:"
"""Words in the reason of a photo of which `--only` leaves faces as they are, before their number."""

SAME_PERSON = 0.45
"""Cosine similarity at which two single faces are one person's: false accept rate 1e-3, true accept rate .975. Lenient,
for a face of the person that is missed stays unprotected (python benchmarks/identity.py)."""

UNLIKE = "No face in it is enough like the reference photo."
"""The reason of a photo that `--only` leaves as it is."""

ALIKE = 0.9
"""Mean cosine from which a trained extractor shares centroids with the one it was trained from. The cosine is between
the embeddings of the two (its card's, on people held out). From there on centroids of one are where the other has these
people too."""


def same_person(reference: Float32[np.ndarray, "d"], embedding: Float32[np.ndarray, "d"]) -> bool:
    """Whether two faces are one person's. reference, embedding: of EXTRACTOR, of length one."""
    return float(reference @ embedding) >= SAME_PERSON


def group(embeddings: Float32[np.ndarray, "n d"], *, similarity: float = SIMILARITY) -> Int[np.ndarray, "n"]:
    """A person's number for every face, from 0 in the order of each person's first face.

    Average linkage on the cosine: the two most similar groups merge as long as the mean similarity of their faces is at
    least `similarity`. The partition does not depend on the order of the faces. Up to `linkage.EXACT` faces nothing is
    missed, and time grows with the square of their number. With more faces, neighbours are looked for nearby, and some
    are missed (benchmarks/scale.py).

    embeddings: of length one. Raises ValueError for anything but a matrix of finite numbers.

    Example:
        >>> group(np.eye(3, dtype=np.float32)[[2, 0, 2]])
        array([0, 1, 0])
    """
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings must be a finite (n, d) matrix; got shape {embeddings.shape}")
    if not len(embeddings):
        return np.empty(0, int)
    # Sums round differently in another order of the faces, so the order is made the same first.
    rows = np.ascontiguousarray(embeddings).view(np.dtype((np.void, embeddings[:1].nbytes))).ravel()
    order = np.argsort(rows, kind="stable")
    new = np.concatenate([[True], rows[order][1:] != rows[order][:-1]])
    index = np.cumsum(new) - 1  # photos that are there twice are one
    sizes = np.bincount(index).astype(np.float32)
    owner = np.empty(len(embeddings), int)
    owner[order] = average_linkage(embeddings[order[new]], sizes, similarity)[index]
    _, first, number = np.unique(owner, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def mean_embedding(
    embeddings: Sequence[tuple[Float32[np.ndarray, "_d"], ...]],
) -> tuple[Float32[np.ndarray, "_d"], ...]:
    """The mean of one person's faces in every extractor, scaled to length one."""
    return tuple(_unit(np.mean(column, axis=0)).astype(np.float32) for column in zip(*embeddings, strict=True))


def bank(names: Sequence[str]) -> tuple[Float32[np.ndarray, "k _d"], ...]:
    """The centroids of the population in each extractor, of length one; row i is the same group of people in all.

    An extractor that was trained to give the embeddings of another one has the other's. Raises CheckpointError for an
    extractor without centroids, or with centroids of other weights.
    """
    manifest = checkpoint.manifest()
    table = manifest.get("population", {"extractors": {}})
    names = [centroids_of(name) for name in names]
    for name in names:
        made_with = table["extractors"].get(name, {}).get("weights_sha256")
        if made_with is None or made_with != manifest["extractors"].get(name, {}).get("sha256"):
            known = ", ".join(table["extractors"]) or "none"
            raise checkpoint.CheckpointError(
                f"no population centroids for the weights of extractor {name!r} (there are some for: {known}), which "
                'objective "target" needs: use objective "away", or make them with tools/make_population.py'
            )
    shapes = {
        name: jax.ShapeDtypeStruct((table["centroids"], entry["dim"]), np.float32)
        for name, entry in table["extractors"].items()
    }
    centroids, _ = checkpoint.restore(checkpoint.root() / table["path"], shapes, sha256=table["sha256"])
    return tuple(_unit(np.asarray(centroids[name])) for name in names)  # float16 is of length one to 1/2000 only


def centroids_of(name: str) -> str:
    """The extractor whose centroids `bank` gives this one: itself, or what it was trained to be like."""
    card = registry.tables().get(name, {})
    alike = card.get("training", {}).get("cosine", 0.0) >= ALIKE
    return card["trained_from"][0] if alike and card.get("trained_from") else name


def _unit(rows: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
