"""engine.evaluate.trackers: heads against references of their own, and what trackers do with photos without a face."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from there import there

from engine.evaluate import trackers
from engine.evaluate.dataset import Person
from engine.evaluate.protocol import NOBODY, measure
from engine.evaluate.trackers import DECAY, HEADS, EmbeddingTracker, softmax_regression

DIM = 24


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def crowd(
    *, people: int = 9, each: int = 6, noise: float = 0.9, dim: int = DIM, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of length one round people's own, and whose they are."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    centres = unit(np.random.default_rng(99).normal(size=(people, dim)))
    return unit(centres[labels] + noise * unit(draw.normal(size=(len(labels), dim)))), labels


def probabilities(rows: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    logits = rows.astype(np.float64) @ kernel + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def loss_of(rows: np.ndarray, labels: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> float:
    named_rightly = probabilities(rows, kernel, bias)[np.arange(len(rows)), labels]
    return float(-np.log(named_rightly).mean() + DECAY * (kernel.astype(np.float64) ** 2).sum())


def by_scipy(rows: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The same minimum in float64, with a gradient written down by hand."""
    dim, targets = rows.shape[1], np.eye(classes)[labels]

    def split(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flat[: dim * classes].reshape(dim, classes), flat[dim * classes :]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = split(flat)
        error = (probabilities(rows, kernel, bias) - targets) / len(rows)
        slope = np.concatenate([(rows.T @ error + 2 * DECAY * kernel).ravel(), error.sum(axis=0)])
        return loss_of(rows, labels, kernel, bias), slope

    options = {"gtol": 1e-10, "ftol": 1e-16, "maxiter": 10_000, "maxfun": 20_000}
    start = np.zeros(dim * classes + classes)
    return split(minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x)


@pytest.mark.parametrize(("noise", "wrong"), [(0.9, 0), (2.0, 0), (0.9, 15)])
def test_softmax_regression_converges_to_scipys_minimum(noise, wrong):
    """With people far apart, near to each other, and with labels that are partly wrong."""
    rows, labels = crowd(noise=noise)
    labels = np.concatenate([np.random.default_rng(1).permutation(labels[:wrong]), labels[wrong:]])
    rows = (rows - rows.mean(axis=0)) * 8
    kernel, bias = softmax_regression(rows, labels, classes=9)
    assert (kernel.shape, bias.shape) == ((DIM, 9), (9,))
    scipys = by_scipy(rows, labels, 9)
    least = loss_of(rows, labels, *scipys)
    assert 0 < least < loss_of(rows, labels, kernel, bias) + 1e-12 < least * 1.0005
    tests = (crowd(noise=noise, seed=5)[0] - rows.mean(axis=0)) * 8
    ours, reference = probabilities(tests, kernel, bias), probabilities(tests, *scipys)
    np.testing.assert_allclose(ours, reference, atol=1e-2)
    np.testing.assert_array_equal(ours.argmax(axis=1), reference.argmax(axis=1))


def test_a_few_rows_classes_or_dimensions_more_compile_nothing():
    rows, labels = crowd()
    softmax_regression(rows, labels, classes=9)
    compiled = trackers._minimise._cache_size()  # type: ignore[missing-attribute]  # what jax.jit returns has it
    softmax_regression(rows[:40], labels[:40], classes=7)
    softmax_regression(*crowd(people=20, each=8, dim=100), classes=20)
    assert trackers._minimise._cache_size() == compiled  # type: ignore[missing-attribute]


def test_the_linear_head_does_not_care_for_scale_and_offset_of_the_embeddings():
    """The networks' embeddings have length one, dlib's 1.4, others are what they are."""
    rows, labels = crowd(noise=1.6)
    tests = crowd(noise=1.6, seed=5)[0]
    named = HEADS["linear head"](rows, labels)(tests)
    moved = HEADS["linear head"](rows * 30 + 4, labels)(tests * 30 + 4)
    assert (named == moved).mean() > 0.98


def reference_neighbour(rows: np.ndarray, labels: np.ndarray, tests: np.ndarray) -> np.ndarray:
    return labels[cdist(unit(tests), unit(rows)).argmin(axis=1)]


def reference_centroid(rows: np.ndarray, labels: np.ndarray, tests: np.ndarray) -> np.ndarray:
    known = sorted(set(labels.tolist()))
    means = [
        np.mean([unit(row) for row, label in zip(rows, labels, strict=True) if label == person], 0) for person in known
    ]
    return np.array(known)[cdist(unit(tests), np.array(means)).argmin(axis=1)]


@pytest.mark.parametrize(
    ("head", "reference"), [("1-NN", reference_neighbour), ("nearest centroid", reference_centroid)]
)
def test_nearest_heads_agree_with_scipys_distances(head, reference):
    rows, labels = crowd(noise=1.6)
    lengths = np.random.default_rng(7).uniform(0.2, 5, (len(rows), 1)).astype(np.float32)
    tests = crowd(noise=1.6, seed=5)[0] * lengths[::-1]
    named = HEADS[head](rows * lengths, labels)(tests)
    np.testing.assert_array_equal(named, reference(rows * lengths, labels, tests))
    assert 0.3 < (named == labels).mean() < 1


@pytest.mark.parametrize("head", HEADS)
def test_every_head_knows_people_it_learnt_under_any_labels(head):
    rows, labels = crowd(noise=0.5)
    tests, truth = crowd(noise=0.5, seed=5)
    odd = np.array([4, 7, 0, 11, 3, 100, 2, 50, 9])
    named = HEADS[head](rows, odd[labels])(tests)
    assert (named == odd[truth]).mean() > 0.9
    order = np.random.default_rng(0).permutation(len(rows))
    assert (HEADS[head](rows[order], odd[labels][order])(tests) == named).mean() > 0.98


@pytest.mark.parametrize("head", HEADS)
def test_one_photo_of_one_person_is_enough_to_learn(head):
    rows, labels = crowd(people=1, each=1)
    assert HEADS[head](rows, labels + 3)(rows).tolist() == [3]


class Sees:
    """A recogniser that knows each photo's embedding; None where it finds no face."""

    extractors: tuple[str, ...] = ("tiny",)
    name, version = "sees", "1"

    def __init__(self, embeddings: dict[Path, np.ndarray | None]) -> None:
        self.embeddings = embeddings

    def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
        return [self.embeddings[photo] for photo in photos]


PEOPLE = tuple(
    Person(name, tuple(Path(f"{name}/s{n}") for n in range(6)), tuple(Path(f"{name}/t{n}") for n in range(6)))
    for name in "abcdefgh"
)
USERS, OTHERS = PEOPLE[:4], PEOPLE[4:]


def seen(noise: float = 0.7) -> dict[Path, np.ndarray | None]:
    rows, _ = crowd(people=len(PEOPLE), each=12, noise=noise)
    photos = [photo for person in PEOPLE for photo in (*person.scraped, *person.tests)]
    return dict(zip(photos, rows, strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_faceless_photos_are_not_learnt_from_and_named_nobody(head):
    embeddings = seen()
    photos, labels = [p for person in PEOPLE for p in person.scraped], np.repeat(np.arange(len(PEOPLE)), 6)
    tests = [p for person in PEOPLE for p in person.tests]
    faceless = [*photos[0:6], photos[7], tests[3], tests[-1]]
    tracker = EmbeddingTracker(Sees(embeddings | dict.fromkeys(faceless)), head)
    named = tracker.names(photos, labels, tests)
    assert named[[3, -1]].tolist() == [NOBODY, NOBODY]
    assert (np.delete(named, [3, len(tests) - 1]) != NOBODY).all()
    assert 0 not in named  # the first person's photos have all been faceless
    with_faces = [index for index, photo in enumerate(photos) if photo not in faceless]
    without = EmbeddingTracker(Sees(embeddings), head).names([photos[n] for n in with_faces], labels[with_faces], tests)
    np.testing.assert_array_equal(np.delete(named, [3, len(tests) - 1]), np.delete(without, [3, len(tests) - 1]))


@pytest.mark.parametrize("head", HEADS)
def test_no_face_anywhere_is_nobody_everywhere(head):
    photos, tests = list(USERS[0].scraped), list(USERS[0].tests)
    labels = np.zeros(6, int)
    blind = EmbeddingTracker(Sees(seen() | dict.fromkeys(photos)), head)
    assert blind.names(photos, labels, tests).tolist() == [NOBODY] * 6
    never = EmbeddingTracker(Sees(seen() | dict.fromkeys(tests)), head)
    assert never.names(photos, labels, tests).tolist() == [NOBODY] * 6
    assert never.names(photos, labels, []).tolist() == []


@pytest.mark.parametrize("head", HEADS)
def test_a_cloak_that_changes_nothing_scores_exactly_the_floor(head):
    """Also where it wrote files of its own, and at a floor that is not zero."""
    embeddings = seen(noise=1.6)
    copies = {photo: photo.with_suffix(".copy") for user in USERS for photo in user.scraped}
    embeddings |= {copy: embeddings[photo] for photo, copy in copies.items()}
    tracker = EmbeddingTracker(Sees(embeddings), head)
    measured = measure(tracker, USERS, OTHERS, cloaked=copies, made_with=("tiny",))
    assert 0 < measured.floor.value < 1
    assert measured.protection == measured.floor
    assert measured.others == measured.others_floor
    assert measured.part == "in"


@pytest.mark.parametrize("head", HEADS)
def test_a_cloak_that_moves_embeddings_away_protects(head):
    """Each user's photos look like nobody's in particular: the control of the test above."""
    embeddings = seen()
    cloaked = {photo: photo.with_suffix(".cloaked") for user in USERS for photo in user.scraped}
    for user in USERS:
        for photo in user.scraped:
            embeddings[cloaked[photo]] = -there(embeddings[photo])
    measured = measure(EmbeddingTracker(Sees(embeddings), head), USERS, OTHERS, cloaked=cloaked, made_with=())
    assert measured.floor.value < 0.1
    assert measured.protection.value > 0.9
    assert math.isclose(measured.others, 1, abs_tol=0.2)


def test_an_unknown_head_is_refused_naming_those_there_are():
    with pytest.raises(ValueError, match="linear head, 1-NN, nearest centroid; got 'svm'"):
        EmbeddingTracker(Sees({}), "svm")
