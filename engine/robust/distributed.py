"""One mesh over the devices of all processes: batches are split over it, weights copied to every device.

Each process reads its own share of every batch; the folder of checkpoints must be one that all of them see. On the
CPU the processes talk through gloo.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from engine.sharding import devices_here


def join(coordinator: str, *, processes: int, process: int) -> None:
    """Join `processes` processes, of which this is number `process`, at `coordinator`, HOST:PORT of number 0.

    Call it before the first computation. Raises ValueError for a number outside the range, or a coordinator without a
    port.
    """
    if not 0 <= process < processes:
        raise ValueError(f"this process must be one of 0 to {processes - 1}; got {process}")
    if not coordinator.rpartition(":")[2].isdecimal() or ":" not in coordinator:
        raise ValueError(f"the coordinator must be HOST:PORT of process 0; got {coordinator!r}")
    jax.distributed.initialize(coordinator, num_processes=processes, process_id=process)


def mesh(devices: int | None = None) -> Mesh:
    """All devices of all processes, or the first `devices` of a process that is alone, on the one axis "face".

    Raises ValueError when there are not that many, or when only some devices of several processes are asked for.
    """
    devices_here()
    every = jax.devices()
    count = len(every) if devices is None else devices
    if not 1 <= count <= len(every) or (jax.process_count() > 1 and count < len(every)):
        alone = jax.process_count() == 1
        raise ValueError(f"devices must be {'1 to ' if alone else ''}{len(every)} here; got {count}")
    return Mesh(every[:count], ("face",))


def split(share: Any, over: Mesh) -> Any:
    """A batch over the mesh, of which each process gives its own share of the rows."""
    sharding = NamedSharding(over, PartitionSpec("face"))
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), share)


def spread(whole: Any, over: Mesh) -> Any:
    """A batch over the mesh that every process has as a whole."""
    sharding = NamedSharding(over, PartitionSpec("face"))

    def put_rows(rows: Any) -> jax.Array:
        rows = np.asarray(rows)
        return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

    return jax.tree.map(put_rows, whole)


def copied(tree: Any, over: Mesh) -> Any:
    """A tree that every process has, copied to every device."""
    sharding = NamedSharding(over, PartitionSpec())

    def put_leaf(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put_leaf, tree)


def whole(rows: jax.Array) -> np.ndarray:
    """A batch that lies over the mesh, on the host, on every process."""
    return np.asarray(rows if rows.is_fully_addressable else multihost_utils.process_allgather(rows, tiled=True))


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
