"""YuNet (Wu et al. 2023) in Flax: the detector of machines with an accelerator.

Weights, scans, tiles and turns are those of the detector that OpenCV runs (detect.py), and so are the faces, up to
rounding. Pictures of all sizes lie in a corner of frames of one shape, a few frames at once, so that one program serves
every photo. The network sees zeros around a picture, as it does at the border of one that is alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property, partial
from itertools import islice
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt8

from engine import checkpoint, sharding
from engine.config import Detection
from engine.detect import IN_PICTURE, LONGEST, MOST, Detector, Look, Scanner, YuNet
from engine.extractors import registry
from engine.extractors.layers import Conv, Depthwise, max_pool

STRIDES = (8, 16, 32)
"""Pixels from place to place of each map that faces are read off."""
STAGES = (((16, 16),), ((16, 16), (16, 32), (32, 32), (32, 64)), ((64, 64),) * 2, ((64, 64),) * 2, ((64, 64),) * 2)
"""Channels in and out of the units of the body; from stage to stage both sides are halved."""
NUMBERS = 16
"""Numbers of a place: logits of class and of object, box, landmarks."""
FRAME = 32 * -(-LONGEST // 32)
"""Side of a frame."""
BATCH = 4
"""Frames at once on an accelerator: a face's four turns, a third of a photo of 12 megapixels. A guess, none was at
hand. A CPU takes one."""
CANDIDATES = 1000
"""Finds of a picture that are fetched from the device, before those that overlap are dropped; if more are high enough,
all are fetched."""

_dispatching = threading.Lock()  # two threads that call a program for the first time would both compile it


class Unit(nnx.Module):
    """A 1x1 and a depthwise 3x3 convolution."""

    def __init__(self, i: int, o: int, *, rngs: nnx.Rngs | None):
        """`i` channels in, `o` out; zeros without `rngs`."""
        self.point = Conv(i, o, (1, 1), rngs=rngs)
        self.depthwise = Depthwise(o, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: Float[Array, "h w i"], inside: Bool[Array, "h w 1"]) -> Float[Array, "h w o"]:
        """One example in, one out. inside: where its picture is."""
        return self.depthwise(jnp.where(inside, self.point(x), 0))


class Network(nnx.Module):
    """The network, 53,104 weights with the batch norms in them; the heads of a map are one."""

    def __init__(self, *, rngs: nnx.Rngs | None):
        """Zeros without `rngs`."""
        self.stem = Conv(3, 16, (3, 3), stride=2, padding=1, rngs=rngs)
        self.stages = nnx.List([nnx.List([Unit(i, o, rngs=rngs) for i, o in stage]) for stage in STAGES])
        self.neck = nnx.List([Unit(64, 64, rngs=rngs) for _ in STRIDES])
        self.head = nnx.List([Unit(64, NUMBERS, rngs=rngs) for _ in STRIDES])

    def __call__(self, x: Float[Array, "h w 3"], size: Int32[Array, " 2"]) -> tuple[Float[Array, "_h _w 16"], ...]:
        """The maps of a picture, one for each of STRIDES: BGR from 0 to 255 in, `NUMBERS` at every place out.

        size: height and width of the picture, which begins at the first pixel; all sides are multiples of 32. What is
        beside it does not matter, and the maps mean nothing there.
        """
        x = jax.nn.relu(self.stem(x))
        maps = []
        for number, stage in enumerate(self.stages):
            if number:
                x = max_pool(x, window=2, stride=2)
            where = inside(x, size, stride=2 << number)
            for unit in stage:
                x = jax.nn.relu(unit(x, where))
            maps.append((x, where))
        above, outputs = None, []
        for (x, where), neck, head in reversed(list(zip(maps[-len(STRIDES) :], self.neck, self.head, strict=True))):
            if above is not None:
                x = x + jnp.repeat(jnp.repeat(above, 2, axis=0), 2, axis=1)
            above = jax.nn.relu(neck(x, where))
            outputs.append(head(above, where))
        return tuple(reversed(outputs))


def inside(x: Float[Array, "h w _c"], size: Int32[Array, " 2"], *, stride: int) -> Bool[Array, "h w 1"]:
    """Mask of the places of a map, one for `stride` pixels, that are of a picture of that size."""
    rows, columns = (jnp.arange(length) < size[axis] // stride for axis, length in enumerate(x.shape[:2]))
    return (rows[:, None] & columns[None, :])[..., None]


def decoded(x: Float[Array, "h w 16"], size: Int32[Array, " 2"], *, stride: int) -> Float[Array, "n 15"]:
    """A map's places as finds: box (x, y, width, height), five landmarks, score, in pixels of the picture.

    The score is the root of the probabilities' product (OpenCV's FaceDetectorYN), 0 outside of the picture.
    """
    y, x_ = jnp.meshgrid(*(jnp.arange(length, dtype=jnp.float32) for length in x.shape[:2]), indexing="ij")
    place = jnp.stack([x_, y], -1)
    likely = jax.nn.sigmoid(x[..., 0]) * jax.nn.sigmoid(x[..., 1])
    score = jnp.where(inside(x, size, stride=stride), jnp.sqrt(likely)[..., None], 0)
    extent = jnp.exp(x[..., 4:6]) * stride
    corner = (place + x[..., 2:4]) * stride - extent / 2
    landmarks = (jnp.tile(place, 5) + x[..., 6:]) * stride
    return jnp.concatenate([corner, extent, landmarks, score], -1).reshape(-1, 15)


@partial(jax.jit, static_argnames=("graphdef",))
def finds(
    params: Any, frames: UInt8[Array, "b h w 3"], sizes: Int32[Array, "b 2"], *, graphdef: nnx.GraphDef
) -> tuple[Float[Array, "b _k 15"], Float[Array, "b _n 15"]]:
    """The CANDIDATES finds of highest score of each frame, in order, and all finds. sizes: as in `Network`."""

    def of_one(frame: Array, size: Array) -> tuple[Array, Array]:
        maps = nnx.merge(graphdef, params)(frame.astype(jnp.float32), size)
        rows = jnp.concatenate(
            [decoded(head_map, size, stride=stride) for head_map, stride in zip(maps, STRIDES, strict=True)]
        )
        return rows[jax.lax.top_k(rows[:, 14], min(CANDIDATES, len(rows)))[1]], rows

    with jax.default_matmul_precision("highest"):  # TF32 or bfloat16 would move boxes
        return jax.vmap(of_one)(frames, sizes)


class FlaxYuNet(Scanner):
    """The same detector on JAX's device. One instance serves any number of threads.

    Example:
        >>> round(float(FlaxYuNet().detect(photo.pixels)[0].score), 2)  # doctest: +SKIP
        0.94
    """

    def __init__(self, settings: Detection | None = None, *, batch: int | None = None) -> None:
        """batch: pictures at once, by default BATCH of an accelerator and one of a CPU.

        Raises CheckpointError for weights that are not the manifest's, DeviceError if JAX has no device.
        """
        super().__init__(settings)
        self.batch = batch or (1 if sharding.devices_here()[0].platform == "cpu" else BATCH)
        self._graphdef, self._params, self._weights = loaded()

    @cached_property
    def key(self) -> str:
        """Hash of the weights and the settings, and another one than OpenCV's: boxes differ in their last digits."""
        return hashlib.sha256(repr(("flax", self._weights, sorted(asdict(self.settings).items()))).encode()).hexdigest()

    def _seen(self, looks: Iterable[Look]) -> Iterator[tuple[Look, Float32[np.ndarray, "n 15"]]]:
        looks = iter(looks)
        while some := list(islice(looks, self.batch)):
            frames = np.empty((self.batch, FRAME, FRAME, 3), np.uint8)
            sizes = np.zeros((self.batch, 2), np.int32)
            for number, look in enumerate(some):
                height, width = look.picture.shape[:2]
                high, wide = sizes[number] = -(-height // 32) * 32, -(-width // 32) * 32
                frames[number, :high, :wide] = 0  # as OpenCV fills it up
                frames[number, :height, :width] = look.picture
            with _dispatching:
                best, every = finds(self._params, frames, sizes, graphdef=self._graphdef)
            for number, (look, rows) in enumerate(zip(some, np.asarray(best), strict=False)):
                if rows[-1, 14] >= self.settings.min_score:
                    rows = np.asarray(every)[number]
                yield look, _distinct(rows, self.settings.min_score)


def _distinct(rows: Float32[np.ndarray, "n 15"], min_score: float) -> Float32[np.ndarray, "k 15"]:
    """Non-maximum suppression of one picture's finds as FaceDetectorYN has it, on boxes of whole pixels."""
    rows = rows[rows[:, 14] >= np.float32(min_score)]
    if len(rows) < 2:
        return rows
    boxes = rows[:, :4].astype(np.int32).tolist()
    return rows[np.asarray(cv2.dnn.NMSBoxes(boxes, rows[:, 14].tolist(), min_score, IN_PICTURE, 1.0, MOST), int)]


def loaded() -> tuple[nnx.GraphDef, Any, str]:
    """The network, its shipped weights on the device, and their hash. Raises CheckpointError if they are not those."""
    table = checkpoint.manifest()["detectors"]["yunet-flax"]
    graphdef, shapes = registry.abstract(Network)
    params, sha256 = checkpoint.restore(checkpoint.root() / table["path"], shapes, sha256=table["sha256"])
    return graphdef, jax.device_put(params), sha256


def detector(settings: Detection | None = None, *, platform: str | None = None) -> Detector:
    """The shipped detector in the form that suits a platform, by default that of JAX's first device.

    On a CPU that is OpenCV's, which takes half the time there (benchmarks/detection.py); elsewhere Flax's. For one of
    them make it: `YuNet(checkpoint.detector())` or `FlaxYuNet()`.
    """
    if (platform or sharding.devices_here()[0].platform) == "cpu":
        return YuNet(checkpoint.detector(), settings)
    return FlaxYuNet(settings)
