"""An extractor that has seen cloaks: fine-tuned on people's photos and on those photos cloaked by this very engine.

The idea is Radiya-Dixit and Tramèr's (ICLR 2022). Whoever trains a recogniser has the tool as well, and cloaks photos
of people at hand. So features can be learnt by which a cloaked photo and a clean one are of the same person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from engine.checkpoint import content_sha256
from engine.evaluate.canvases import Canvases, stack
from engine.evaluate.descent import Schedule, fit
from engine.evaluate.training import SCALE, Classifier, embeddings, look, with_head
from engine.evaluate.views import Range, draw
from engine.extractors import Extractor

ADAPTING = Schedule(epochs=8, batch=16, rate=1e-4, least=60)
ANCHOR = 10.0
"""Weight of the distance to the plain extractor's embedding beside the cross-entropy."""


class Pair(NamedTuple):
    """Examples. canvas: of a clean or a cloaked photo. label: whose. plain: what the plain extractor makes of the clean
    one.
    """

    canvas: UInt8[Array | np.ndarray, "*n c c 3"]
    label: Int[Array | np.ndarray, "*n"]
    plain: Float[Array | np.ndarray, "*n d"]


def _alike(model: Classifier, pair: Pair, key: PRNGKeyArray, within: Range):
    embedding = look(model.extractor, pair.canvas, draw(key, within))
    logits = SCALE * embedding @ model.kernel + model.bias
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, pair.label)
    loss = loss + ANCHOR * (1 - jnp.sum(embedding * pair.plain))
    return loss, (jnp.argmax(logits) == pair.label).astype(jnp.float32)


def adapt(
    extractor: Extractor,
    clean: UInt8[np.ndarray, "n c c 3"],
    cloaked: UInt8[np.ndarray, "n c c 3"],
    labels: Int[np.ndarray, "n"],
    *,
    schedule: Schedule = ADAPTING,
    seed: int = 0,
) -> tuple[Extractor, tuple[float, ...]]:
    """The extractor, fine-tuned end to end, and the loss by epoch.

    It learns to name both versions of a photo as the same person, and to embed both where the plain extractor puts the
    clean one.

    clean, cloaked: canvases of the same photos, in one order. labels: 0..k-1, whose they are.
    """
    plain = embeddings(extractor, clean)
    examples = Pair(np.concatenate([clean, cloaked]), np.tile(labels, 2), np.tile(plain, (2, 1)))
    start = with_head(extractor, plain, labels)
    key = jax.random.key(seed)
    trained, loss, _ = fit(start, examples, objective=_alike, schedule=schedule, key=key)
    return trained.extractor, loss


@dataclass(frozen=True)
class Frozen:
    """A recogniser of an extractor at hand, plain or adapted. It remembers what it has embedded, by path."""

    name: str
    extractors: tuple[str, ...]
    extractor: Extractor
    canvases: Canvases
    known: dict[Path, Float[np.ndarray, "d"] | None] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> str:
        """The version of the weights and the detector."""
        return f"weights {content_sha256(self.extractor.params)}, {self.canvases.settings}"

    def embed(self, photos: Sequence[Path]) -> list[Float[np.ndarray, "d"] | None]:
        """See `recognisers.Recogniser`."""
        new = list(dict.fromkeys(photo for photo in photos if photo not in self.known))
        faces, there = stack(self.canvases.cut(new))
        rows = iter(embeddings(self.extractor, faces)) if len(faces) else iter(())
        self.known.update({photo: next(rows) if has else None for photo, has in zip(new, there, strict=True)})
        return [self.known[photo] for photo in photos]
