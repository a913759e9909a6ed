"""`cloak run` without its networks, for tools/faults.py: all of it but the arithmetic of a cloak.

A stand-in's cloak is noise that depends on what a real one depends on: the photo's hash and pixels, the face, the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from engine import checkpoint
from engine.bulk import batching, cloaker
from engine.bulk.batching import FaceCloak, FaceJob, Usage
from engine.bulk.desk import Desk
from engine.bulk.goals import Bank, Target, Targets
from engine.bulk.sightings import Sightings
from engine.config import Detection, Recipe
from engine.detect import YuNet
from engine.types import Face

DIM = 16
AMPLITUDE = 0.02


class Lane:
    """Slots as of `batching.Lane`; a chunk of steps takes no time."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher, self.usage = batcher, Usage()
        self._waiting: deque[tuple[Any, FaceJob]] = deque()

    @property
    def backlog(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> int:
        return 0

    @property
    def vacant(self) -> int:
        return max(0, self.batcher.size - self.backlog)

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def add(self, ticket: Any, job: FaceJob) -> None:
        self._waiting.append((ticket, job))

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        self._waiting = deque(waiting for waiting in self._waiting if wanted(waiting[0]))

    def advance(self) -> list[tuple[Any, FaceCloak]]:
        some = [self._waiting.popleft() for _ in range(min(self.batcher.size, len(self._waiting)))]
        self.usage.faces += len(some)
        self.usage.calls += 1
        self.usage.slot_steps += self.batcher.size
        self.usage.worked += len(some)
        return [(ticket, self.batcher.cloak(job)) for ticket, job in some]


class Batcher:
    """The part of `batching.Batcher` that runs use."""

    def __init__(self, recipe: Recipe, size: int) -> None:
        self.recipe, self.size = recipe, size

    def lane(self) -> Lane:
        return Lane(self)

    def embed(self, canvases: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        return [tuple(_embedding(canvas) for _ in self.recipe.names) for canvas in canvases]

    def no_target(self) -> tuple[np.ndarray, ...]:
        return tuple(np.zeros(DIM, np.float32) for _ in self.recipe.names)

    def cloak(self, job: FaceJob) -> FaceCloak:
        canvas = job.cut.canvas
        text = f"{self.recipe.seed} {job.sha256} {job.index}".encode() + np.ascontiguousarray(canvas).tobytes()
        noise = _noise(int.from_bytes(hashlib.sha256(text).digest()[:4], "big"), canvas.shape[0])
        return FaceCloak(noise * job.cut.mask, 0.001, tuple(1.0 for _ in self.recipe.names), self.recipe.steps)


class StandIn(cloaker.Cloaker):
    """A Cloaker whose networks are noise; everything else of it is the engine's."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        detection: Detection,
        only: Sequence[Path] | None,
        batch: int | None,
        devices: int | None,
        workers: int | None,
        **rest: object,
    ) -> None:
        del devices, rest
        self.recipe, self.detection, self.workers = recipe, detection, workers or 2
        self.detector = Remembered(detection)
        self.batcher = cast(batching.Batcher, Batcher(recipe, batch or 4))
        self.desk = Desk(self.batcher, workers=self.workers)
        self._goal: Target | None = None
        self.asks = True
        self._bank: Bank = ()
        self.only = None if only is None else self._reference(only)

    @cached_property
    def _networks(self) -> list[str]:
        return [*self.recipe.names, "identity"]

    def targets(
        self,
        sources: Any,
        *,
        progress: Callable[[int], None] = lambda done: None,
        sightings: Sightings | None = None,
        **rest: object,
    ) -> Targets:
        """Looks at all photos, as the engine does under objective "person"; noise needs no mean and goes no way."""
        del rest
        self.look(sources, progress=progress, sightings=sightings)
        return {}

    def identify(self, canvases: Sequence[np.ndarray], embedded: object = None) -> list[np.ndarray]:
        del embedded
        return [_embedding(canvas) for canvas in canvases]


class Remembered:
    """YuNet that looks at no picture twice, nor does a process forked from this one."""

    known: dict[str, list[Face]] = {}  # noqa: RUF012  the point is that it is shared

    def __init__(self, detection: Detection) -> None:
        self._detection = detection

    @property
    def key(self) -> str:
        return f"stand-in {self._detection}"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        key = hashlib.sha256(f"{pixels.shape} {self._detection}".encode() + pixels.tobytes()).hexdigest()
        if key not in self.known:
            self.known[key] = list(YuNet(checkpoint.root() / "yunet.onnx", self._detection).detect(pixels))
        return self.known[key]

    @classmethod
    def save(cls, path: Path) -> None:
        """For the process that this one was forked from."""
        rows = {k: [(f.box.tolist(), f.landmarks.tolist(), f.score) for f in v] for k, v in cls.known.items()}
        path.write_text(json.dumps(rows))

    @classmethod
    def load(cls, path: Path) -> None:
        for key, faces in json.loads(path.read_text()).items():
            cls.known[key] = [
                Face(np.array(box, np.float32), np.array(marks, np.float32), score) for box, marks, score in faces
            ]


def install() -> None:
    """From now on `cloak run` takes the stand-in. Leaves the process with one thread, so that it can be forked."""
    cv2.setNumThreads(0)
    cloaker.Cloaker = StandIn  # type: ignore[misc]


def _embedding(canvas: np.ndarray) -> np.ndarray:
    vector = cv2.resize(canvas.mean(axis=2), (4, 4), interpolation=cv2.INTER_AREA).reshape(-1).astype(np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


@cache
def _noise(seed: int, side: int) -> np.ndarray:
    rough = np.random.default_rng(seed).standard_normal((side // 4, side // 4, 3)).astype(np.float32)
    return AMPLITUDE * cv2.resize(rough, (side, side), interpolation=cv2.INTER_LINEAR)
