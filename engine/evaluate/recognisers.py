"""Recognisers of trackers: photos to embeddings. Here the engine's extractors; `installed` has those of others."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from engine import checkpoint, extractors, private
from engine.bulk.dependencies import weights_of
from engine.bulk.prepare import prepare
from engine.config import CROPS, Detection
from engine.detect import YuNet
from engine.evaluate.dataset import content
from engine.extractors import Extractor, registry
from engine.faces import central
from engine.types import Face, PhotoError

BATCH = 16
"""Faces embedded at a time, always: one compiled program, and one result for a photo whatever others come with it."""
CHUNK = 64
"""Photos after which embeddings are written down: a killed run loses no more."""

S = TypeVar("S")
T = TypeVar("T")


class Recogniser(Protocol):
    """Finds the faces of photos and turns them into embeddings."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    @property
    def extractors(self) -> tuple[str, ...]:
        """Networks of the engine's registry that it is, under the registry's names.

        A library that runs the same weights names them too, so that it is never called held out when it is not.
        """
        ...

    @property
    def version(self) -> str:
        """All that makes its embeddings what they are (weights, libraries, settings), so that none is taken for
        another's.
        """
        ...

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "d"] | None]:
        """The embedding of the central face of each photo; None if this recogniser finds no face, or no photo in
        the file. Raises OSError for a file that is not there.
        """
        ...


