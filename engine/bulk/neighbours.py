"""The most similar of many vectors: all of them compared, or, if they are too many, those in the cells nearby.

Blocked matrix products of NumPy do both. The cells work as the inverted file of faiss does, without the dependency.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

TILE = 1 << 24
"""Products held at once: 64 MB."""
BATCH = 1 << 16
"""Rows whose neighbours are gathered at once."""
CENTRES = 4
"""Cells for each root of the number of vectors: finding the cell then costs about what comparing inside it does."""
PROBES = 24
"""Cells in which neighbours are looked for. Among 50,000 made-up faces 16 cells find .984 of the neighbours, 32 find
.990."""
SAMPLE, TURNS = 32, 3
"""Vectors for each cell from which the centres are made, and turns of k-means (Lloyd 1982)."""


class Near(NamedTuple):
    """The neighbours of rows. ids: the most similar, -1 if there are fewer. bound: how similar any other is at most."""

    ids: Int32[np.ndarray, "n k"]
    bound: Float32[np.ndarray, "n"]


class Search(Protocol):
    """Finds neighbours by inner product."""

    def near(self, rows: Int[np.ndarray, "n"], among: Int[np.ndarray, "m"], *, count: int, floor: float) -> Near:
        """The `count` most similar others of each row, of at least `floor`. among: ascending."""
        ...

    def moved(self, rows: Int[np.ndarray, "n"]) -> None:
        """Has to be told of vectors that have changed."""
        ...


class Everybody:
    """Compares all with all."""

    def __init__(self, vectors: Float32[np.ndarray, "n d"]) -> None:
        """vectors: read at each search, and may change in place."""
        self._vectors = vectors

    def near(self, rows: Int[np.ndarray, "n"], among: Int[np.ndarray, "m"], *, count: int, floor: float) -> Near:
        """The same as in Search, and exact."""
        candidates = self._vectors[among].T
        step = max(TILE // len(among), 1)
        neighbours = []
        for first in range(0, len(rows), step):
            block = rows[first : first + step]
            products = self._vectors[block] @ candidates
            place = np.minimum(np.searchsorted(among, block), len(among) - 1)
            products[np.flatnonzero(among[place] == block), place[among[place] == block]] = -np.inf
            row, column = np.nonzero(_best(products, count + 1, floor))
            neighbours.append(_sorted(row, among[column], products[row, column], len(block), count, floor))
        return Near(*map(np.concatenate, zip(*neighbours, strict=True)))

    def moved(self, rows: Int[np.ndarray, "n"]) -> None:
        """Nothing is kept of them."""


class Cells:
    """Compares each with those in the cells whose centres are nearest to it (an inverted file, Sivic & Zisserman 2003).

    Time grows with the power 1.5 of the number. Some neighbours are missed; of the rest similarities are exact. The
    same vectors and seed have the same neighbours.
    """

    def __init__(self, vectors: Float32[np.ndarray, "n d"], *, exact: int, seed: int = 0) -> None:
        """vectors: as in Everybody. exact: so many are compared with all."""
        self._vectors, self._exact = vectors, exact
        self._all = Everybody(vectors)
        draw = np.random.default_rng(seed)
        count = min(int(CENTRES * np.sqrt(len(vectors))) + 1, len(vectors))
        sample = _unit(vectors[np.sort(draw.choice(len(vectors), min(SAMPLE * count, len(vectors)), replace=False))])
        self._centres = sample[np.sort(draw.choice(len(sample), count, replace=False))]
        for _ in range(TURNS):
            cell = self._closest(sample, 1)[:, 0]
            order = np.argsort(cell, kind="stable")
            used, first = np.unique(cell[order], return_index=True)
            self._centres[used] = _unit(np.add.reduceat(sample[order], first))
        self._cell = np.full(len(vectors), -1, np.int32)

    def near(self, rows: Int[np.ndarray, "n"], among: Int[np.ndarray, "m"], *, count: int, floor: float) -> Near:
        """See `Search`."""
        if len(among) <= self._exact:
            return self._all.near(rows, among, count=count, floor=floor)
        new = among[self._cell[among] < 0]
        for first in range(0, len(new), BATCH):
            block = new[first : first + BATCH]
            self._cell[block] = self._closest(self._vectors[block], 1)[:, 0]
        members = among[np.argsort(self._cell[among], kind="stable")]
        edges = np.searchsorted(self._cell[members], np.arange(len(self._centres) + 1))
        parts = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
        neighbours = [self._inside(part, members, edges, count, floor) for part in parts]
        return Near(*map(np.concatenate, zip(*neighbours, strict=True)))

    def moved(self, rows: Int[np.ndarray, "n"]) -> None:
        """Their cells are found anew."""
        self._cell[rows] = -1

    def _inside(
        self,
        rows: Int[np.ndarray, "n"],
        members: Int[np.ndarray, "m"],
        edges: Int[np.ndarray, "c"],
        count: int,
        floor: float,
    ) -> Near:
        """members: by cell; those of cell c are edges[c] to edges[c + 1]."""
        probed = self._closest(self._vectors[rows], min(PROBES, len(self._centres)))
        asking = np.argsort(probed.ravel(), kind="stable")
        asked = np.searchsorted(probed.ravel()[asking], np.arange(len(edges)))
        asking //= probed.shape[1]
        none = np.empty(0, np.int64)
        pairs = [(none, none, np.empty(0, np.float32))]
        for cell in np.flatnonzero((np.diff(edges) > 0) & (np.diff(asked) > 0)).tolist():
            inside = members[edges[cell] : edges[cell + 1]]
            candidates = self._vectors[inside].T
            mine = asking[asked[cell] : asked[cell + 1]]
            step = max(TILE // len(inside), 1)
            for first in range(0, len(mine), step):
                block = mine[first : first + step]
                products = self._vectors[rows[block]] @ candidates
                row, column = np.nonzero(_best(products, count + 2, floor))  # one may be the row itself
                distinct = rows[block[row]] != inside[column]
                row, column = row[distinct], column[distinct]
                pairs.append((block[row], inside[column], products[row, column]))
        row, column, product = map(np.concatenate, zip(*pairs, strict=True))
        return _sorted(row, column, product, len(rows), count, floor)

    def _closest(self, rows: Float32[np.ndarray, "n d"], count: int) -> Int32[np.ndarray, "n count"]:
        """The cells whose centres are closest."""
        closest = np.empty((len(rows), count), np.int32)
        step = max(TILE // len(self._centres), 1)
        for first in range(0, len(rows), step):
            products = rows[first : first + step] @ self._centres.T
            if count == 1:
                closest[first : first + step, 0] = products.argmax(axis=1)
            else:
                closest[first : first + step] = np.argpartition(products, -count, axis=1)[:, -count:]
        return closest


def _best(products: Float32[np.ndarray, "n m"], count: int, floor: float) -> Bool[np.ndarray, "n m"]:
    """Mask of those that are at least `floor` and, of each row, among the `count` largest."""
    chosen = products >= floor
    crowded = np.flatnonzero(np.count_nonzero(chosen, axis=1) > count)
    if len(crowded):
        values = products[crowded]
        chosen[crowded] = values >= np.partition(values, -count, axis=1)[:, -count, None]
    return chosen


def _sorted(
    row: Int[np.ndarray, "e"],
    neighbour: Int[np.ndarray, "e"],
    product: Float32[np.ndarray, "e"],
    rows: int,
    count: int,
    floor: float,
) -> Near:
    """Pairs of a row and another, as the neighbours of each row."""
    bits = product.view(np.int32)
    rank = np.where(bits < 0, ~bits | np.int32(-(2**31)), bits).astype(np.int64)  # in the order of the numbers
    order = np.argsort((row.astype(np.int64) << 32) - rank, kind="stable")
    row, neighbour, product = row[order], neighbour[order], product[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    ids, bound = np.full((rows, count), -1, np.int32), np.full(rows, floor, np.float32)
    listed, first_left_out = place < count, place == count
    ids[row[listed], place[listed]] = neighbour[listed]
    bound[row[first_left_out]] = product[first_left_out]
    return Near(ids, bound)


def _unit(rows: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
