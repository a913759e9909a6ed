"""Settings of a bench, checked, and the networks and faces that its sections share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax

from engine import sharding
from engine.bench import ceiling
from engine.bench.samples import Samples, of_photos, synthetic
from engine.bulk.batching import Batcher, FaceJob, loaded
from engine.cloak.objective import Extractors
from engine.config import Recipe
from engine.extractors.registry import find


@dataclass(frozen=True)
class Settings:
    """batches: faces at once, over all devices; by default some that suit the platform. devices: how many. faces:
    cloaked for one row of `solve`, by default three for each slot. repeats: of what takes well under a second. photos:
    files and folders, synthetic faces if there are none.
    """

    recipe: Recipe
    photos: tuple[Path, ...] = ()
    batches: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()
    faces: int | None = None
    repeats: int = 5

    def __post_init__(self) -> None:
        numbers = {"batches": self.batches, "devices": self.devices, "repeats": (self.repeats,)}
        for name, values in {**numbers, "faces": () if self.faces is None else (self.faces,)}.items():
            if any(value < 1 for value in values):
                raise ValueError(f"{name} must be at least 1; got {', '.join(map(str, values)) or 'none'}")
        for name in self.recipe.names:
            find(name)
        for count in self.devices:
            sharding.faces_mesh(count)


class Plan:
    """A bench: what its sections need, made once."""

    def __init__(self, settings: Settings) -> None:
        """Finds the faces. Raises InputError if the photos have none."""
        self.settings = settings
        self.recipe = settings.recipe
        self.samples: Samples = of_photos(settings.photos) if settings.photos else synthetic()

    @cached_property
    def extractors(self) -> Extractors:
        """With their weights, on the first device, in the precision that suits it unless the recipe says another."""
        return loaded(self.recipe)

    @cached_property
    def devices(self) -> tuple[int, ...]:
        """How many are used: one, and all of them, if the settings do not say."""
        return self.settings.devices or tuple(sorted({1, sharding.faces_mesh().size}))

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of the settings, or those worth trying here."""
        return self.settings.batches or ((1, 4, 8, 16) if jax.default_backend() == "cpu" else (8, 64, 256))

    @cached_property
    def ceilings(self) -> list[ceiling.Ceiling]:
        """The ceilings of one device."""
        return ceiling.measure(repeats=self.settings.repeats)

    def batcher(self, batch: int, devices: int, **changes: object) -> Batcher:
        """Batcher for so many faces at once. changes: to the recipe."""
        recipe = replace(self.recipe, **changes)  # type: ignore[arg-type]
        return Batcher(recipe, self.extractors, size=batch, mesh=sharding.faces_mesh(devices))

    def batchers(self) -> Iterator[tuple[Batcher, int]]:
        """Batchers for each number of devices and each batch size, which is rounded up to a multiple of the devices."""
        for devices in self.devices:
            for size in dict.fromkeys(-(-batch // devices) * devices for batch in self.batches):
                yield self.batcher(size, devices), devices

    @property
    def widest(self) -> int:
        """The largest batch, for what is measured at one size only."""
        return max(self.batches)

    def jobs(self, batcher: Batcher) -> list[FaceJob]:
        """The faces of one row of `solve`."""
        return self.some(self.settings.faces or 3 * batcher.size)

    def some(self, count: int) -> list[FaceJob]:
        """Jobs of so many faces."""
        return self.samples.jobs(count, [extractor.dim for extractor in self.extractors])
