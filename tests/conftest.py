"""Every test runs with JAX's strict promotion; photos of ../shared are used where they are."""

from __future__ import annotations

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
    "test_ray_runner.py",
    "test_ray_data.py",
)
"""The longest files: the workers of `tools/test` begin with them, so that none is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, each whole."""
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(FIRST)))


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
    """Programs that compile in a third of the time and run slower: for tests that compile many and run each shortly."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations of arrays are not checked: for what the engine refuses by itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
