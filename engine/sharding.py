"""Devices that compute, their precision, and how a batch of faces lies on them: faces split, weights copied."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from engine import private
from engine.config import Precision
from engine.types import DeviceError

CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
"""Makes matrix products about 1.5 times faster on the CPU (jaxlib 0.10)."""
CPU_FLAG_VERSIONS = ("0.10.",)
"""XLA ends the process on a flag it does not know, so it is set only for the jaxlib releases it was tried on."""

CPU_SLOTS, ACCELERATOR_SLOTS = 8, 64
"""Faces at once unless told otherwise: on a CPU, and on each accelerator. On a CPU more gain nothing (`cloak bench`).
An accelerator is left idle by a few faces. The second number is a guess, as no accelerator was at hand."""

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""mallopt's parameters, of glibc's malloc.h."""


def configure(*, cache: Path | None = None) -> Path | None:
    """Set XLA's flags, the persistent compile cache and the C library's memory; to be called before the first
    computation of the process. Returns the folder for `programs.kept_in`, None if there must be none.

    cache: its folder; by default `fawkes-engine` in the user's cache directory. What the caller's environment says
    (XLA_FLAGS naming the same flag, JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE, MALLOC_ARENA_MAX or
    GLIBC_TUNABLES) stands. But a folder that is not the user's alone (`private.trusted`) is not used, whoever named it:
    what is cached there is run. Raises ValueError if JAX is set to 64 bits.
    """
    if jax.dtypes.canonicalize_dtype(float) != np.float32:
        raise ValueError("JAX is set to 64 bits, and cloaks are made in 32: leave jax_enable_x64 (JAX_ENABLE_X64) off")
    _keep_memory()
    flags = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib").startswith(CPU_FLAG_VERSIONS) and CPU_FLAG.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAG}".strip()
    if jax.config.values["jax_compilation_cache_dir"] is None:
        place = cache or platformdirs.user_cache_path("fawkes-engine", appauthor=False)
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    folder = str(jax.config.values["jax_compilation_cache_dir"])
    if "://" in folder:  # JAX's own kinds of store, which have permissions of their own
        return None
    if not private.trusted(Path(folder)):
        jax.config.update("jax_enable_compilation_cache", False)
    return Path(folder) / "programs" if jax.config.values["jax_enable_compilation_cache"] else None


def _keep_memory() -> None:
    """Have glibc keep what is freed.

    XLA:CPU takes a step's whole working memory, some 140 MB, from malloc and gives it back at its end. By default that
    goes to the kernel and back, which has to clear every page again. That takes a tenth to a third of a step's time
    (benchmarks/steps.py). Does nothing if the C library is another.
    """
    if not sys.platform.startswith("linux") or {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & set(os.environ):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1)):
        library.mallopt(parameter, value)


def devices_here() -> list[jax.Device]:
    """The devices of this process. Raises DeviceError if those that are asked for cannot be had."""
    try:
        return jax.local_devices()
    except (RuntimeError, AssertionError, ValueError) as error:  # whatever a platform's plugin raises
        asked = jax.config.values["jax_platforms"] or "default"
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DeviceError(
            f"JAX cannot use the platform {asked!r} here ({said}): set JAX_PLATFORMS=cpu to compute on the CPU, or "
            "install the driver and the jaxlib of that device"
        ) from error


def faces_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` local devices (all by default) with the one axis "face".

    Raises ValueError when there are not that many, DeviceError when there are none.
    """
    local = devices_here()
    count = len(local) if devices is None else devices
    if not 1 <= count <= len(local):
        raise ValueError(
            f"devices must be 1 to {len(local)}, the number of {local[0].platform} devices here; got {count}"
        )
    return Mesh(local[:count], ("face",))


def slots(platform: str, devices: int) -> int:
    """How many faces at once, if nobody says. platform: JAX's name. A CPU's devices share its cores."""
    return CPU_SLOTS if platform == "cpu" else ACCELERATOR_SLOTS * devices


BFLOAT16_GPU = 8.0
"""CUDA's compute capability from which on GPUs have such units (Ampere)."""


def precision(device: jax.Device | None = None) -> Precision:
    """Precision that suits a device, if nobody says: bfloat16 on TPUs and on GPUs that have units for it, else float32.

    device: by default the first one here. CPUs get float32, also those with AVX-512-BF16 or AMX: XLA's convolutions do
    not use their units, and a step takes longer (benchmarks/README.md).
    """
    device = devices_here()[0] if device is None else device
    if device.platform == "tpu":
        return "bfloat16"
    return "bfloat16" if device.platform == "gpu" and _capability(device) >= BFLOAT16_GPU else "float32"


def _capability(device: jax.Device) -> float:
    """CUDA's, 0 for what says none in its form."""
    try:
        return float(device.compute_capability)
    except (AttributeError, ValueError):
        return 0.0


def of_faces(mesh: Mesh) -> NamedSharding:
    """The leading axis over the mesh."""
    return NamedSharding(mesh, PartitionSpec("face"))


def split_faces(batch: Any, mesh: Mesh) -> Any:
    """Arrays of host or device with their leading axis over the mesh; it must be a multiple of the mesh's size."""
    return jax.device_put(batch, of_faces(mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A tree (the extractors) copied to every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
