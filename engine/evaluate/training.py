"""Trackers that train networks on what they scraped: an extractor fine-tuned end to end, and a network from scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from engine.evaluate.canvases import Canvases, stack
from engine.evaluate.descent import History, Schedule, batched, fit
from engine.evaluate.protocol import NOBODY
from engine.evaluate.small_net import SIZE, WINDOW, SmallNet, initialised
from engine.evaluate.trackers import softmax_regression
from engine.evaluate.views import Range, View, draw, lit, straight, window
from engine.extractors import Extractor, crop, embed, embed_batch, load

FINE_TUNING = Schedule(epochs=6, batch=16, rate=1e-4, watch=3, least=40)
FROM_SCRATCH = Schedule(
    epochs=40, rate=3e-3, decay=0.05, least=400, look=Range(shift=0.06, zoom=0.12, gain=0.25, lift=0.1)
)
LABEL_SMOOTHING = 0.1
"""Szegedy et al., CVPR 2016, section 7."""
KEPT = 0.5
"""Share of the small network's last features that dropout keeps."""
SCALE = 16.0
"""Cosines times this are the head's logits."""


class Photos(NamedTuple):
    """Examples. canvas: uint8, one or many. label: 0..k-1."""

    canvas: UInt8[Array | np.ndarray, "*n c c 3"]
    label: Int[Array | np.ndarray, "*n"]


class Classifier(NamedTuple):
    """An extractor and a linear softmax head on its embedding. kernel (d, k), bias (k,)."""

    extractor: Extractor
    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]


def look(extractor: Extractor, canvas: UInt8[Array | np.ndarray, "c c 3"], view: View) -> Float[Array, " d"]:
    """The embedding of a canvas as the view shows it."""
    pixels = lit(view, jnp.asarray(canvas, jnp.float32) / 255)
    return embed(extractor, pixels, window_yx=window(view, extractor.spec.window_yx))


def with_head(extractor: Extractor, rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> Classifier:
    """An extractor with a softmax head trained to convergence on embeddings of it; labels 0..k-1."""
    kernel, bias = softmax_regression(SCALE * rows, labels, classes=int(labels.max()) + 1)
    return Classifier(extractor, jnp.asarray(kernel), jnp.asarray(bias))


def logits(model: Classifier, canvas: UInt8[Array | np.ndarray, "c c 3"], view: View) -> Float[Array, " k"]:
    """Output of the head for one canvas."""
    return SCALE * look(model.extractor, canvas, view) @ model.kernel + model.bias


def _named_rightly(model: Classifier, photo: Photos, key: PRNGKeyArray, within: Range):
    scores = logits(model, photo.canvas, draw(key, within))
    loss = optax.softmax_cross_entropy_with_integer_labels(scores, photo.label)
    return loss, (jnp.argmax(scores) == photo.label).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scratch:
    """A small network and its weights; a pytree of them. graphdef: the network without weights."""

    params: Any
    graphdef: nnx.GraphDef = field(metadata={"static": True}, repr=False)

    @classmethod
    def new(cls, labels: int, *, width: int, seed: int) -> Scratch:
        """With random weights."""
        graphdef, state = nnx.split(SmallNet(labels, width=width))
        return cls(initialised(nnx.to_pure_dict(state), seed=seed), graphdef)

    def logits(
        self, canvas: UInt8[Array | np.ndarray, "c c 3"], view: View, dropout: Float[Array, "h w width"] | None = None
    ) -> Float[Array, " k"]:
        """The logits of one canvas as the view shows it."""
        pixels = lit(view, crop(jnp.asarray(canvas, jnp.float32) / 255, size=SIZE, window_yx=window(view, WINDOW)))
        return nnx.merge(self.graphdef, self.params)(pixels, dropout=dropout)


def _learnt_from_scratch(model: Scratch, photo: Photos, key: PRNGKeyArray, within: Range):
    seen, dropped = jax.random.split(key)
    side, channels = SIZE // 16, model.params["blocks"][2]["second"]["bias"].shape[0]
    dropout = jax.random.bernoulli(dropped, KEPT, (side, side, channels)).astype(jnp.float32) / KEPT
    scores = model.logits(photo.canvas, draw(seen, within), dropout)
    wanted = optax.smooth_labels(jax.nn.one_hot(photo.label, scores.shape[0]), LABEL_SMOOTHING)
    return optax.softmax_cross_entropy(scores, wanted), (jnp.argmax(scores) == photo.label).astype(jnp.float32)


@jax.jit
def _classify(model: Classifier, canvases: UInt8[Array | np.ndarray, "b c c 3"]) -> Float[Array, "b k"]:
    return jax.vmap(lambda canvas: logits(model, canvas, straight()))(canvases)


@jax.jit
def _classify_scratch(model: Scratch, canvases: UInt8[Array | np.ndarray, "b c c 3"]) -> Float[Array, "b k"]:
    def both(canvas):
        plain, flipped = (
            jax.nn.softmax(model.logits(canvas, straight(mirrored=mirrored))) for mirrored in (False, True)
        )
        return plain + flipped

    return jax.vmap(both)(canvases)


@jax.jit
def _embed(extractor: Extractor, canvases: UInt8[Array | np.ndarray, "b c c 3"]) -> Float[Array, "b d"]:
    return embed_batch(extractor, jnp.asarray(canvases, jnp.float32) / 255)


def embeddings(extractor: Extractor, canvases: UInt8[np.ndarray, "n c c 3"]) -> Float[np.ndarray, "n d"]:
    """The embeddings of canvases in 0..255, batch by batch."""
    return batched(_embed, extractor, canvases)


@dataclass(frozen=True)
class FineTuned:
    """An extractor of the registry, `network`, and a softmax head, trained end to end on the scraped photos.

    The head is trained first, on frozen embeddings, then every layer. Batch norms are folded, so there are no
    statistics to freeze.
    """

    network: str
    canvases: Canvases
    schedule: Schedule = FINE_TUNING
    seed: int = 0

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"fine-tuned {self.network}"

    @property
    def extractors(self) -> tuple[str, ...]:
        """The network it starts from."""
        return (self.network,)

    def names(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]
    ) -> Int[np.ndarray, "m"]:
        """See `protocol.Tracker`."""
        return self.learn(photos, labels, tests).named[-1]

    def learn(self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]) -> History:
        """Train, and name the tests after some epochs; `names` returns the last of these.

        Raises ValueError if no photo to learn from has a face.
        """
        known = _examples(self.canvases, photos, labels)
        extractor = load(self.network)
        model = with_head(extractor, embeddings(extractor, np.asarray(known.canvas)), np.asarray(known.label))
        return _train(model, known, self, tests, _named_rightly, _classify)


