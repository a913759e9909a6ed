"""Networks that dlib has serialised (.dat), read without dlib: the format of 2017, that of its published face network.

A file is a stack of C++ templates, outermost first: a version for each layer, then, from the input on, what each layer
is. An integer is a byte with its length and sign, then its bytes. A number outside tensors is a mantissa and an
exponent of two, both integers. Tensors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.files import opened

MARK = "mark"
"""Kind of what has no weights and no settings: a tag that later layers refer to, or a way back to one."""

_DEEPEST = 4096
"""Layers that a file may have at most."""
_LARGEST = 2**30
"""Bytes that a file may have at most."""


class DlibFileError(ValueError):
    """A file that is no network of dlib's, that is broken, or that has a layer that is not known here."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    kind: dlib's name of it, such as "con_4", or `MARK`. settings: its numbers in the order of the file, such as sides,
    strides and paddings. arrays: its weights by name, float32.
    """

    kind: str
    settings: tuple[float, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def layers(path: Path | str) -> list[Layer]:
    """The layers from the input to the loss.

    The first is the input with its settings, the last the loss. Convolutions have `filters` (o, i, kh, kw), `biases`
    (o,) and the settings (o, kh, kw, stride y and x, padding y and x). "affine_" has `gamma` and `beta` (c,). "fc_2"
    has `weights` (i, o), and may have `biases` (o,). Raises DlibFileError and OSError.
    """
    with opened(Path(path)) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise DlibFileError(f"{path} has over {_LARGEST} bytes; expected a network of dlib's")
    stream = _Stream(data)
    try:
        return _network(stream)
    except _Broken as error:
        raise DlibFileError(f"{path} cannot be read as a network of dlib with a metric loss: {error}") from None


class _Broken(Exception):
    """Fault of a file, and at which byte."""


class _Stream:
    """A file's bytes and how far they have been read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def broken(self, reason: str) -> _Broken:
        return _Broken(f"{reason} at byte {self.at}")

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _Broken(f"it ends at byte {len(self.data)}, in the middle of something")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self) -> int:
        control = self.take(1)[0]
        size = control & 0x0F
        if control & 0x70 or not 1 <= size <= 8:
            raise self.broken(f"no integer begins with {control}")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def expect(self, wanted: int, label: str) -> None:
        if (number := self.integer()) != wanted:
            raise self.broken(f"{label} is {number}, not {wanted}")

    def integers(self, count: int) -> tuple[int, ...]:
        return tuple(self.integer() for _ in range(count))

    def number(self) -> float:
        mantissa, exponent = self.integer(), self.integer()
        if not -1200 < exponent < 1000:
            raise self.broken(f"{mantissa} times two to the {exponent} is no number")
        return math.ldexp(mantissa, exponent)

    def numbers(self, count: int) -> tuple[float, ...]:
        return tuple(self.number() for _ in range(count))

    def name(self) -> str:
        length = self.integer()
        if not 0 < length <= 64:
            raise self.broken(f"a name of {length} letters")
        name = self.take(length)
        if not all(32 < letter < 127 for letter in name):
            raise self.broken("a name with other than letters")
        return name.decode("ascii")

    def shape(self) -> tuple[int, ...]:
        shape = self.integers(4)
        if min(shape) < 0:
            raise self.broken(f"a tensor of the shape {shape}")
        return shape

    def tensor(self) -> np.ndarray:
        self.expect(2, "the version of a tensor")
        count = math.prod(self.shape())
        values = np.frombuffer(self.take(4 * count), "<f4")
        if not np.isfinite(values).all():
            raise self.broken("a weight that is not finite")
        return values

    def alias(self) -> tuple[int, ...]:
        self.expect(1, "the version of a part of a tensor")
        return self.shape()


