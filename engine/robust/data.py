"""Training data: people by folder, those kept out, those held out, and an endless stream of augmented batches.

The stream is a function of the seed and of the position alone: batch n is the same however one came to it. So a
training goes on after a stop with the photos it would have had, in the same order and with the same augmentation.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from jaxtyping import Float32, Int, UInt8

from engine.robust.store import NO_FACE
from engine.robust.train import Batch

Window = tuple[float, float] | tuple[tuple[float, float], tuple[float, float]]
"""A network's crop in canvas pixels: (lo, hi) of y, then of x, or one for both."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a photo before the adversary's.

    flip: probability of a mirror image. scale, shift: largest change of the crop's size and centre, as shares of its
    side. jpeg, blur: probabilities of a JPEG quality, uniform in `qualities`, and a Gaussian blur, sigma uniform in
    `sigmas` canvas pixels. Raises ValueError for values outside their range.
    """

    flip: float = 0.5
    scale: float = 0.08
    shift: float = 0.04
    jpeg: float = 0.3
    qualities: tuple[int, int] = (50, 95)
    blur: float = 0.2
    sigmas: tuple[float, float] = (0.3, 1.5)

    def __post_init__(self) -> None:
        for name in ("flip", "jpeg", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability; got {getattr(self, name)}")
        for name in ("scale", "shift"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name} must be in [0, .5); got {getattr(self, name)}")
        if not 1 <= self.qualities[0] <= self.qualities[1] <= 100:
            raise ValueError(f"qualities must be (lowest, highest) of 1 to 100; got {self.qualities}")
        if not 0 < self.sigmas[0] <= self.sigmas[1]:
            raise ValueError(f"sigmas must be (lowest, highest), positive; got {self.sigmas}")


def names_in(path: Path) -> frozenset[str]:
    """Everybody named in a list of people as `cloak evaluate` writes it (people.json): training must not see them.

    Raises ValueError for a file that is no such list.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        names = frozenset(name for kind in ("users", "others", "public") for name in lists[kind])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no list of people as `cloak evaluate` writes it: {error!r}") from None
    if not names:
        raise ValueError(f"{path} names nobody")
    return names


class Split(NamedTuple):
    """Rows of the store. rows, labels: (n,), what is trained on, and whose it is, 0 to people - 1. gallery, probes:
    (v,), two photos each of people held out, none of whom is among the others. people: how many are trained on.
    """

    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    gallery: Int[np.ndarray, " v"]
    probes: Int[np.ndarray, " v"]
    people: int

    def sha256(self, photos: Sequence[str]) -> str:
        """The hash of which photo is whose, in which order, and who is held out: the same in every store.

        photos: the SHA-256 of each row's photo, as `Store.photos` gives them.
        """
        trained = list(zip([photos[row] for row in self.rows], self.labels.tolist(), strict=True))
        held = [[photos[row] for row in part] for part in (self.gallery, self.probes)]
        return hashlib.sha256(json.dumps([trained, *held]).encode()).hexdigest()


def check_people(photos: Mapping[str, int], *, held_out: int, of: str = "photo") -> None:
    """Raises ValueError if there are not enough people, by how many photos of each there are.

    of: what the message says is counted, photos or those of them that count.
    """
    if held_out < 2:
        raise ValueError(f"at least 2 people must be held out for validation; got {held_out}")
    some, several = (sum(count >= least for count in photos.values()) for least in (1, 2))
    if several < held_out or some - held_out < 2:
        raise ValueError(
            f"{some} people have a {of}, {several} of them two or more: too few to hold out {held_out} and train on at "
            "least 2 others; give more photos or a smaller --validation"
        )


