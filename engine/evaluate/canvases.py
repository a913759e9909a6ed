"""Photos to canvases of their central faces, for trackers that learn from pixels; kept by content hash."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from engine import files
from engine.bulk.prepare import Prepared, digest, prepare
from engine.config import CANVAS, CROPS, Detection
from engine.detect import Detector
from engine.evaluate.study import Study
from engine.faces import central
from engine.types import PhotoError

Canvas = UInt8[np.ndarray, "c c 3"]
Pixels = UInt8[np.ndarray, "h w 3"]
WORKERS = 2


@dataclass(frozen=True)
class Canvases:
    """Cuts photos. detector, settings: who finds faces, and how. folder: where canvases are kept, None for nowhere."""

    detector: Detector
    settings: Detection
    folder: Path | None = None

    @classmethod
    def of_study(cls, study: Study) -> Canvases:
        """With the study's detector and its cache."""
        return cls(study.detector, study.detection, study.out / "cache" / "canvases")

    def cut(self, photos: Sequence[Path]) -> list[Canvas | None]:
        """The canvas (176, 176, 3) of the face nearest to the middle of each photo, None if there is no face.

        A photo that cannot be decoded has no face. Raises PhotoError for a file that cannot be read at all.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self._one, photos))

    def _one(self, photo: Path) -> Canvas | None:
        hashed = digest(photo)
        if self.folder is None:
            return self._made(photo, hashed)
        by = f"{CROPS} {getattr(self.detector, 'key', None)} {self.settings}"
        file = self.folder / f"{sha256(f'{hashed} {by}'.encode()).hexdigest()}.u8"
        if file.is_file():
            pixels = file.read_bytes()
            return np.frombuffer(pixels, np.uint8).reshape(CANVAS, CANVAS, 3) if pixels else None
        made = self._made(photo, hashed)
        _write(file, made)
        return made

    def faces(self, photos: Sequence[Path]) -> list[Pixels | None]:
        """The region (h, w, 3) of the same faces in the photos' own pixels, where the budget holds; not kept."""
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self._face, photos))

    def _face(self, photo: Path) -> Pixels | None:
        prepared = self._prepared(photo, digest(photo))
        if prepared is None:
            return None
        top, left, bottom, right = prepared.regions[_middle(prepared)]
        return prepared.photo.pixels[top:bottom, left:right]

    def _made(self, photo: Path, hashed: str) -> Canvas | None:
        prepared = self._prepared(photo, hashed)
        return None if prepared is None else np.rint(prepared.cuts[_middle(prepared)].canvas * 255).astype(np.uint8)

    def _prepared(self, photo: Path, hashed: str) -> Prepared | None:
        try:
            prepared = prepare(photo, self.detector, sha256=hashed)
        except PhotoError:
            return None
        return prepared if prepared.faces else None


def _middle(prepared: Prepared) -> int:
    return central([face.box for face in prepared.faces], prepared.photo.size)


def stack(canvases: Sequence[Canvas | None]) -> tuple[UInt8[np.ndarray, "k c c 3"], np.ndarray]:
    """The canvases that are there, in one array, and which they are (n,) bool."""
    there = np.array([canvas is not None for canvas in canvases], bool)
    present = [canvas for canvas in canvases if canvas is not None]
    return np.stack(present) if present else np.empty((0, CANVAS, CANVAS, 3), np.uint8), there


# The pixels as they are, and nothing if there is no face. NumPy's own format parses Python, which older CPython
# (before 3.11.8) does not do reliably in several threads (its issue 106905).
def _write(path: Path, canvas: Canvas | None) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write(path, b"" if canvas is None else canvas.tobytes())
