"""engine.bulk.neighbours: the most similar of many vectors, in order, with a bound for those left out."""

from __future__ import annotations

import numpy as np
import pytest

from engine.bulk import neighbours
from engine.bulk.neighbours import Cells, Everybody

DRAW = np.random.default_rng(0)
VECTORS = DRAW.normal(size=(300, 12)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def expected(row: int, among: np.ndarray, count: int, floor: float) -> tuple[list[int], float]:
    values = VECTORS[among] @ VECTORS[row]
    order = [index for index in np.argsort(-values) if among[index] != row and values[index] >= floor]
    bound = values[order[count]] if len(order) > count else floor
    return among[order[:count]].tolist(), float(bound)


@pytest.mark.parametrize("tile", [1, 700, 1 << 24])
@pytest.mark.parametrize(("count", "floor"), [(3, 0.2), (16, -0.3), (400, -1.0), (4, 0.99)])
def test_all_are_compared_in_tiles_of_any_size(
    monkeypatch: pytest.MonkeyPatch, tile: int, count: int, floor: float
) -> None:
    monkeypatch.setattr(neighbours, "TILE", tile)
    among, rows = np.arange(0, 300, 2), np.array([4, 7, 298])
    near = Everybody(VECTORS).near(rows, among, count=count, floor=floor)
    assert near.ids.shape == (3, count)
    for row, ids, bound in zip(rows, near.ids, near.bound, strict=True):
        listed, left_out = expected(row, among, count, floor)
        assert ids[ids >= 0].tolist() == listed
        assert bound == pytest.approx(left_out, abs=1e-6)


def test_cells_that_are_all_looked_into_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PROBES", 300)
    monkeypatch.setattr(neighbours, "BATCH", 50)
    rows = np.arange(300)
    exact = Everybody(VECTORS).near(rows, rows, count=5, floor=0.1)
    celled = Cells(VECTORS, exact=10).near(rows, rows, count=5, floor=0.1)
    np.testing.assert_array_equal(exact.ids, celled.ids)
    np.testing.assert_allclose(exact.bound, celled.bound, atol=1e-6)


def test_cells_are_those_of_the_vectors_as_they_are_now() -> None:
    vectors, rows = VECTORS.copy(), np.arange(300)
    cells = Cells(vectors, exact=10)
    cells.near(rows, rows, count=1, floor=0.0)
    vectors[5] = vectors[250] + 0.001
    cells.moved(np.array([5]))
    near = cells.near(np.array([5, 250]), rows, count=1, floor=0.5)
    assert near.ids.ravel().tolist() == [250, 5]


def test_few_are_all_compared() -> None:
    rows = np.arange(40)
    exact = Everybody(VECTORS).near(rows, rows, count=4, floor=-1.0)
    np.testing.assert_array_equal(Cells(VECTORS, exact=40).near(rows, rows, count=4, floor=-1.0).ids, exact.ids)