def _network(stream: _Stream) -> list[Layer]:
    stream.expect(1, "the version of the loss")
    if (kind := stream.name()) != "loss_metric_2":
        raise stream.broken(f"the loss is {kind}, not loss_metric_2")
    loss = Layer(kind, stream.numbers(2))
    filled: list[bool] = []  # layers, outermost first; False is a mark
    while (version := stream.integer()) != 3:
        if version not in (1, 2):
            raise stream.broken(f"the version of a layer is {version}")
        if len(filled) == _DEEPEST:
            raise stream.broken(f"over {_DEEPEST} layers")
        filled.append(version == 2)
    network = [_input(stream), _layer(stream)]
    stream.expect(1, "the number of samples made of one image")
    network += [_layer(stream) if full else Layer(MARK) for full in reversed(filled)]
    if stream.at != len(stream.data):
        raise stream.broken(f"{len(stream.data) - stream.at} bytes too many")
    return [*network, loss]


def _input(stream: _Stream) -> Layer:
    """The input, with the means of red, green and blue and the height and width of an image."""
    if (kind := stream.name()) != "input_rgb_image_sized":
        raise stream.broken(f"the input is {kind}, not input_rgb_image_sized")
    return Layer(kind, (*stream.numbers(3), *stream.integers(2)))


def _layer(stream: _Stream) -> Layer:
    kind = stream.name()
    if kind not in _READERS:
        raise stream.broken(f"no reader for a layer {kind}; there are {', '.join(sorted(_READERS))}")
    layer = _READERS[kind](stream, kind)
    # What a run of the network has left behind, three switches and three tensors: the weights do not depend on it.
    for _ in range(3):
        if stream.take(1) not in (b"0", b"1"):
            raise stream.broken("a switch that is neither 0 nor 1")
    for _ in range(3):
        stream.tensor()
    return layer


def _plain(stream: _Stream, kind: str) -> Layer:
    del stream
    return Layer(kind)


def _pool(stream: _Stream, kind: str) -> Layer:
    """Settings: height, width (0 for the whole map's), strides, paddings."""
    return Layer(kind, stream.integers(6))


def _convolution(stream: _Stream, kind: str) -> Layer:
    values = stream.tensor()
    settings = stream.integers(7)
    shapes = {"filters": stream.alias(), "biases": stream.alias()}
    stream.numbers(4)  # multipliers of a training's rates
    arrays = _parts(stream, values, shapes)
    if (arrays["filters"].shape[0], *arrays["filters"].shape[2:]) != settings[:3]:
        raise stream.broken(f"filters {arrays['filters'].shape} of a convolution {settings[:3]}")
    return Layer(kind, settings, arrays | {"biases": arrays["biases"].ravel()})


def _affine(stream: _Stream, kind: str) -> Layer:
    values = stream.tensor()
    shapes = {"gamma": stream.alias(), "beta": stream.alias()}
    settings = stream.integers(1)
    return Layer(kind, settings, {name: part.ravel() for name, part in _parts(stream, values, shapes).items()})


def _dense(stream: _Stream, kind: str) -> Layer:
    settings = stream.integers(2)
    values = stream.tensor()
    shapes = {"weights": stream.alias(), "biases": stream.alias()}
    stream.integer()  # whether it has biases, which their shape says too
    stream.numbers(4)
    arrays = _parts(stream, values, shapes)
    if arrays["weights"].size != settings[0] * settings[1]:
        raise stream.broken(f"weights {arrays['weights'].shape} of a dense layer from {settings[1]} to {settings[0]}")
    weights = arrays["weights"].reshape(settings[1], settings[0])
    return Layer(kind, settings, {"weights": weights, "biases": arrays["biases"].ravel()})


def _parts(stream: _Stream, values: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A layer's numbers as its arrays, one after the other."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    if sum(sizes) != len(values):
        raise stream.broken(f"{len(values)} weights for {' and '.join(map(str, shapes.values()))}")
    ends = np.cumsum(sizes)
    return {
        name: values[end - size : end].reshape(shape)
        for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
    }


_READERS: dict[str, Callable[[_Stream, str], Layer]] = {
    "con_4": _convolution,
    "affine_": _affine,
    "relu_": _plain,
    "max_pool_2": _pool,
    "avg_pool_2": _pool,
    "add_prev_": _plain,
    "fc_2": _dense,
}