@dataclass(frozen=True)
class FromScratch:
    """A small residual network trained on the scraped photos alone (Fawkes, Shan et al. 2020, section 5.4).

    width: of its first layer, see `small_net`. It belongs to no registry, so it is always held out.
    """

    canvases: Canvases
    schedule: Schedule = FROM_SCRATCH
    width: int = 16
    seed: int = 0
    name: str = "trained from scratch"
    extractors: tuple[str, ...] = ()

    def names(
        self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]
    ) -> Int[np.ndarray, "m"]:
        """See `protocol.Tracker`."""
        return self.learn(photos, labels, tests).named[-1]

    def learn(self, photos: Sequence[Path], labels: Int[np.ndarray, "n"], tests: Sequence[Path]) -> History:
        """Train, and name the tests after some epochs; `names` returns the last of these.

        Raises ValueError if no photo to learn from has a face.
        """
        known = _examples(self.canvases, photos, labels)
        model = Scratch.new(int(known.label.max()) + 1, width=self.width, seed=self.seed)
        return _train(model, known, self, tests, _learnt_from_scratch, _classify_scratch)


def _examples(canvases: Canvases, photos: Sequence[Path], labels: Int[np.ndarray, "n"]) -> Photos:
    faces, there = stack(canvases.cut(photos))
    if not there.any():
        raise ValueError(f"no face was found on any of the {len(photos)} photos to learn from")
    return Photos(faces, np.asarray(labels, np.int32)[there])


def _train(
    model: Any,
    known: Photos,
    tracker: FineTuned | FromScratch,
    tests: Sequence[Path],
    objective: Callable,
    classify: Callable,
) -> History:
    shown, there = stack(tracker.canvases.cut(tests))
    named: dict[int, np.ndarray] = {}

    def after(epoch: int, model: Any) -> None:
        called = np.full(len(tests), NOBODY)
        if len(shown):
            called[there] = np.argmax(batched(classify, model, shown), axis=1)
        named[epoch] = called

    key = jax.random.key(tracker.seed)
    _, loss, accuracy = fit(model, known, objective=objective, schedule=tracker.schedule, key=key, after=after)
    return History(loss, accuracy, tuple(named), np.stack(list(named.values())))
