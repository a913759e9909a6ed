"""Every test runs with JAX's strict promotion; photos of ../shared are used where they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"

FIRST = (
    "test_every_network.py",
    "test_extractors.py",
    "test_solver.py",
    "test_run.py",
    "test_ray_data.py",
    "test_ray_runner.py",
    "test_shipped_gradients.py",
)
"""The longest files: the workers of `tools/test` begin with them, so that none is left with one at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Give the session an empty folder for caches: its processes share compiled programs, and read none of the user's.

    A worker has a folder of its own in it, since JAX writes its entries in place.
    """
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        folder = Path(os.environ["XDG_CACHE_HOME"]) / worker
    else:
        caches = tempfile.TemporaryDirectory(prefix="fawkes-caches-", ignore_cleanup_errors=True)
        config.add_cleanup(caches.cleanup)
        folder = Path(caches.name)
    os.environ["XDG_CACHE_HOME"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder / "fawkes-engine"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, each whole."""
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(FIRST)))


@pytest.fixture(autouse=True, scope="module")
def two_devices(request: pytest.FixtureRequest) -> Iterator[None]:
    """Who does not say how many devices gets two, not eight: eight take that many slots, full or empty.

    A module that is about more says how many: DEVICES.
    """
    from engine import sharding  # not before jaxtyping's hook is there

    count = getattr(request.module, "DEVICES", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "devices_here", lambda: jax.local_devices()[:count])
        yield


@pytest.fixture(scope="session")
def photos() -> Path:
    """The sample photos that the project carries."""
    return REPOSITORY / "tests" / "photos"


@pytest.fixture(scope="session")
def faces_folder() -> Path:
    """The face photos for development: a clone of the project alone has none."""
    if not (SHARED / "faces").is_dir():
        pytest.skip("../shared/faces is not here: a clone of the project alone has no photos of people")
    return SHARED / "faces"


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """Programs that compile in a third of the time and run slower: for tests that compile many and run each shortly.

    They end with the module, since their results differ in the last digits from those of other processes.
    """
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations of arrays are not checked: for what the engine refuses by itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
