"""engine.bulk.people: faces grouped into people, and the shipped bank that each of them gets one far centroid of."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from engine import checkpoint, extractors, faces, photo
from engine.bulk import people
from engine.cloak.targets import farthest
from engine.detect import YuNet
from engine.extractors import registry


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def crowd(
    *, persons: int, each: int, noise: float = 0.6, dim: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Faces on the sphere round well separated people, and whose they are."""
    draw = np.random.default_rng(seed)
    label = np.repeat(np.arange(persons), each)
    centres = unit(draw.normal(size=(persons, dim)))
    return unit(centres[label] + noise * unit(draw.normal(size=(len(label), dim)))), label


def partition(number: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(number == label).tolist()) for label in np.unique(number)}


@pytest.mark.parametrize(("persons", "each"), [(1, 1), (1, 2), (2, 1), (1, 30), (30, 1), (12, 7), (40, 3)])
def test_people_far_apart_are_told_apart_exactly(persons, each):
    embeddings, label = crowd(persons=persons, each=each)
    assert partition(people.group(embeddings, similarity=0.45)) == partition(label)


def test_numbers_count_from_the_first_face():
    embeddings, label = crowd(persons=9, each=4)
    order = np.random.default_rng(3).permutation(len(label))
    number = people.group(embeddings[order], similarity=0.45)
    _, first = np.unique(number, return_index=True)
    assert number.dtype.kind == "i"
    assert (np.diff(first) > 0).all()
    assert number[0] == 0


def test_nobody_is_no_group():
    assert people.group(np.zeros((0, 192), np.float32)).shape == (0,)


def test_the_same_photo_many_times_is_one_person():
    embeddings, _ = crowd(persons=2, each=1)
    number = people.group(embeddings[[0, 1, 0, 0, 1, 0]], similarity=0.99)
    assert number.tolist() == [0, 1, 0, 0, 1, 0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 60),
    dim=st.sampled_from([2, 3, 16]),
    similarity=st.floats(-0.5, 0.95),
)
def test_the_order_of_the_faces_does_not_matter(seed, count, dim, similarity):
    draw = np.random.default_rng(seed)
    embeddings = unit(draw.normal(size=(count, dim)))
    order = draw.permutation(count)
    shuffled = np.empty(count, int)
    shuffled[order] = people.group(embeddings[order], similarity=similarity)
    assert partition(shuffled) == partition(people.group(embeddings, similarity=similarity))


