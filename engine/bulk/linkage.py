"""Average linkage on the cosine for any number of vectors: who merges with whom is read off short lists of neighbours.

A group is the mean of its vectors, so the mean similarity of two groups is one product. Each group has the list of its
most similar others, with a bound for all that are not listed. A bound stays valid when groups merge. On average the
merged group is no more similar to a third one than the more similar of its two parts (Bruynooghe 1977). Two groups may
be each other's most similar by the lists, and above both bounds. Then they are that among all groups, and average
linkage merges them whatever else it does (Murtagh 1983). A list that is used up is made anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int

from engine.bulk.neighbours import Cells, Everybody, Search

EXACT = 50_000
"""Up to so many vectors all are compared with all, and the groups are those of average linkage to the last digit."""
LISTED = 16
"""Neighbours in a list."""
LOOKS = 3
"""Passes over more than EXACT vectors, at most: each finds what the one before missed, among fewer groups."""
SLACK = 1e-5
"""Largest difference of products of one pair, by how they are rounded."""
CHUNK = 4096
"""Rows whose products with their lists are held at once: 50 MB."""


def average_linkage(
    vectors: Float32[np.ndarray, "n d"], sizes: Float32[np.ndarray, "n"], similarity: float, *, exact: int = EXACT
) -> Int[np.ndarray, "n"]:
    """A group's number for every vector (UPGMA, Sokal & Michener 1958), cut at a mean cosine of `similarity`.

    vectors: of length one, and changed in place. sizes: how many of it there are. exact: as EXACT.
    """
    owner = np.arange(len(vectors))
    for look in range(LOOKS):
        inexact = len(vectors) > exact
        search: Search = Cells(vectors, exact=exact, seed=look) if inexact else Everybody(vectors)
        merged = _Groups(vectors, sizes, similarity, search).merged()
        places = np.flatnonzero(merged == np.arange(len(merged)))
        owner = np.searchsorted(places, merged)[owner]
        if not inexact or len(places) == len(merged):
            break
        vectors, sizes = vectors[places], sizes[places]
    return owner


class _Groups:
    """Groups on their way. Each is at the place of one of its vectors."""

    def __init__(
        self, means: Float32[np.ndarray, "n d"], sizes: Float32[np.ndarray, "n"], similarity: float, search: Search
    ) -> None:
        count = len(means)
        self._means, self._sizes, self._similarity, self._search = means, sizes, similarity, search
        self._floor = similarity - SLACK
        self._owner = np.arange(count, dtype=np.int32)
        self._lists = np.full((count, LISTED), -1, np.int32)
        self._bound = np.full(count, np.inf, np.float32)
        self._nearest = np.full(count, -1, np.int32)
        self._best = np.full(count, -np.inf, np.float32)

    def merged(self) -> Int[np.ndarray, "n"]:
        """The place of each vector's group, when nothing is left to merge."""
        active = np.arange(len(self._means))
        used_up = active
        while len(active) > 1:
            if len(used_up):
                near = self._search.near(used_up, active, count=LISTED, floor=self._floor)
                self._lists[used_up] = near.ids
                self._look_up(used_up)
                # The two may be rounded differently, and what was just searched for is not used up.
                self._bound[used_up] = np.minimum(near.bound, self._best[used_up])
            active = self._rounds(active)
            # A group with nothing similar enough will never have it, and is done.
            active = active[(self._best[active] >= self._similarity) | (self._bound[active] > self._floor)]
            used_up = active[~self._sure(active)]
            if len(active) and not len(used_up):
                active = self._paired(active)
        return self._owner

    def _rounds(self, active: Int[np.ndarray, "m"]) -> Int[np.ndarray, "left"]:
        """Merge as long as the lists tell what to."""
        while True:
            sure = active[self._sure(active)]
            mutual = sure[(self._nearest[self._nearest[sure]] == sure) & (sure < self._nearest[sure])]
            left = mutual[self._sure(self._nearest[mutual])]
            if not len(left):
                return active
            right = self._nearest[left]
            active = self._merge(active, left, right)
            touched = np.zeros(len(self._means), bool)
            touched[left] = touched[right] = True
            self._look_up(active[touched[active] | (touched[self._nearest[active]] & (self._nearest[active] >= 0))])

    def _sure(self, rows: Int[np.ndarray, "m"]) -> Bool[np.ndarray, "m"]:
        """Whether the nearest of the list is the nearest of all, and near enough."""
        return self._best[rows] >= np.maximum(self._bound[rows], self._similarity)

    def _look_up(self, rows: Int[np.ndarray, "m"]) -> None:
        """Find the nearest of each in its list: of equals the first, so that two choose each other."""
        for chunk in _chunks(rows):
            groups, values = self._valued(chunk, self._lists[chunk])
            best = values.max(axis=1)
            equal = np.where(values == best[:, None], groups, len(self._means))
            self._best[chunk] = best
            self._nearest[chunk] = np.where(best > -np.inf, equal.min(axis=1), -1)
        self._offer(rows[self._nearest[rows] >= 0])

    def _offer(self, rows: Int[np.ndarray, "m"]) -> None:
        """Have the nearest of each know of it: a search that misses some may list a pair on one side only."""
        rows = rows[np.argsort(self._best[rows], kind="stable")]
        nearest = self._nearest[rows]
        better = self._best[rows] > self._best[nearest]
        rows, nearest = rows[better], nearest[better]
        self._nearest[nearest], self._best[nearest] = rows, self._best[rows]  # of several the best, which comes last

    def _paired(self, active: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
        """Make the most similar pair mutual if none is: every group waits for one that was missed or is in a ring of
        equals. Returns the groups and those they wait for.
        """
        active = np.union1d(active, self._nearest[active])
        self._offer(active[self._nearest[active] >= 0])
        top = active[self._best[active].argmax()]
        nearest = self._nearest[top]
        self._nearest[nearest], self._best[nearest] = top, self._best[top]
        return active

    def _valued(
        self, rows: Int[np.ndarray, "m"], listed: Int[np.ndarray, "m k"]
    ) -> tuple[Int[np.ndarray, "m k"], Float32[np.ndarray, "m k"]]:
        """The groups that hold the listed ones now, and how similar they are; -inf for none, and for itself."""
        groups = self._owner[listed]
        values = np.einsum("mkd,md->mk", self._means[groups], self._means[rows])
        values[(listed < 0) | (groups == rows[:, None])] = -np.inf
        return groups, values

    def _merge(
        self, active: Int[np.ndarray, "m"], left: Int[np.ndarray, "k"], right: Int[np.ndarray, "k"]
    ) -> Int[np.ndarray, "r"]:
        """Put the groups of `right` into those of `left`, and their lists together. Returns what is left."""
        for chunk in (slice(first, first + CHUNK) for first in range(0, len(left), CHUNK)):
            host, guest = left[chunk], right[chunk]
            total = self._sizes[host] + self._sizes[guest]
            share = self._sizes[host] / total
            self._means[host] = share[:, None] * self._means[host] + (1 - share)[:, None] * self._means[guest]
            self._bound[host] = share * self._bound[host] + (1 - share) * self._bound[guest]
            self._sizes[host] = total
        self._owner[right] = left
        self._owner = self._owner[self._owner]
        self._search.moved(left)
        for chunk in (slice(first, first + CHUNK) for first in range(0, len(left), CHUNK)):
            host, guest = left[chunk], right[chunk]
            listed, values = self._valued(host, np.sort(self._both(host, guest), axis=1))
            values[:, 1:][listed[:, 1:] == listed[:, :-1]] = -np.inf
            values[values < self._floor] = -np.inf
            order = np.argsort(-values, axis=1, kind="stable")[:, : LISTED + 1]
            values, listed = np.take_along_axis(values, order, 1), np.take_along_axis(listed, order, 1)
            self._lists[host] = np.where(values > -np.inf, listed, -1)[:, :LISTED]
            self._bound[host] = np.maximum(self._bound[host], values[:, LISTED])
        keep = np.ones(len(self._means), bool)
        keep[right] = False
        return active[keep[active]]

    def _both(self, left: Int[np.ndarray, "k"], right: Int[np.ndarray, "k"]) -> Int[np.ndarray, "k l"]:
        """Two lists in one, of the groups as they are now."""
        listed = np.concatenate([self._lists[left], self._lists[right]], axis=1)
        return np.where(listed < 0, -1, self._owner[listed])


def _chunks(rows: Int[np.ndarray, "m"]) -> Iterator[Int[np.ndarray, "c"]]:
    return (rows[first : first + CHUNK] for first in range(0, len(rows), CHUNK))
