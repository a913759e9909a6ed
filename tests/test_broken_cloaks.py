"""The evaluation cannot be fooled: what is no cloak scores like the floor where a cloak does not, by the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from engine import Cloaker, Recipe
from engine.bulk.prepare import prepare
from engine.cloak import solver
from engine.dssim import dssim_pixels
from engine.evaluate.dataset import Person, choose
from engine.evaluate.presets import common
from engine.evaluate.protocol import classify, measure
from engine.evaluate.recognisers import DetectedOnce, ExtractorRecogniser, Remembered
from engine.evaluate.trackers import EmbeddingTracker
from engine.extractors import Extractor, embed_batch

Pixels = np.ndarray
SLACK = 0.12
"""How far from the floor still counts as it: one test photo of sixteen, or of twelve."""


def same_dssim(before: Pixels, after: Pixels, *, seed: int, region: tuple[int, int, int, int]) -> Pixels:
    """White noise added to `before`, as strong as the change to `after` by DSSIM in the region (t, l, b, r)."""
    noise = np.random.default_rng(seed).standard_normal(before.shape)
    budget = spent(before, after, region)
    low, high = 0.0, 128.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(before, _noisy(before, middle * noise), region) <= budget else (low, middle)
    return _noisy(before, low * noise)


def spent(before: Pixels, after: Pixels, region: tuple[int, int, int, int]) -> float:
    top, left, bottom, right = region
    return dssim_pixels(before[top:bottom, left:right], after[top:bottom, left:right])


def _noisy(pixels: Pixels, noise: np.ndarray) -> Pixels:
    return np.rint(pixels + noise).clip(0, 255).astype(np.uint8)


def pasted(before: Pixels, other_before: Pixels, other_after: Pixels) -> Pixels:
    """A photo with the change that a cloak made to another photo of the same size."""
    change = other_after.astype(int) - other_before
    return (before + change).clip(0, 255).astype(np.uint8)


def written(folder: Path, photos: Mapping[Path, Pixels]) -> dict[Path, Path]:
    """By original its changed file."""
    files = {}
    for number, (photo, pixels) in enumerate(photos.items()):
        files[photo] = folder / f"{number}.png"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(files[photo])
    return files


def judge(
    tracker: EmbeddingTracker,
    people: tuple[Sequence[Person], Sequence[Person]],
    folder: Path,
    before: Mapping[Path, Pixels],
    cloaked: Mapping[Path, Pixels],
    regions: Mapping[Path, tuple[int, int, int, int]],
) -> None:
    """Cloaks, and what is none of the same strength, under the same measure."""
    own = list(before)
    foreign = dict(zip(own, own[len(people[0][0].scraped) :] + own[: len(people[0][0].scraped)], strict=True))
    noise = {
        photo: same_dssim(before[photo], cloaked[photo], seed=index, region=regions[photo])
        for index, photo in enumerate(own)
    }
    made = {
        "cloak": cloaked,
        "nothing": before,
        "noise": noise,
        "for another person": {
            photo: pasted(before[photo], before[other], cloaked[other]) for photo, other in foreign.items()
        },
    }
    strength = [spent(before[photo], noise[photo], regions[photo]) for photo in own]
    np.testing.assert_allclose(strength, [spent(before[p], cloaked[p], regions[p]) for p in own], rtol=0.1)
    floor = classify(tracker, *people)
    found = {
        kind: measure(
            tracker, *people, cloaked=written(folder / kind, photos), made_with=tracker.extractors, floor=floor
        )
        for kind, photos in made.items()
    }
    shares = {kind: measured.protection.value for kind, measured in found.items()}
    base = found["nothing"].floor.value
    assert all(measured.part == "in" for measured in found.values())
    assert shares["nothing"] == base, "a floor that the same pixels do not reproduce is none"
    assert base <= SLACK, shares
    assert shares["noise"] <= base + SLACK, shares
    assert shares["for another person"] <= base + SLACK, shares
    assert shares["cloak"] >= base + 0.4, shares


class Canvases:
    """A recogniser of photos that are canvases already, by one extractor."""

    version = "1"

    def __init__(self, extractor: Extractor) -> None:
        self.extractor, self.name, self.extractors = extractor, extractor.name, (extractor.name,)

    def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
        pixels = np.stack([np.asarray(Image.open(photo), np.float32) / 255 for photo in photos])
        return list(np.asarray(embed_batch(self.extractor, pixels)))


def test_on_a_tiny_network_only_the_cloak_protects(tmp_path: Path) -> None:
    side, users, shots, scraped = 64, 4, 6, 2
    network = tiny.extractor(1, window=(8.0, 56.0))

    def person(index: int) -> Person:
        paths = [tmp_path / f"{index}-{shot}.png" for shot in range(shots)]
        for shot, path in enumerate(paths):
            noise = np.random.default_rng((index, shot)).normal(0, 0.02, (side, side, 3))
            face = (tiny.texture(index, side, side) + noise).clip(0, 1)
            Image.fromarray(np.rint(face * 255).astype(np.uint8)).save(path)
        return Person(str(index), tuple(paths[:scraped]), tuple(paths[scraped:]))

    everybody = [person(index) for index in range(users + 12)]
    own = [photo for one in everybody[:users] for photo in one.scraped]
    before = {photo: np.asarray(Image.open(photo)) for photo in own}
    canvases = np.stack([pixels.astype(np.float32) / 255 for pixels in before.values()])
    whole = np.ones((len(own), side, side), bool)
    recipe = Recipe(rho=0.02, steps=30, jitter=0.0, extractors=("tiny-1",))
    batch = solver.Batch(
        canvas=jnp.asarray(canvases),
        mask=jnp.ones((*whole.shape, 1)),
        region=jnp.asarray(whole),
        target=(jnp.zeros((len(own), tiny.DIM)),),
        grey=jnp.zeros(len(own), bool),
        identity=jnp.array([[0, 1, index, 0] for index in range(len(own))], jnp.uint32),
    )
    delta = np.asarray(solver.solve(recipe, (network,), batch).delta)
    cloaked = {
        photo: np.rint((canvases[index] + delta[index]).clip(0, 1) * 255).astype(np.uint8)
        for index, photo in enumerate(own)
    }
    judge(
        EmbeddingTracker(Canvases(network), "1-NN"),
        (everybody[:users], everybody[users:]),
        tmp_path,
        before,
        cloaked,
        dict.fromkeys(own, (0, 0, side, side)),
    )


@pytest.mark.slow
def test_on_real_photos_only_the_cloak_protects(faces_folder: Path, tmp_path: Path) -> None:
    people = choose(faces_folder / "lfw", users=4, photos=6, others=12, public=0)
    others = [replace(one, scraped=one.scraped[:2], tests=one.tests[:1]) for one in people.others]
    detector = DetectedOnce()
    prepared = {photo: prepare(photo, detector) for one in people.users for photo in one.scraped}
    recipe = Recipe(extractors=("mobilefacenet-192",), steps=10)
    results = Cloaker(recipe=recipe, batch=6, devices=1).cloak(list(prepared))
    cloaked = {photo: result.image for photo, result in zip(prepared, results, strict=True) if result.image is not None}
    assert list(cloaked) == list(prepared)
    before = {photo: one.photo.pixels for photo, one in prepared.items()}
    regions = {photo: one.regions[common.central_face(one)] for photo, one in prepared.items()}
    assert all(0.5 * recipe.rho < spent(before[p], cloaked[p], regions[p]) <= recipe.rho for p in cloaked)
    recogniser = ExtractorRecogniser("mobilefacenet-192", detector)
    tracker = EmbeddingTracker(Remembered(recogniser, tmp_path / "cache"), "1-NN")
    judge(tracker, (people.users, others), tmp_path, before, cloaked, regions)
