"""`cloak run --runner ray`: the photos of a run done by the workers of a Ray cluster, or by several on this machine.

The process that was called plans, finds out who is who and alone writes the manifest, as without Ray. Ray Data hands
out chunks of photos. A worker holds a `Cloaker`, does a chunk as `run.Here` does it, with files renamed into place, and
returns the rows. Ray starts a worker that died again and hands its chunk out again, which comes out the same up to
rounding.

All see the same files: the folder in which the command was called, the photos and the output folder.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import jax
import numpy as np

from engine import sharding
from engine.bulk.album import Album
from engine.bulk.cloaker import Cloaker
from engine.bulk.crowd import Crowd, Seen
from engine.bulk.goals import Sample, Target, Targets, aims, bank_of, grouped
from engine.bulk.inputs import OWN_FOLDER, InputError
from engine.bulk.manifest import Row
from engine.bulk.outputs import clean
from engine.bulk.pipeline import Clock
from engine.bulk.run import Here, Options, Task, fingerprint
from engine.bulk.watch import Watch
from engine.checkpoint import CheckpointError
from engine.config import Detection, Recipe

ROUNDS = 16
"""Photos of a chunk for each slot of the solver, at most: at the end of a chunk the solver runs empty once."""
CHUNKS = 4
"""Chunks that each worker gets, as long as they fill its solver. So the last to end is not far behind the others."""


@dataclass(frozen=True)
class Orders:
    """Orders to every worker. settings: as in `run`. folder: where relative paths begin."""

    recipe: Recipe
    detection: Detection
    only: tuple[Path, ...]
    batch: int | None
    devices: int | None
    workers: int | None
    out: Path
    options: Options
    settings: str
    folder: Path

    def here(self) -> Here:
        """Worker that follows them in this process, from then on in `folder`.

        Raises ValueError or CheckpointError if the run's folders are not those of the one who gave them, or a result
        would not be the same.
        """
        if self.folder.is_dir():
            os.chdir(self.folder)
        if not (self.folder.is_dir() and (self.out / OWN_FOLDER).is_dir()):
            raise ValueError(f"{self.folder} and {self.out} must be on a file system that all workers share")
        if fingerprint(self.recipe, self.detection, self.options.output, self.only) != self.settings:
            raise ValueError("another version of this program, other weights or another reference photo")
        cloaker = Cloaker(
            recipe=self.recipe,
            detection=self.detection,
            only=self.only or None,
            batch=self.batch,
            devices=self.devices,
            workers=self.workers,
        )
        return Here(cloaker, self.out, self.options)


def check(workers: int | None) -> None:
    """Raises ValueError if the extra is not installed, or the number of workers makes no sense."""
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ValueError("--runner ray needs the extra \"ray\": pip install 'fawkes-engine[ray]'")
    if workers is not None and workers < 1:
        raise ValueError(f"--ray-workers must be at least 1; got {workers}")


@contextmanager
def crew(orders: Orders, *, count: int | None) -> Iterator[Crew]:
    """The workers of the cluster at RAY_ADDRESS, or of one that is started on this machine and ends with the block.

    count: how many; by default one for each GPU (or each `devices` of them), on machines without one for each machine.
    Raises InputError if there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # The accelerators are the workers': a process that so much as looks at a GPU takes most of its memory.
    jax.config.update("jax_platforms", "cpu")
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, count)
    try:
        yield Crew(orders, count)
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, count: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS", "local")
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address == "local":
        cores = max(os.cpu_count() or 1, count or 1)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()  # Ray tries for minutes
        ray.init(address=address, **quiet)
    except OSError as error:
        raise InputError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error


