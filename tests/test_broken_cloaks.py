"""The evaluation cannot be fooled: what is no cloak scores like the floor, by the same code that a cloak scores well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from engine import Cloaker, Recipe, checkpoint
from engine.bulk.prepare import Prepared, prepare
from engine.cloak import solver
from engine.config import Detection
from engine.detect import YuNet
from engine.dssim import dssim_pixels
from engine.evaluate.dataset import Person, choose
from engine.evaluate.protocol import Measured, Named, measure, name
from engine.evaluate.study import central
from engine.evaluate.trackers import EmbeddingTracker
from engine.extractors import embed_batch, load

Pixels = np.ndarray
SLACK = 0.12
"""How far from the floor still counts as it: two test photos of eighteen."""


def same_dssim(before: Pixels, budget: float, seed: int, measured: Callable[[Pixels], float]) -> Pixels:
    """White noise added to a photo, as strong as DSSIM `budget` allows."""
    noise = np.random.default_rng(seed).standard_normal(before.shape)

    def noisy(strength: float) -> Pixels:
        return np.rint(before + strength * noise).clip(0, 255).astype(np.uint8)

    low, high = 0.0, 128.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if measured(noisy(middle)) <= budget else (low, middle)
    return noisy(low)


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
    users: Sequence[Person],
    others: Sequence[Person],
    folder: Path,
    made: Mapping[str, Mapping[Path, Pixels]],
) -> tuple[Named, dict[str, Measured]]:
    """The floor, and what `protocol.measure` says of each kind of files."""
    floor = name(tracker, users, others)
    network = tracker.extractors
    return floor, {
        kind: measure(
            tracker, users, others, cloaked=written(folder / kind, photos), made_with=network, floor=floor
        )
        for kind, photos in made.items()
    }


class Canvases:
    """A recogniser of photos that are canvases already, by one extractor."""

    version = "1"

    def __init__(self, extractor) -> None:  # noqa: ANN001
        self.extractor, self.name, self.extractors = extractor, extractor.name, (extractor.name,)

    def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
        pixels = np.stack([np.asarray(Image.open(photo), np.float32) / 255 for photo in photos])
        return list(np.asarray(embed_batch(self.extractor, pixels)))


def test_on_a_tiny_network_only_the_cloak_protects(tmp_path: Path) -> None:
    side, users, shots, scraped = 64, 4, 5, 3
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
    recipe = Recipe(rho=0.03, steps=40, jitter=0.0, extractors=("tiny-1",))
    batch = solver.Batch(
        canvas=canvases,
        mask=whole[..., None].astype(np.float32),
        region=whole,
        target=(np.zeros((len(own), tiny.DIM), np.float32),),
        grey=np.zeros(len(own), bool),
        identity=np.array([[0, 1, index, 0] for index in range(len(own))], np.uint32),
    )
    delta = np.asarray(solver.solve(recipe, (network,), jax.tree.map(jax.numpy.asarray, batch)).delta)
    cloaked = {
        photo: np.rint((canvases[index] + delta[index]).clip(0, 1) * 255).astype(np.uint8)
        for index, photo in enumerate(own)
    }
    spent = {photo: dssim_pixels(before[photo], cloaked[photo]) for photo in own}
    foreign = {photo: own[(index + scraped) % len(own)] for index, photo in enumerate(own)}
    floor, found = judge(
        EmbeddingTracker(Canvases(network), "1-NN"),
        everybody[:users],
        everybody[users:],
        tmp_path,
        {
            "cloak": cloaked,
            "nothing": before,
            "noise": {
                photo: same_dssim(before[photo], spent[photo], index, lambda pixels: dssim_pixels(before[photo], pixels))  # noqa: B023
                for index, photo in enumerate(own)
            },
            "pasted": {photo: pasted(before[photo], before[foreign[photo]], cloaked[foreign[photo]]) for photo in own},
        },
    )
    _only_the_cloak_protects(found, floor)


@pytest.mark.slow
def test_on_real_photos_only_the_cloak_protects(faces_folder: Path, tmp_path: Path) -> None:
    people = choose(faces_folder / "lfw", users=6, photos=6, others=20, public=0)
    detector = YuNet(checkpoint.root() / "yunet.onnx", Detection())
    own = [photo for one in people.users for photo in one.scraped]
    before = {photo: prepare(photo, detector) for photo in own}
    recipe = Recipe(extractors=("web-incept",), steps=15)
    results = Cloaker(recipe=recipe, batch=6, devices=1).cloak(own)
    cloaked = {photo: result.image for photo, result in zip(own, results, strict=True) if result.image is not None}
    assert list(cloaked) == own

    def spent(photo: Path, pixels: Pixels) -> float:
        top, left, bottom, right = _region(before[photo])
        return dssim_pixels(before[photo].photo.pixels[top:bottom, left:right], pixels[top:bottom, left:right])

    half = len(people.users[0].scraped)
    foreign = {photo: own[(index + half) % len(own)] for index, photo in enumerate(own)}
    floor, found = judge(
        EmbeddingTracker(Central(detector), "1-NN"),
        people.users,
        people.others,
        tmp_path,
        {
            "cloak": cloaked,
            "nothing": {photo: before[photo].photo.pixels for photo in own},
            "noise": {
                photo: same_dssim(
                    before[photo].photo.pixels,
                    spent(photo, cloaked[photo]),
                    index,
                    lambda pixels: spent(photo, pixels),  # noqa: B023
                )
                for index, photo in enumerate(own)
            },
            "pasted": {
                photo: pasted(before[photo].photo.pixels, before[foreign[photo]].photo.pixels, cloaked[foreign[photo]])
                for photo in own
            },
        },
    )
    assert all(0.5 * recipe.rho < spent(photo, pixels) <= recipe.rho for photo, pixels in cloaked.items())
    _only_the_cloak_protects(found, floor)


def _only_the_cloak_protects(found: Mapping[str, Measured], floor: Named) -> None:
    shares = {kind: measured.protection.value for kind, measured in found.items()}
    base = found["nothing"].floor.value
    assert shares["nothing"] == base, "a floor that the same pixels do not reproduce is none"
    assert base <= SLACK
    assert shares["noise"] <= base + SLACK, shares
    assert shares["pasted"] <= base + SLACK, shares
    assert shares["cloak"] >= base + 0.4, shares
    assert found["nothing"].others == floor.others


class Central:
    """web-incept on the central face."""

    name, extractors, version = "web-incept", ("web-incept",), "1"

    def __init__(self, detector: YuNet) -> None:
        self.detector, self.network, self.known = detector, load("web-incept"), {}

    def embed(self, photos: Sequence[Path]) -> list[np.ndarray | None]:
        new = [photo for photo in dict.fromkeys(photos) if photo not in self.known]
        cut = [prepare(photo, self.detector) for photo in new]
        canvases = [one.cuts[central(one)].canvas for one in cut]
        for first in range(0, len(new), 8):
            some = canvases[first : first + 8]
            rows = np.asarray(embed_batch(self.network, np.stack([*some, *some[:1] * (8 - len(some))])))
            self.known |= dict(zip(new[first : first + 8], rows, strict=False))
        return [self.known[photo] for photo in photos]


def _region(photo: Prepared) -> tuple[int, int, int, int]:
    return photo.regions[central(photo)]
