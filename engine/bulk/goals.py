"""Goals of a collection's faces, to move from or to: the mean of a person, the way their faces go, a far centroid.

Which way a person's faces go is found on a few of them, in a few steps. All photos of the person then go that way. That
misleads whoever takes their mean or draws a line. It also moves networks that took no part further than if each photo
went its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from engine.bulk import people
from engine.bulk.crowd import Crowd, Seen
from engine.cloak.targets import farthest
from engine.config import Recipe

Target = tuple[Float32[np.ndarray, "_d"], ...]
Targets = dict[tuple[str, int], Target]
"""Targets by photo hash and index of the face."""
Bank = tuple[Float32[np.ndarray, "k _d"], ...]

SAMPLES = 4
"""Faces of a person on which it is found which way they go."""
BLOCK = 4096
"""Faces that are probed together at least, if there are so many: 20 KB each with the default networks."""


class Sample(NamedTuple):
    """One of these faces. place: of its photo among the sources. own: its embeddings. mean: those of the person."""

    place: int
    sha256: str
    index: int
    own: Target
    mean: Target


Probe = Callable[[Sequence[Sample]], list[Target | None]]
"""How far each sample moved in each network in its first steps; None for a face that cannot be cloaked."""


def grouped(recipe: Recipe, photos: int) -> bool:
    """Whether a collection of so many photos is looked at before anything is cloaked, to know who is who."""
    # No two faces of one photo are one person's.
    return recipe.objective == "target" or (recipe.objective == "person" and photos > 1)


def bank_of(recipe: Recipe) -> Bank:
    """The far targets of the recipe's objective, empty if it has none. Raises CheckpointError as `people.bank`."""
    return people.bank(recipe.names) if recipe.objective == "target" else ()


def aims(recipe: Recipe, faces: Crowd, bank: Bank, *, probe: Probe, wanted: Collection[str] | None = None) -> Targets:
    """Goal of each of these faces, as in `Cloaker.targets`.

    bank: of the recipe. wanted: hashes of the photos that matter, None for all. People in none of them are left out.
    """
    result: Targets = {}
    block: list[_Known] = []
    waiting = 0
    for person in _people(recipe, faces, wanted):
        block.append(person)
        waiting += len(person.samples)
        if waiting >= BLOCK:
            result.update(_goals(recipe, block, bank, probe))
            block, waiting = [], 0
    return result | _goals(recipe, block, bank, probe)


class _Known(NamedTuple):
    """A person. faces: all of them, by photo hash and index."""

    faces: list[tuple[str, int]]
    mean: Target
    samples: list[Sample]


def _people(recipe: Recipe, faces: Crowd, wanted: Collection[str] | None) -> Iterator[_Known]:
    if not faces:
        return
    persons = people.group(faces.identities())
    order = np.argsort(persons, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(persons[order])) + 1):
        members = [faces[i] for i in mine.tolist()]
        if wanted is not None and not any(face.sha256 in wanted for face in members):
            continue
        # A face on which a network fails is failed by itself (`FaceCloak.fault`), not with all others of its person.
        sound = [face for face in members if all(np.isfinite(row).all() for row in face.own)]
        if sound:
            mean = people.mean_embedding([face.own for face in sound])
            yield _Known([(face.sha256, face.index) for face in members], mean, samples(recipe, sound, mean))


def _goals(recipe: Recipe, known: Sequence[_Known], bank: Bank, probe: Probe) -> Targets:
    wanted = [sample for person in known for sample in person.samples]
    ways = iter(probe(wanted) if wanted else ())
    result: Targets = {}
    for person in known:
        lead = common(list(islice(ways, len(person.samples))))
        result.update(dict.fromkeys(person.faces, goal_of(recipe, person.mean, lead, bank)))
    return result


def samples(recipe: Recipe, faces: Sequence[Seen], mean: Target) -> list[Sample]:
    """The faces of a person that are probed, the same whatever their order.

    None for a person with one face: it finds its own way, like any face that is cloaked alone.
    """
    if not recipe.leads or recipe.objective != "person":
        return []
    unique = {(face.sha256, face.index): face for face in faces}
    if len(unique) < 2:
        return []
    chosen = [unique[key] for key in sorted(unique)[:SAMPLES]]
    return [Sample(face.place, face.sha256, face.index, face.own, mean) for face in chosen]


def common(ways: Sequence[Target | None]) -> Target | None:
    """The mean way of the faces of a person, of length one in each network; None if none is known."""
    sound = [way for way in ways if way is not None]
    if not sound:
        return None
    sums = [np.stack(column).astype(np.float64).sum(axis=0) for column in zip(*sound, strict=True)]
    lengths = [float(np.linalg.norm(total)) for total in sums]
    if not all(0 < length < np.inf for length in lengths):
        return None
    return tuple(np.asarray(total / length, np.float32) for total, length in zip(sums, lengths, strict=True))


def goal_of(recipe: Recipe, mean: Target, lead: Target | None, bank: Bank) -> Target:
    """Goal of the faces of a person. lead: as `common` gives it."""
    if recipe.objective == "target":
        chosen = int(farthest(jax.device_put(mean), jax.device_put(bank), seed=recipe.seed))
        return tuple(np.asarray(rows[chosen], np.float32) for rows in bank)
    if lead is None or not recipe.leads:
        return mean
    return tuple((row - recipe.lead * direction).astype(np.float32) for row, direction in zip(mean, lead, strict=True))
