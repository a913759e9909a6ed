"""Faces of many photos in a fixed number of slots: the only edge between host and device.

Continuous batching: the device works on `size` slots, some solver steps at a time. Faces that are done leave, waiting
ones take their slots, the others go on where they are. Every program has one shape, so nothing is compiled twice. A
face's cloak depends on the others, and on when it came, by rounding alone: XLA may round differently by slot.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from engine import programs, sharding
from engine.bulk import ahead, budget
from engine.cloak import solver
from engine.cloak.objective import Extractors
from engine.config import Recipe
from engine.extractors import load, tuned
from engine.faces import Cut

log = logging.getLogger(__name__)

T = TypeVar("T")


LEAST_SHIFT = 1e-5
"""Distance that an embedding has to move: rounding alone gives some 1e-6 (`objective.distances`), a cloak .1 to 2."""


class FaceJob(NamedTuple):
    """One face on its way to the device.

    target: for each extractor (d,), as in `solver.Batch`. until: steps after which it is taken as it is, a multiple of
    CHUNK; None for all steps.
    """

    cut: Cut
    grey: bool
    sha256: str
    index: int
    target: tuple[Float32[np.ndarray, "_d"], ...]
    until: int | None = None


class FaceCloak(NamedTuple):
    """Cloak of one face. delta: (c, c, 3). dssim: on the canvas. shift: by extractor, on the canvas. steps: it took."""

    delta: Float32[np.ndarray, "c c 3"]
    dssim: float
    shift: tuple[float, ...]
    steps: int

    def fault(self, names: Sequence[str], *, scale: float = 1.0) -> str | None:
        """Why this protects nothing, as a sentence for the owner of the photo; None if every network is misled.

        names: of the extractors. scale: of the delta, as in `fit.Fitted`.
        """
        for name, shift in zip(names, self.shift, strict=True):
            if not LEAST_SHIFT < shift < np.inf:  # NaN is neither
                return (
                    f"No cloak was found: the embedding by {name} moved by {shift:.2g}, which protects nothing; check "
                    "that network, or choose other --extractors."
                )
        # Written so that NaN does not pass. Half a grey level rounds to no change of any pixel.
        if not 0.5 < float(np.abs(self.delta).max()) * scale * 255 < np.inf:
            return "No cloak was found: no pixel of the face would change; allow more --steps or a larger --rho."
        return None


@dataclass
class Usage:
    """Use of a lane's slots.

    faces: cloaked. calls: chunks of steps run. slot_steps: steps of all slots. worked: steps of the slots with a face
    at work. The occupancy is worked / slot_steps. seconds: time in `advance`. between: time from one `advance` to the
    next while there were faces in slots, the device idle.
    """

    faces: int = 0
    calls: int = 0
    slot_steps: int = 0
    worked: int = 0
    seconds: float = 0.0
    between: float = 0.0


def loaded(recipe: Recipe, device: jax.Device | None = None) -> Extractors:
    """The recipe's extractors with their weights, in the precision that it says, or else in the one that suits the
    device. Raises as `extractors.load`.
    """
    return tuple(
        load(member.name, precision=member.precision or sharding.precision(device)) for member in recipe.members
    )


class Batcher:
    """The extractors on their devices, for any number of lanes and threads."""

    def __init__(self, recipe: Recipe, extractors: Extractors, *, size: int, mesh: Mesh) -> None:
        """size: faces at once, rounded up to a multiple of the mesh's devices."""
        self.recipe = recipe
        self.size = -(-size // mesh.size) * mesh.size
        self.mesh = mesh
        log.info("%d faces at once, %d steps each, on %s", self.size, recipe.steps, [*map(str, mesh.devices.flat)])
        self.extractors = sharding.replicate(tuple(map(tuned, extractors)), mesh)
        self._prepared = False

    def prepare(self) -> None:
        """Begin to make what cloaking runs, once: for who knows that there is a face, and returns at once."""
        if not self._prepared:
            self._prepared = True
            helper = partial(ahead.helper, self.recipe, self.size)
            programs.ahead(self.programs, threads=budget.cores(), helper=helper)

    def programs(self) -> list[programs.Call]:
        """All that cloaking runs, in that order."""
        return solver.programs(self.recipe, self.extractors, self.size, sharding.of_faces(self.mesh))

    def lane(self) -> Lane:
        """Slots of its own for one stream of faces."""
        return Lane(self)

    def solve(self, jobs: Iterable[FaceJob]) -> list[FaceCloak]:
        """The cloaks of any number of faces, in order."""
        lane: Lane[int] = self.lane()
        for index, job in enumerate(jobs):
            lane.add(index, job)
        cloaks: dict[int, FaceCloak] = {}
        while lane.busy:
            cloaks.update(lane.advance())
        return [cloaks[index] for index in range(len(cloaks))]

    def embed(self, canvases: Sequence[Float32[np.ndarray, "c c 3"]]) -> list[tuple[Float32[np.ndarray, "_d"], ...]]:
        """Embedding of each canvas by every extractor, for any number of canvases."""
        self.prepare()
        embeddings: list[tuple[Float32[np.ndarray, "_d"], ...]] = []
        for first in range(0, len(canvases), self.size):
            part = list(canvases[first : first + self.size])
            padded = part + part[:1] * (self.size - len(part))
            columns = jax.device_get(solver.embed(self.extractors, self.put(np.stack(padded))))
            embeddings += [tuple(column[i] for column in columns) for i in range(len(part))]
        return embeddings

    def no_target(self) -> tuple[Float32[np.ndarray, "_d"], ...]:
        """Stand-in in a FaceJob for the face's own embedding."""
        return tuple(np.zeros(extractor.dim, np.float32) for extractor in self.extractors)

    def put(self, batch: Any) -> Any:
        """Arrays with a leading axis of `size`, over the devices."""
        return sharding.split_faces(batch, self.mesh)


class _Face(NamedTuple, Generic[T]):
    """ticket: the caller's. clean: its embeddings."""

    ticket: T
    job: FaceJob
    clean: tuple[Float32[np.ndarray, "_d"], ...] = ()


class Lane(Generic[T]):
    """One set of slots, and the faces that wait for them. A ticket is whatever the caller knows a face by.

    For one thread at a time, except that others may `add` meanwhile.
    """

    def __init__(self, batcher: Batcher) -> None:
        """Slots of the batcher's size, all empty."""
        self.batcher = batcher
        self.usage = Usage()
        self._waiting: deque[_Face[T]] = deque()
        self._posed: deque[_Face[T]] = deque()
        self._seats: list[_Face[T] | None] = [None] * batcher.size
        self._steps = np.zeros(batcher.size, int)
        self._slots: solver.Slots | None = None
        self._ended: float | None = None

    @property
    def backlog(self) -> int:
        """Faces that wait for a slot."""
        return len(self._waiting) + len(self._posed)

    @property
    def active(self) -> int:
        """Faces in slots."""
        return sum(seat is not None for seat in self._seats)

    @property
    def vacant(self) -> int:
        """Slots that would be empty if `advance` was called now."""
        return max(0, self.batcher.size - self.active - self.backlog)

    @property
    def busy(self) -> bool:
        """Whether there is any face."""
        return bool(self.active or self.backlog)

    def add(self, ticket: T, job: FaceJob) -> None:
        """A face that waits for a slot from now on."""
        self.batcher.prepare()
        self._waiting.append(_Face(ticket, job))

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Give up all faces but those whose tickets are wanted."""
        self._waiting = deque(face for face in self._waiting if wanted(face.ticket))
        self._posed = deque(face for face in self._posed if wanted(face.ticket))
        self._seats = [seat if seat is not None and wanted(seat.ticket) else None for seat in self._seats]
        if not self.busy:
            self._ended = None

    def advance(self) -> list[tuple[T, FaceCloak]]:
        """Fill the empty slots, run a chunk of steps, and return the faces that are done."""
        if not self.busy:
            return []
        begun = time.perf_counter()
        if self._ended is not None:
            self.usage.between += begun - self._ended
        self._enter()
        assert self._slots is not None
        recipe = self.batcher.recipe
        seated = np.array([seat is not None for seat in self._seats])
        limits = np.array([_limit(recipe, seat) for seat in self._seats])
        count = min(solver.CHUNK, int((limits - self._steps)[seated].max()))
        self._slots = solver.advance(recipe, self.batcher.extractors, self._slots, count)
        result: Any = jax.device_get(solver.result(recipe, self._slots))
        self._ended = time.perf_counter()
        self.usage.seconds += self._ended - begun
        self.usage.calls += 1
        self.usage.slot_steps += count * self.batcher.size
        self.usage.worked += int((result.step - self._steps)[seated].sum())
        self._steps = np.array(result.step)
        ended = result.done | (self._steps >= limits)
        done = [self._leave(slot, result) for slot in np.flatnonzero(seated & ended).tolist()]
        if not self.busy:
            self._ended = None
        return done

    def _leave(self, slot: int, result: Any) -> tuple[T, FaceCloak]:
        face = self._seats[slot]
        assert face is not None
        self._seats[slot] = None
        self.usage.faces += 1
        shift = tuple(float(value) for value in result.shift[slot])
        # A copy: the whole batch would stay for the sake of one face.
        return face.ticket, FaceCloak(
            result.delta[slot].copy(), float(result.dssim[slot]), shift, int(result.step[slot])
        )

    def _enter(self) -> None:
        vacant = [slot for slot, seat in enumerate(self._seats) if seat is None]
        self._pose(len(vacant))
        fresh = np.zeros(self.batcher.size, bool)
        for slot in vacant:
            if self._posed:
                self._seats[slot], fresh[slot] = self._posed.popleft(), True
        if not fresh.any():
            return
        entered = [seat if new else None for seat, new in zip(self._seats, fresh, strict=True)]
        filler = next(face for face in entered if face is not None)
        faces = [face or filler for face in entered]
        put = self.batcher.put
        jobs = [face.job for face in faces]
        batch = solver.Batch(
            canvas=put(np.stack([job.cut.canvas for job in jobs])),
            mask=put(np.stack([job.cut.mask for job in jobs])),
            region=put(np.stack([job.cut.region for job in jobs])),
            target=_columns(put, [job.target for job in jobs]),
            grey=put(np.array([job.grey for job in jobs])),
            identity=put(np.array([_identity(self.batcher.recipe.seed, job) for job in jobs], np.uint32)),
        )
        clean, entering = _columns(put, [face.clean for face in faces]), put(fresh)
        # XLA copies what begins as a constant to every device. Without this the step would be compiled again later,
        # when it is no constant any more.
        new = put(solver.begin(self.batcher.recipe, batch, clean, entering))
        if self._slots is None:
            self._slots = put(solver.begin(self.batcher.recipe, batch, clean, put(np.zeros_like(fresh))))
        self._slots = solver.enter(self._slots, new, entering)
        self._steps[fresh] = 0

    def _pose(self, wanted: int) -> None:
        """Embed so many waiting faces that `wanted` can enter: a whole batch if there is one, as it costs the same."""
        while len(self._posed) < wanted and self._waiting:
            faces = [self._waiting.popleft() for _ in range(min(self.batcher.size, len(self._waiting)))]
            cleans = self.batcher.embed([face.job.cut.canvas for face in faces])
            self._posed.extend(face._replace(clean=clean) for face, clean in zip(faces, cleans, strict=True))


def _limit(recipe: Recipe, seat: _Face | None) -> int:
    until = None if seat is None else seat.job.until
    return recipe.steps if until is None else min(until, recipe.steps)


def _columns(put: Callable[[Any], Any], rows: Sequence[tuple[np.ndarray, ...]]) -> tuple:
    return tuple(put(np.stack(column)) for column in zip(*rows, strict=True))


def _identity(seed: int, job: FaceJob) -> tuple[int, int, int, int]:
    return seed, int(job.sha256[:8], 16), int(job.sha256[8:16], 16), job.index