@pytest.mark.parametrize("similarity", [-0.2, 0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("dim", [3, 8, 64])
def test_agrees_with_scipys_average_linkage(similarity, dim):
    embeddings, _ = crowd(persons=25, each=8, noise=1.0, dim=dim, seed=dim)
    tree = linkage(embeddings.astype(np.float64), method="average", metric="cosine")
    expected = fcluster(tree, 1 - similarity, criterion="distance")
    assert partition(people.group(embeddings, similarity=similarity)) == partition(expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [np.zeros(4, np.float32), np.full((2, 3), np.nan, np.float32)])
def test_what_is_not_a_matrix_of_numbers_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        people.group(bad)


def test_same_person_is_decided_at_the_threshold():
    def at(cosine: float) -> np.ndarray:
        return np.array([cosine, np.sqrt(1 - cosine**2)], np.float32)

    reference = np.array([1, 0], np.float32)
    assert people.same_person(reference, reference)
    assert people.same_person(reference, at(people.SAME_PERSON + 0.01))
    assert not people.same_person(reference, at(people.SAME_PERSON - 0.01))


def test_mean_embedding_is_the_direction_of_the_mean():
    first, second = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    flat, same = people.mean_embedding([(first, first), (second, first)])
    np.testing.assert_allclose(flat, [2**-0.5, 2**-0.5], atol=1e-6)
    np.testing.assert_allclose(same, first, atol=1e-6)


def test_the_bank_has_the_same_rows_for_every_extractor():
    names = tuple(checkpoint.manifest()["extractors"])
    banks = people.bank(names)
    table = checkpoint.manifest()["population"]
    assert {len(rows) for rows in banks} == {table["centroids"]}
    for name, rows in zip(names, banks, strict=True):
        assert rows.shape[1] == extractors.load(name).dim
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        apart = rows - rows.mean(axis=0)  # dlib-resnet's lie close together, all of anybody's
        apart /= np.linalg.norm(apart, axis=1, keepdims=True)
        similarity = apart @ apart.T
        assert (similarity[~np.eye(len(rows), dtype=bool)] < 0.99).all(), "two centroids are one"
    assert table["min_people"] >= 20


def test_the_rows_of_a_bank_are_the_same_people_in_every_extractor():
    # Groups alike for one network are alike for another, only if row i is the same people in both.
    names = tuple(checkpoint.manifest()["extractors"])
    if len(names) < 2:
        pytest.skip("one extractor only")
    first, second = people.bank(names[:2])
    pairs = np.triu_indices(len(first), k=1)
    in_first, in_second = (first @ first.T)[pairs], (second @ second.T)[pairs]
    shifted = np.roll(second, 1, axis=0)
    assert (
        np.corrcoef(in_first, in_second)[0, 1] > 0.3 > np.corrcoef(in_first, (shifted @ shifted.T)[pairs])[0, 1] + 0.1
    )


def test_the_bank_comes_in_the_order_asked_for():
    names = tuple(checkpoint.manifest()["extractors"])
    for name, rows in zip(names[::-1], people.bank(names[::-1]), strict=True):
        np.testing.assert_array_equal(rows, people.bank([name])[0])


def test_an_extractor_without_centroids_is_refused_naming_the_tool():
    with pytest.raises(checkpoint.CheckpointError, match=r"'somebody-elses'.*tools/make_population.py"):
        people.bank(["somebody-elses"])


def test_a_distilled_extractor_has_the_centroids_of_its_teacher_and_another_has_none(monkeypatch):
    known = registry.tables()

    def card(cosine: float) -> dict:
        return known["sface"] | {"trained_from": ["sface"], "training": {"cosine": cosine}}

    monkeypatch.setattr(registry, "tables", lambda: known | {"near": card(0.97), "elsewhere": card(0.6)})
    np.testing.assert_array_equal(people.bank(["near"])[0], people.bank(["sface"])[0])
    with pytest.raises(checkpoint.CheckpointError, match="elsewhere"):
        people.bank(["elsewhere"])


def test_centroids_of_other_weights_are_refused(monkeypatch):
    manifest = checkpoint.manifest()
    name = next(iter(manifest["population"]["extractors"]))
    changed = manifest["extractors"] | {name: manifest["extractors"][name] | {"sha256": "0" * 64}}
    monkeypatch.setattr(checkpoint, "manifest", lambda: manifest | {"extractors": changed})
    with pytest.raises(checkpoint.CheckpointError, match="make_population"):
        people.bank([name])


def distances(person: tuple[np.ndarray, ...], bank: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.mean(
        [np.linalg.norm(rows - embedding, axis=1) for embedding, rows in zip(person, bank, strict=True)], axis=0
    )


def test_targets_in_the_shipped_bank_are_stable_and_far():
    bank = people.bank(tuple(checkpoint.manifest()["extractors"]))
    for seed in range(4):
        person = tuple(rows[seed] for rows in bank)
        first, again = (int(farthest(person, bank, seed=seed)) for _ in range(2))
        assert first == again
        apart = distances(person, bank)
        assert apart[first] > apart.mean() + 0.1


@pytest.mark.slow
def test_real_photos_are_grouped_by_person(faces_folder):
    canvases, label = [], []
    detector = YuNet(checkpoint.detector())
    named = [folder for folder in sorted((faces_folder / "lfw").iterdir()) if len(list(folder.iterdir())) >= 12][::10][
        :8
    ]
    for number, folder in enumerate(named):
        for path in sorted(folder.iterdir())[:6]:
            pixels = photo.read(path).pixels
            middle = np.array(pixels.shape[1::-1]) / 2
            face = min(
                detector.detect(pixels),
                key=lambda candidate: np.abs(candidate.box[:2] + candidate.box[2:] / 2 - middle).sum(),
            )
            canvases.append(faces.cut(pixels, face).canvas)
            label.append(number)
    network = extractors.load(people.EXTRACTOR)
    embeddings = np.asarray(jax.device_get(extractors.embed_batch(network, np.stack(canvases))))
    number, label = people.group(embeddings), np.array(label)
    upper = np.triu_indices(len(label), k=1)
    together, same = (number[upper[0]] == number[upper[1]]), (label[upper[0]] == label[upper[1]])
    assert len(named) == 8
    assert (together & same).sum() >= 0.99 * together.sum()
    assert (together & same).sum() >= 0.9 * same.sum()
