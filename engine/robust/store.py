"""Aligned faces on disk: each photo is decoded and its face found once, whichever training asks for it next.

It is a folder with `canvases.u8`, the canvases one after the other. Its `index.jsonl` names the row of each photo by
the SHA-256 of its file. For each extractor there is a file of embeddings in the same order. All files are only ever
appended to, a canvas before its line of the index. So a process that is killed leaves nothing wrong behind.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, UInt8

from engine import checkpoint, files, photo, private
from engine.config import CANVAS
from engine.detect import YuNet
from engine.extractors import Extractor, embed_all
from engine.faces import central, cut
from engine.types import PhotoError

NO_FACE = -1
CHUNK = 64
"""Photos, or embeddings, between two writes."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


class Store:
    """The aligned faces of one folder, which is made when it is not there. Any number of processes may share it."""

    def __init__(self, folder: Path) -> None:
        """folder: of a user's own, as what is in it are faces. Raises ValueError for what can be no folder."""
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"{folder} can be no folder for faces, as a file lies there: name another one") from error
        for name in ("canvases.u8", "index.jsonl"):
            private.claim(folder / name)

    def align(self, photos: Sequence[Path], *, progress: Progress | None = None) -> Int[np.ndarray, " n"]:
        """The row of each photo's face, NO_FACE if it has none or cannot be read; what is new is added.

        The face of a photo is the one nearest to its centre. Another process that is adding is waited for.
        """
        keys = [_sha256(path) for path in photos]
        with self._lock():
            index = self._index()
            new = {key: path for key, path in zip(keys, photos, strict=True) if key not in index}
            detector = YuNet(checkpoint.detector())
            rows = max(index.values(), default=NO_FACE) + 1
            _truncate(self.folder / "canvases.u8", rows * CANVAS * CANVAS * 3)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for first in range(0, len(new), CHUNK):
                    chunk = list(new.items())[first : first + CHUNK]
                    canvases = pool.map(lambda item: _canvas(item[1], detector), chunk)
                    rows = self._append(index, [key for key, _ in chunk], list(canvases), rows)
                    if progress is not None:
                        progress("photos aligned", first + len(chunk), len(new))
        return np.array([index[key] for key in keys], np.int64)

    def photos(self) -> list[str]:
        """The SHA-256 of each canvas's photo, in the order of the rows."""
        with self._lock():
            keys = {row: key for key, row in self._index().items() if row != NO_FACE}
        return [keys[row] for row in range(len(keys))]

    def canvases(self) -> UInt8[np.ndarray, "n c c 3"]:
        """All canvases, mapped into memory: a row is read from the disk when it is used."""
        return _mapped(self.folder / "canvases.u8", np.dtype(np.uint8), (CANVAS, CANVAS, 3))

    def embeddings(self, extractor: Extractor, *, progress: Progress | None = None) -> Float32[np.ndarray, "n d"]:
        """The embeddings of all canvases by an extractor at its own crop, mapped into memory; those new are added."""
        path = self.folder / f"embeddings-{extractor.weights_sha256[:16]}-{extractor.precision}.f32"
        with self._lock():
            canvases = self.canvases()
            width = 4 * extractor.dim
            done = path.stat().st_size // width if path.exists() else 0
            _truncate(path, done * width)
            with path.open("ab") as file:
                for first in range(done, len(canvases), CHUNK):
                    part = canvases[first : first + CHUNK]
                    file.write(embed_all(extractor, part).tobytes())
                    if progress is not None:
                        progress("faces embedded", first + len(part), len(canvases))
        return _mapped(path, np.dtype(np.float32), (extractor.dim,))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with files.locked(self.folder / "lock", wait=True):
            yield

    def _index(self) -> dict[str, int]:
        path = self.folder / "index.jsonl"
        if not path.exists():
            return {}
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]  # a line that a killed process did not finish
        _truncate(path, len(whole))
        return {row["sha256"]: row["row"] for row in map(json.loads, whole.splitlines())}

    def _append(
        self, index: dict[str, int], keys: Sequence[str], canvases: Sequence[np.ndarray | None], rows: int
    ) -> int:
        lines = []
        with (self.folder / "canvases.u8").open("ab") as file:
            for key, canvas in zip(keys, canvases, strict=True):
                index[key] = NO_FACE if canvas is None else rows
                lines.append(json.dumps({"sha256": key, "row": index[key]}) + "\n")
                if canvas is not None:
                    file.write(canvas.tobytes())
                    rows += 1
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / "index.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines)
        return rows


def _sha256(path: Path) -> str:
    with files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canvas(path: Path, detector: YuNet) -> UInt8[np.ndarray, "c c 3"] | None:
    """The canvas of the face nearest to the centre of a photo."""
    try:
        pixels = photo.read(path).pixels
        faces = detector.detect(pixels)
        nearest = faces[central([face.box for face in faces], pixels.shape[:2])]
        return np.rint(cut(pixels, nearest).canvas * 255).astype(np.uint8)
    except (PhotoError, ValueError):  # not a photo, no face, or a face that no canvas can be cut of
        return None


def _truncate(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def _mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    count = path.stat().st_size // size if path.exists() else 0
    if not count:
        return np.empty((0, *shape), dtype)
    return np.memmap(path, dtype, "r", shape=(count, *shape))