class Crew:
    """A `run.Runner`: workers of the cluster that this process is connected to."""

    def __init__(self, orders: Orders, count: int | None) -> None:
        """count: as in `crew`."""
        import ray.data

        self._orders = orders
        self._data = ray.data
        self._count, self._share = _shares(ray.nodes(), count, orders.devices)
        accelerators = int(self._share.get("num_gpus", 0)) or sum(self._share.get("resources", {}).values())
        self._slots = sharding.slots("accelerator" if accelerators else "cpu", accelerators)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it would say that there are none
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):  # the other one is a file and keeps all
                handler.setLevel(logging.WARNING)

    def targets(self, sources: Sequence[Path], *, wanted: Collection[str], watch: Watch) -> Targets:
        """See `Cloaker.targets`; the workers look at the photos, and probe faces."""
        recipe = self._orders.recipe
        if not grouped(recipe, len(sources)):
            return {}
        bank = bank_of(recipe)
        chunks = self._chunks(sources)
        faces: dict[int, list[Seen]] = {}
        done = 0
        for number, seen in self._hand_out(_Looker, chunks):
            first = sum(map(len, chunks[:number]))
            faces[number] = [face._replace(place=first + face.place) for face in seen]
            done += len(chunks[number])
            watch.grouping(done, len(sources))
        crowd = Crowd(chain.from_iterable(faces[number] for number in sorted(faces)))
        probe = partial(self._probe, sources, watch=watch)
        return aims(recipe, crowd, bank, probe=probe, wanted=wanted)

    def _probe(self, sources: Sequence[Path], samples: Sequence[Sample], *, watch: Watch) -> list[Target | None]:
        chunks = self._chunks(samples)
        work = [([sources[sample.place] for sample in chunk], chunk) for chunk in chunks]
        by_chunk: dict[int, list[Target | None]] = {}
        for number, ways in self._hand_out(_Prober, work):
            by_chunk[number] = ways
            watch.probing(sum(map(len, by_chunk.values())), len(samples))
        return [way for number in sorted(by_chunk) for way in by_chunk[number]]

    def cloak(
        self,
        tasks: Sequence[Task],
        targets: Targets,
        *,
        begin: Callable[[Sequence[Task]], None],
        album: Album | None,
        clock: Clock,
        watch: Watch,
    ) -> Iterator[tuple[Task, Row]]:
        """Every task with its row, a chunk at a time. album: not needed, the workers keep articles of their own."""
        del album
        begin(tasks)  # all: which of them a worker has begun is known when it is done
        of_photo: dict[str, Targets] = defaultdict(dict)
        for (sha256, index), target in targets.items():
            of_photo[sha256][sha256, index] = target
        chunks = self._chunks(tasks)
        work = [
            (chunk, {key: target for task in chunk for key, target in of_photo[task.sha256].items()})
            for chunk in chunks
        ]
        faces = 0
        for number, (rows, spent) in self._hand_out(_Cloaker, work):
            for name, value in spent.items():
                clock.add(name, value)
            faces += sum(len(row["faces"]) for _, row in rows)
            watch.solving(faces, 0)
            yield from ((chunks[number][i], Row(**row)) for i, row in rows)
        clean(self._orders.out, shard=self._orders.options.shard)

    def _chunks(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        slots = self._orders.batch or self._slots
        rounds = min(-(-len(items) // (CHUNKS * self._count * slots)), ROUNDS)
        size = rounds * slots
        return [items[first : first + size] for first in range(0, len(items), size)]

    def _hand_out(self, worker: type[_Worker], chunks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Outcome of every chunk, with its number, as they are done. Raises InputError for a worker's refusal."""
        waiting = self._data.from_items(
            [{"chunk": pickle.dumps((number, chunk))} for number, chunk in enumerate(chunks)],
            override_num_blocks=len(chunks),
        )
        done = waiting.map_batches(
            worker,
            fn_constructor_args=(self._orders,),
            batch_size=1,
            batch_format="numpy",
            compute=self._data.ActorPoolStrategy(size=min(self._count, len(chunks))),
            **self._share,
        )
        for row in done.iter_rows():
            result = pickle.loads(row["result"])
            if result.refusal:
                raise InputError(result.refusal)
            yield result.number, result.value


def _shares(nodes: Sequence[dict[str, Any]], count: int | None, devices: int | None) -> tuple[int, dict[str, Any]]:
    """How many workers, and what each of them asks of Ray. Raises InputError for more devices than a node has."""
    machines = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    for kind in ("GPU", "TPU"):
        most = max((int(node.get(kind, 0)) for node in machines), default=0)
        if not most:
            continue
        each = devices or (1 if kind == "GPU" else most)
        if each > most:
            raise InputError(f"devices must be 1 to {most}, the {kind}s of one machine of the cluster; got {each}")
        share = {"num_gpus": each} if kind == "GPU" else {"resources": {kind: each}}
        return count or sum(int(node.get(kind, 0)) // each for node in machines), share
    return count or max(len(machines), 1), {"num_cpus": 1}


class _Result(NamedTuple):
    """The result of one chunk. refusal: why the worker cannot do it, "" if it can."""

    number: int
    value: Any
    refusal: str = ""


class _Worker:
    """Does chunks, in a process that Ray starts."""

    def __init__(self, orders: Orders) -> None:
        self._refusal = ""
        try:
            self._here = orders.here()
        except (ValueError, CheckpointError) as error:  # Ray would start it again and again
            self._refusal = f"the worker on {socket.gethostname()}: {error}"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = [pickle.dumps(self._result(*pickle.loads(chunk))) for chunk in batch["chunk"]]
        return {"result": np.array(results, dtype=object)}

    def _result(self, number: int, chunk: Any) -> _Result:
        return _Result(number, None, self._refusal) if self._refusal else _Result(number, self._do(chunk))

    def _do(self, chunk: Any) -> Any:
        raise NotImplementedError


class _Looker(_Worker):
    """Sees who is in photos."""

    def _do(self, chunk: Sequence[Path]) -> list[Seen]:
        return list(self._here.cloaker.look(chunk, sightings=self._here.sightings))


class _Prober(_Worker):
    """Finds which way faces go."""

    def _do(self, chunk: tuple[Sequence[Path], Sequence[Sample]]) -> list[Target | None]:
        sources, samples = chunk
        placed = [sample._replace(place=place) for place, sample in enumerate(samples)]
        return self._here.cloaker.probe(sources, placed, sightings=self._here.sightings)


class _Cloaker(_Worker):
    """Cloaks photos: (index, row) of each of a chunk, and the seconds spent."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(orders)
        keep = orders.options.album and not self._refusal
        self._album = Album(orders.out, shard=orders.options.shard, helper=uuid4().hex) if keep else None

    def _do(self, chunk: tuple[Sequence[Task], Targets]) -> tuple[list[tuple[int, dict[str, Any]]], dict[str, float]]:
        tasks, targets = chunk
        places = {task.item.target: index for index, task in enumerate(tasks)}
        clock = Clock()
        done = self._here.cloak(tasks, targets, album=self._album, clock=clock)
        return [(places[task.item.target], asdict(row)) for task, row in done], asdict(clock)
