"""Cost of an evaluation, before it begins: photos to cloak, photos to embed, and about how long that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp

from engine.config import Recipe
from engine.evaluate.presets import Preset
from engine.evaluate.study import Study
from engine.extractors import card

SHARE = 0.3
"""Share of the device's product peak that the networks reach, forward and backward. A rough guess, not measured."""
PREPARING = 0.03
"""Seconds to decode, detect and cut a photo of 250 pixels; a rough guess."""
INSTALLED = 0.35
"""Seconds a recogniser of another library takes for a photo; a rough guess."""


@dataclass(frozen=True)
class Price:
    """The price of one preset.

    cloaks, embeddings: photos still to be cloaked, and to be shown to each recogniser. Photos of presets before it are
    not counted again. seconds: about how long, in all.
    """

    preset: str
    cloaks: int
    embeddings: int
    seconds: float


def prices(study: Study, presets: Sequence[Preset]) -> list[Price]:
    """Price that each preset adds, in this order."""
    added, priced = [], set()
    clean = len(
        {photo for person in (*study.people.users, *study.people.others) for photo in (*person.scraped, *person.tests)}
    )
    for number, preset in enumerate(presets):
        cloaks, seconds = 0, preset.seconds(study)
        for wanted in preset.cloaks(study):
            if (label := wanted.label) in priced:
                continue
            priced.add(label)
            missing = study.missing(wanted)
            cloaks += missing
            seconds += missing * seconds_per_cloak(wanted.recipe)
        embeddings = preset.embeddings(study) + (clean if number == 0 else 0)
        seconds += embeddings * sum(
            seconds_per_embedding(recogniser.extractors, recogniser.name) for recogniser in study.recognisers
        )
        added.append(Price(preset.name, cloaks, embeddings, seconds))
    return added


def seconds_per_cloak(recipe: Recipe) -> float:
    """About how long one face takes: every step a pass forward and its gradient, which costs two more."""
    turns = recipe.turns
    step = sum(gflops(recipe.names[index]) for members in turns for index in members) / len(turns)
    return PREPARING + recipe.steps * 3 * step / (SHARE * peak())


def seconds_per_embedding(extractors: Sequence[str], name: str) -> float:
    """About how long one photo takes in a recogniser: the engine's own by their operations, others INSTALLED."""
    if tuple(extractors) != (name,):
        return INSTALLED
    return PREPARING + gflops(name) / (SHARE * peak())


@cache
def gflops(name: str) -> float:
    """10^9 operations of a forward pass of one crop."""
    return float(card(name)["gflops"])


@cache
def peak(size: int = 1024) -> float:
    """GFLOP/s of a float32 product of two square matrices here: the best of five."""
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        product(matrix).block_until_ready()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best / 1e9