def split(rows: Mapping[str, Sequence[int]], *, held_out: int, seed: int) -> Split:
    """Draw `held_out` people with two faces each, by the seed, and train on everybody else.

    rows: of each person's photos, as `Store.align` gives them. A second copy of a photo does not count. Nor does a
    photo that several people have, as nobody knows whose it is. Raises ValueError if there are not enough people.
    """
    distinct = {name: set(person_rows) - {NO_FACE} for name, person_rows in rows.items()}
    owners = Counter(row for person_rows in distinct.values() for row in person_rows)
    seen = {name: [row for row in dict.fromkeys(person_rows) if owners[row] == 1] for name, person_rows in rows.items()}
    seen = {name: person_rows for name, person_rows in seen.items() if person_rows}
    photos = {name: len(person_rows) for name, person_rows in seen.items()}
    check_people(photos, held_out=held_out, of="photo with a face that nobody else has")
    several = sorted(name for name, person_rows in seen.items() if len(person_rows) >= 2)
    chosen = sorted(np.random.default_rng(seed).choice(several, held_out, replace=False).tolist())
    rest = [name for name in seen if name not in set(chosen)]
    return Split(
        rows=np.array([row for name in rest for row in seen[name]], np.int64),
        labels=np.array([label for label, name in enumerate(rest) for _ in seen[name]], np.int64),
        gallery=np.array([seen[name][0] for name in chosen], np.int64),
        probes=np.array([seen[name][1] for name in chosen], np.int64),
        people=len(rest),
    )


class _Faces:
    """grain's source of records: a face, whose it is, and its clean embedding."""

    def __init__(self, canvases: np.ndarray, anchors: np.ndarray, part: Split) -> None:
        self._canvases, self._anchors, self._split = canvases, anchors, part

    def __len__(self) -> int:
        return len(self._split.rows)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        row = self._split.rows[index]
        return {
            "canvas": self._canvases[row],
            "anchor": self._anchors[row],
            "label": np.int32(self._split.labels[index]),
        }


def augmented(
    record: dict[str, Any], rng: np.random.Generator, *, settings: Augmentation, window: Window
) -> dict[str, Any]:
    """A record of a face with the fields of `Batch`, its canvas degraded and its crop drawn; window: the network's."""
    return {
        **record,
        "canvas": degraded(record["canvas"], settings, rng),
        "window": jittered(window, settings, rng),
        "noise": np.uint32(rng.integers(2**32)),
    }


def degraded(
    canvas: UInt8[np.ndarray, "c c 3"], settings: Augmentation, rng: np.random.Generator
) -> UInt8[np.ndarray, "c c 3"]:
    """The canvas blurred and JPEG-compressed, each with its probability."""
    canvas = np.array(canvas)
    if rng.random() < settings.blur:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(*settings.sigmas))
    if rng.random() < settings.jpeg:
        quality = int(rng.integers(settings.qualities[0], settings.qualities[1] + 1))
        _, encoded = cv2.imencode(".jpg", canvas[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        canvas = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    return canvas


def jittered(window: Window, settings: Augmentation, rng: np.random.Generator) -> Float32[np.ndarray, "2 2"]:
    """Rows (lo, hi) of y, then x: the window at a random scale and offset, mirrored or not."""
    spans = np.broadcast_to(window, (2, 2))
    side = spans[1, 1] - spans[1, 0]
    half = side / 2 * (1 + settings.scale * rng.uniform(-1, 1))
    middle = spans.mean(axis=1) + side * settings.shift * rng.uniform(-1, 1, 2)
    rows = np.stack([middle - half, middle + half], axis=1)
    if rng.random() < settings.flip:
        rows[1] = rows[1, ::-1]
    return rows.astype(np.float32)


def batches(
    canvases: UInt8[np.ndarray, "n c c 3"],
    anchors: Float32[np.ndarray, "n d"],
    part: Split,
    *,
    window: Window,
    augmentation: Augmentation,
    size: int,
    seed: int,
    first: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Batches number `first`, `first` + 1, ... without end: every face once an epoch, in another order each time.

    size: of a batch over all processes. share: (i, n), this process gives every n-th photo of each batch, from i.

    Raises ValueError for a size that is not a multiple of the processes.
    """
    index, count = share
    if size % count:
        raise ValueError(f"a batch of {size} cannot be split over {count} processes")
    records = grain.MapDataset.source(_Faces(canvases, anchors, part)).seed(seed).shuffle().repeat(None)
    records = records.random_map(partial(augmented, settings=augmentation, window=window))
    mine = records[index::count].batch(size // count)[first:]
    for batch in mine.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)):
        yield Batch(**batch)
