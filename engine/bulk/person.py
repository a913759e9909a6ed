"""Person whom the caller knows to be in a photo: a `Person`, made once of some of their photos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int

from engine.bulk import people
from engine.bulk.claims import listed
from engine.bulk.crowd import Seen

LENGTH = 0.01
"""How much the length of an embedding may differ from one."""
_KIND = b"fawkes person "
_HEAD = _KIND + b"2\n"
_CHECK = hashlib.sha256().digest_size
"""Bytes at the end: the SHA-256 of all before them."""


@dataclass(frozen=True, eq=False, repr=False)
class Person:
    """Embeddings that objective "person" moves a person's faces away from, and which way. It never changes.

    own: the mean by each extractor of a recipe. identity: the mean by the network that tells people apart. lead: for
    each extractor the way that all of their faces go, None if one photo alone says who they are. All are of length one.
    networks: the SHA-256 that names these networks. A Person serves every Cloaker with the same ones. It
    describes a face, so keep it as private as the photos.
    """

    own: tuple[Float32[np.ndarray, "_d"], ...]
    identity: Float32[np.ndarray, "d"]
    networks: str
    lead: tuple[Float32[np.ndarray, "_d"], ...] | None = None

    def __repr__(self) -> str:
        """Without the embeddings, which are not to get into logs."""
        return f"<Person for the networks {self.networks[:8]}{'' if self.lead is None else ', with a lead'}>"

    def __eq__(self, other: object) -> bool:
        """Whether both are the same by `to_bytes`."""
        return self.to_bytes() == other.to_bytes() if isinstance(other, Person) else NotImplemented

    def __hash__(self) -> int:
        """That of `to_bytes`."""
        return hash(self.to_bytes())

    def going(self, lead: tuple[Float32[np.ndarray, "_d"], ...] | None) -> Person:
        """The same person with that lead."""
        return Person.from_bytes(replace(self, lead=lead).to_bytes())

    def to_bytes(self) -> bytes:
        """Everything, in some kilobytes: the same for the same person."""
        rows = [np.asarray(row, "<f4") for row in (*self.own, self.identity, *(self.lead or ()))]
        sizes = np.array([len(self.own), len(rows), *map(len, rows)], "<u4")
        data = _HEAD + bytes.fromhex(self.networks) + sizes.tobytes() + b"".join(row.tobytes() for row in rows)
        return data + hashlib.sha256(data).digest()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Person:
        """A Person of what `to_bytes` gave, in a buffer of any kind. Raises ValueError for anything else."""
        start = len(_HEAD) + 32
        with suppress(TypeError):
            data = memoryview(data).tobytes()
        if isinstance(data, bytes) and data.startswith(_KIND) and not data.startswith(_HEAD):
            raise ValueError("this Person is of another version of this program: make it again from photos")
        try:
            if not isinstance(data, bytes) or not data.startswith(_HEAD):
                raise ValueError
            data, check = data[:-_CHECK], data[-_CHECK:]
            if hashlib.sha256(data).digest() != check:
                raise ValueError
            networks, count = np.frombuffer(data, "<u4", 2, start).tolist()
            sizes = np.frombuffer(data, "<u4", count, start + 8).astype(int)
            numbers = np.frombuffer(data, "<f4", -1, start + 8 + 4 * count)
            if networks < 1 or count not in (networks + 1, 2 * networks + 1) or len(numbers) != sizes.sum():
                raise ValueError
            if count > networks + 1 and sizes[networks + 1 :].tolist() != sizes[:networks].tolist():
                raise ValueError
        except ValueError:
            raise ValueError("this is no Person: it must be what Person.to_bytes gave, whole") from None
        rows = np.split(numbers.astype(np.float32), np.cumsum(sizes)[:-1])
        for row in rows:
            if not abs(float(np.linalg.norm(row.astype(np.float64))) - 1) <= LENGTH:  # NaN is refused too
                raise ValueError("this is no Person: its embeddings are not of length 1")
            row.flags.writeable = False
        lead = tuple(rows[networks + 1 :]) or None
        return cls(tuple(rows[:networks]), rows[networks], data[len(_HEAD) : start].hex(), lead)


def named(networks: Sequence[str]) -> str:
    """The SHA-256 of the keys of networks, as in `Person.networks`."""
    return hashlib.sha256("\n".join(networks).encode()).hexdigest()


def of_faces(faces: Sequence[Seen], networks: Sequence[str]) -> Person:
    """The person of these faces."""
    *embeddings, identity = people.mean_embedding([(*face.own, face.identity) for face in faces])
    person = Person(tuple(embeddings), identity, named(networks))
    return Person.from_bytes(person.to_bytes())


def shown(photos: Sequence[Sequence[Seen]], names: Sequence[str]) -> list[Seen]:
    """The faces of the person whom photos show, whatever their order, and however often one of them is given.

    Photos with one face say who it is: the person of more than half of them (`people.group`). The caller says that they
    are of one person, so they are grouped at SAME_PERSON and not at SIMILARITY. In each of the other photos the face
    most like that one counts, if it is alike enough. names: what to call each photo, by its place. Raises ValueError if
    there is no photo, if none shows one face alone, or if those that do show different people.
    """
    if not names:
        raise ValueError("no photo was given: give some of the person, three or more are best")
    unique = {faces[0].sha256: faces for faces in photos if faces and _sound(faces)}
    sure = [unique[sha256][0] for sha256 in sorted(unique) if len(unique[sha256]) == 1]
    if not sure:
        raise ValueError("no photo shows one face alone: add one that does, so that it is clear who is meant")
    numbers = people.group(np.stack([face.identity for face in sure]), similarity=people.SAME_PERSON)
    most = int(np.bincount(numbers).argmax())
    chosen = [face for face, number in zip(sure, numbers, strict=True) if number == most]
    if 2 * len(chosen) <= len(sure):
        raise ValueError(_different(sure, numbers, names))
    (identity,) = people.mean_embedding([(face.identity,) for face in chosen])
    for sha256 in sorted(unique):
        faces = unique[sha256]
        best = max(faces, key=lambda face: float(identity @ face.identity))
        if len(faces) > 1 and people.same_person(identity, best.identity):
            chosen.append(best)
    return chosen


def _different(sure: Sequence[Seen], numbers: Int[np.ndarray, "_n"], names: Sequence[str]) -> str:
    """Words for photos of which no more than half are alike. sure: their faces. numbers: whose group each is in."""
    groups = [
        [names[place] for place in sorted(face.place for face, own in zip(sure, numbers, strict=True) if own == number)]
        for number in range(max(numbers) + 1)
    ]
    most = max(map(len, groups))
    words = [f"the photos seem to show different people: of {len(sure)} with one face, no more than {most} are alike."]
    if alike := sorted(listed(group) for group in groups if len(group) > 1):
        words.append(f"Alike are {'; '.join(alike)}.")
    if alone := [group[0] for group in groups if len(group) == 1]:
        words.append(f"Like no other: {listed(sorted(alone))}.")
    return " ".join([*words, "Give more photos of the person, or clearer ones from the front."])


def _sound(faces: Sequence[Seen]) -> bool:
    return all(np.isfinite(row).all() for face in faces for row in (*face.own, face.identity))