def in_threads(work: Callable[[S], T], items: Sequence[S], *, ahead: int = 2 * BATCH) -> Iterator[T]:
    """`work` of each item, in order, up to `ahead` of them begun before they are asked for."""
    pool = ThreadPoolExecutor(os.cpu_count())
    begun: deque[Future[T]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class DetectedOnce(YuNet):
    """The engine's detector, which looks at the same pixels once, however many networks ask for their faces."""

    def __init__(self, settings: Detection | None = None) -> None:
        """settings: of the detector."""
        super().__init__(checkpoint.detector(), settings)
        self._found: dict[bytes, list[Face]] = {}

    def detect(self, pixels: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Faces, largest first."""
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self._found:
            self._found[key] = super().detect(pixels)
        return self._found[key]


class ExtractorRecogniser:
    """An extractor of the registry on the engine's detector and canvas. Its weights are loaded when first needed.

    Recognisers that share a `DetectedOnce` find the faces of a photo once; that is most of the work before a network.

    Example:
        >>> detector = DetectedOnce()
        >>> networks = [ExtractorRecogniser(name, detector) for name in ("web-incept", "sface")]
    """

    def __init__(self, name: str, detector: YuNet) -> None:
        """name: of the registry. Raises ValueError for one that it does not know, CheckpointError for one not here."""
        registry.loadable(name)
        self.name = name
        self.extractors = (name,)
        self._detector = detector

    @cached_property
    def version(self) -> str:
        """The version of weights and detector, and of what the engine does between photo and network."""
        detector = checkpoint.manifest()["detectors"]["yunet"]["sha256"]
        return f"crops {CROPS}, weights {weights_of(self.name)}, detector {detector}, {self._detector.settings}"

    @cached_property
    def _extractor(self) -> Extractor:
        return extractors.load(self.name)

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "d"] | None]:
        """Embeddings of length one. Photos are decoded and their faces found in threads while the network computes."""
        embeddings: list[Float32[np.ndarray, "d"] | None] = [None] * len(photos)
        waiting: list[tuple[int, np.ndarray]] = []

        def flush() -> None:
            if waiting:
                rows = extractors.embed_all(self._extractor, [canvas for _, canvas in waiting], batch=BATCH)
                for (index, _), row in zip(waiting, rows, strict=True):
                    embeddings[index] = row.copy()
                waiting.clear()

        for index, canvas in enumerate(in_threads(self._canvas, photos)):
            if canvas is not None:
                waiting.append((index, canvas))
            if len(waiting) == BATCH:
                flush()
        flush()
        return embeddings

    def _canvas(self, path: Path) -> Float32[np.ndarray, "c c 3"] | None:
        try:
            photo = prepare(path.read_bytes(), self._detector)
        except PhotoError:
            return None
        if not photo.faces:
            return None
        return photo.cuts[central([face.box for face in photo.faces], photo.photo.size)].canvas


class Remembered:
    """A recogniser that looks at a photo's content once, ever: embeddings stay in `folder`/embeddings.sqlite.

    They are found by the SHA-256 of the file and by the recogniser's name and version; that no face was found is
    remembered too. Any number of recognisers and processes may share a folder.
    """

    def __init__(
        self, recogniser: Recogniser, folder: Path, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        """folder: is made once there is something to remember. progress: gets what is done, and how many of how many
        photos that were not known.

        Raises ValueError if the folder has something else under that name.
        """
        self._recogniser = recogniser
        self._progress = progress
        self._file = folder / "embeddings.sqlite"
        if self._file.exists():
            self._make()

    def _make(self) -> None:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private.claim(self._file)  # SQLite gives its other files the mode of this one
        with self._open() as database:
            try:
                database.execute("PRAGMA journal_mode=WAL")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings (recogniser TEXT, version TEXT, sha256 TEXT, embedding BLOB,"
                    " PRIMARY KEY (recogniser, version, sha256)) WITHOUT ROWID"
                )
            except sqlite3.DatabaseError as error:
                raise ValueError(f"{self._file} holds no embeddings ({error}): delete it, it is made anew") from None

    @property
    def name(self) -> str:
        """The recogniser's."""
        return self._recogniser.name

    @property
    def extractors(self) -> tuple[str, ...]:
        """The recogniser's."""
        return self._recogniser.extractors

    @property
    def version(self) -> str:
        """The recogniser's."""
        return self._recogniser.version

    def missing(self, photos: Sequence[Path]) -> int:
        """How many different photos have yet to be embedded."""
        return len({content(photo) for photo in photos} - self._known().keys())

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "d"] | None]:
        """Embeddings that are known, and the rest computed, CHUNK by CHUNK, each written down when it is there."""
        hashes = [content(photo) for photo in photos]
        known = self._known()
        todo = dict(zip(reversed(hashes), reversed(photos), strict=True))  # of one content, the first photo
        new = [(sha256, todo[sha256]) for sha256 in dict.fromkeys(hashes) if sha256 not in known]
        if new:
            self._make()
        for first in range(0, len(new), CHUNK):
            some = new[first : first + CHUNK]
            rows = dict(
                zip((key for key, _ in some), self._recogniser.embed([photo for _, photo in some]), strict=True)
            )
            with self._open() as database, database:
                database.executemany(
                    "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)",
                    [
                        (self.name, self.version, key, None if row is None else row.astype("<f4").tobytes())
                        for key, row in rows.items()
                    ],
                )
            known |= rows
            if self._progress is not None:
                self._progress(f"embeddings of {self.name}", first + len(some), len(new))
        return [known[sha256] for sha256 in hashes]

    def _known(self) -> dict[str, Float32[np.ndarray, "d"] | None]:
        if not self._file.exists():
            return {}
        with self._open() as database:
            rows = database.execute(
                "SELECT sha256, embedding FROM embeddings WHERE recogniser = ? AND version = ?",
                (self.name, self.version),
            ).fetchall()
        return {
            sha256: None if blob is None else np.frombuffer(blob, "<f4").astype(np.float32) for sha256, blob in rows
        }

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self._file, timeout=60))


def available() -> tuple[str, ...]:
    """Names that `recogniser` takes: the registry's extractors, and what may be installed beside."""
    return (*registry.available(), "dlib", "opencv-sface=FILE", "human=FOLDER")


def recogniser(wanted: str, detector: YuNet) -> Recogniser:
    """A recogniser by its name: an extractor's, "dlib", "opencv-sface=FILE.onnx" or "human=FOLDER".

    detector: for the engine's own extractors; the others bring theirs. Raises ValueError for a name that there is not,
    and for what is not installed, with what to do.

    Example:
        >>> recogniser("dlib", DetectedOnce()).name
        'dlib'
    """
    from engine.evaluate import installed  # it needs `in_threads` of this module

    kind, _, place = wanted.partition("=")
    if kind in ("opencv-sface", "human"):
        if not place:
            example = "FILE.onnx" if kind == "opencv-sface" else "FOLDER"
            raise ValueError(f"{kind} needs to know where it is: {kind}={example}")
        return installed.OpenCVSFace(Path(place)) if kind == "opencv-sface" else installed.HumanNode(Path(place))
    if wanted == "dlib":
        return installed.Dlib()
    if wanted not in registry.available():
        raise ValueError(f"no recogniser is called {wanted!r}; there are {', '.join(available())}")
    return ExtractorRecogniser(wanted, detector)
