"""All faces of a collection with their embeddings, on disk: memory does not grow with them."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import NamedTuple, overload

import numpy as np
from jaxtyping import Float32


class Seen(NamedTuple):
    """One face in the pass over all photos. own: its embeddings by the recipe's extractors. identity: one that tells
    people apart. place: of its photo among those looked at.
    """

    sha256: str
    index: int
    own: tuple[Float32[np.ndarray, "_d"], ...]
    identity: Float32[np.ndarray, "d"]
    place: int = 0


class Crowd(Sequence[Seen]):
    """Faces in the order in which they were added, in a file without a name that ends with this object.

    It lies where the system keeps temporary files (TMPDIR), 4 bytes a number: 11 KB a face for the default networks.
    """

    def __init__(self, faces: Iterable[Seen] = ()) -> None:
        """Raises OSError, as all that follows, if the disk is full."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this object
        weakref.finalize(self, self._file.close)
        self._keys: list[tuple[str, int, int]] = []
        self._edges: np.ndarray = np.zeros(1, int)
        self.extend(faces)

    def extend(self, faces: Iterable[Seen]) -> None:
        """Add faces, all with embeddings by the same networks."""
        for face in faces:
            if not self._keys:
                self._edges = np.cumsum([0, *map(len, face.own), len(face.identity)])
            self._file.write(np.concatenate([*face.own, face.identity], dtype=np.float32).tobytes())
            self._keys.append((face.sha256, face.index, face.place))

    def identities(self) -> Float32[np.ndarray, "n d"]:
        """The embeddings that tell people apart, in memory."""
        return np.array(self._rows()[:, self._edges[-2] :]) if self._keys else np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Seen: ...
    @overload
    def __getitem__(self, index: slice) -> list[Seen]: ...
    def __getitem__(self, index: int | slice) -> Seen | list[Seen]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} faces; got index {index}")
        row = np.array(self._rows()[index])
        *embeddings, identity = np.split(row, self._edges[1:-1])
        sha256, number, place = self._keys[index]
        return Seen(sha256, number, tuple(embeddings), identity, place)

    def _rows(self) -> Float32[np.ndarray, "n d"]:
        self._file.flush()
        shape = len(self._keys), int(self._edges[-1])
        return np.memmap(self._file, np.float32, "r", shape=shape)
