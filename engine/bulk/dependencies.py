"""Dependencies of a cloak besides photo and settings: the weights of every network, and what the engine computes."""

from __future__ import annotations

from typing import Any

from engine import checkpoint
from engine.bulk import people
from engine.config import CLOAKS, CROPS, Recipe
from engine.extractors import load, registry


def dependencies(recipe: Recipe) -> dict[str, Any]:
    """Entries for JSON: `config.CLOAKS`, `config.CROPS`, and the hashes of the weights that its cloaks need.

    Those are the extractors, the detector, the network that tells people apart, and under objective "target" the bank
    of centroids. Raises ValueError for an unknown extractor, CheckpointError for one that cannot be used
    or whose weights are not installed.
    """
    manifest = checkpoint.manifest()
    checkpoint.detector()
    return {
        "cloaks": CLOAKS,
        "crops": CROPS,
        "weights": {name: weights_of(name) for name in recipe.names},
        "detector": manifest["detectors"]["yunet"]["sha256"],
        "identity": weights_of(people.EXTRACTOR),
        "bank": manifest["population"]["sha256"] if recipe.objective == "target" else None,
    }


def weights_of(name: str) -> str:
    """The content hash of an extractor's weights. Loads them if their entry does not say it."""
    return registry.loadable(name).sha256 or load(name).weights_sha256
