"""engine.bulk.linkage: short lists of neighbours give the groups of average linkage, whatever they leave out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from engine.bulk import linkage as linkages
from engine.bulk import neighbours
from engine.bulk.linkage import average_linkage


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def crowd(sizes: list[int], *, dim: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Faces round people with so many photos each, in random order, and whose they are."""
    draw = np.random.default_rng(seed)
    label = draw.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = unit(draw.normal(size=(len(sizes), dim)))
    return unit(centres[label] + noise * unit(draw.normal(size=(len(label), dim)))), label


def grouped(rows: np.ndarray, similarity: float, **more: int) -> np.ndarray:
    return average_linkage(rows.copy(), np.ones(len(rows), np.float32), similarity, **more)


def partition(number: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(number == group).tolist()) for group in np.unique(number)}


def expected(rows: np.ndarray, similarity: float) -> np.ndarray:
    tree = linkage(rows.astype(np.float64), method="average", metric="cosine")
    return fcluster(tree, 1 - similarity, criterion="distance")


@pytest.mark.parametrize("listed", [2, 16])
@pytest.mark.parametrize("similarity", [0.3, 0.5])
@pytest.mark.parametrize("sizes", [[200, 90, 40] + [1] * 60, [7] * 60, [400]], ids=["few large", "many", "one"])
def test_people_with_more_photos_than_a_list_holds(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], similarity: float, listed: int
) -> None:
    monkeypatch.setattr(linkages, "LISTED", listed)
    rows, _ = crowd(sizes, dim=24, noise=0.9)
    groups = grouped(rows, similarity)
    assert len(partition(groups)) < len(rows)
    assert partition(groups) == partition(expected(rows, similarity))


def test_a_vector_that_stands_for_several_weighs_as_many() -> None:
    rows, _ = crowd([6] * 20, dim=16, noise=0.9)
    times = np.random.default_rng(1).integers(1, 6, len(rows))
    groups = average_linkage(rows.copy(), times.astype(np.float32), 0.5)
    assert partition(np.repeat(groups, times)) == partition(expected(np.repeat(rows, times, axis=0), 0.5))


def test_equals_do_not_wait_for_each_other() -> None:
    """Three at the same distance from each other, and four in a square: somebody has to begin."""
    corners = unit(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]) + 1.0)
    assert len(partition(grouped(corners, 0.5))) == 1
    assert len(partition(grouped(corners, 0.99))) == 3
    square = unit(np.array([[1, 1, 3], [1, -1, 3], [-1, -1, 3], [-1, 1, 3]]))
    assert len(partition(grouped(square, 0.5))) == 1


@pytest.mark.parametrize("sizes", [[4] * 500, [300, 200, 100] + [3] * 400], ids=["alike", "some large"])
def test_cells_find_nearly_all(sizes: list[int]) -> None:
    rows, _ = crowd(sizes, dim=64, noise=0.75)
    exact, groups = grouped(rows, 0.5), grouped(rows, 0.5, exact=100)
    np.testing.assert_array_equal(groups, grouped(rows, 0.5, exact=100))
    shared = partition(exact) & partition(groups)
    assert len(shared) >= 0.97 * len(partition(exact))


def test_a_pair_that_one_pass_misses_is_found_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = crowd([2] * 400, dim=48, noise=0.8)
    monkeypatch.setattr(neighbours, "PROBES", 1)
    groups = []
    for looks in (1, 3):
        monkeypatch.setattr(linkages, "LOOKS", looks)
        groups.append(len(partition(grouped(rows, 0.4, exact=50))))
    assert groups[0] > groups[1] >= len(partition(grouped(rows, 0.4)))


def test_what_a_list_tells_is_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    near = neighbours.Everybody.near

    def counted(self: neighbours.Everybody, rows: np.ndarray, among: np.ndarray, **more: float) -> neighbours.Near:
        asked.append(len(rows))
        return near(self, rows, among, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(neighbours.Everybody, "near", counted)
    rows, _ = crowd([150, 80] + [5] * 150, dim=48, noise=0.8)
    grouped(rows, 0.5)
    assert asked[0] == len(rows)
    assert sum(asked[1:]) < len(rows), "comparing all is what takes long"


def test_many_that_are_equally_far_from_each_other_end() -> None:
    """More than a list holds, all as similar as each other: rounding alone says which is nearest."""
    rows = unit(np.eye(60, dtype=np.float32) + 0.3)
    assert len(partition(grouped(rows, 0.5))) == 1
    assert len(partition(grouped(rows, 0.999))) == 60
