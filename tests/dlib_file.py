"""Files as dlib serialises them, written here: networks of any layers, outermost last, with a metric loss."""

from __future__ import annotations

import math

import numpy as np

MARK = b""
"""A tag or a way back to one: nothing of it follows its version."""


def integer(value: int) -> bytes:
    data = abs(value).to_bytes(max(1, (abs(value).bit_length() + 7) // 8), "little")
    return bytes([len(data) | (0x80 if value < 0 else 0)]) + data


def integers(*values: int) -> bytes:
    return b"".join(map(integer, values))


def number(value: float) -> bytes:
    mantissa, exponent = math.frexp(value)
    return integers(int(mantissa * 2**24), exponent - 24)


def text(name: str) -> bytes:
    return integer(len(name)) + name.encode()


def tensor(values: np.ndarray, *, version: int = 2) -> bytes:
    return integers(version, values.size, 1, 1, 1) + values.astype("<f4").tobytes()


def alias(*shape: int) -> bytes:
    return integers(1, *shape)


STATE = b"110" + 3 * tensor(np.zeros(0))


def conv(filters: np.ndarray, biases: np.ndarray, *, stride: int = 1, padding: int = 0) -> bytes:
    o, _, height, width = filters.shape
    settings = integers(o, height, width, stride, stride, padding, padding)
    values = tensor(np.concatenate([filters.ravel(), biases]))
    shapes = alias(*filters.shape) + alias(1, o, 1, 1)
    return text("con_4") + values + settings + shapes + 3 * number(1.0) + number(0.0) + STATE


def affine(gamma: np.ndarray, beta: np.ndarray) -> bytes:
    shape = alias(1, len(gamma), 1, 1)
    return text("affine_") + tensor(np.concatenate([gamma, beta])) + 2 * shape + integer(0) + STATE


def plain(kind: str, *settings: int) -> bytes:
    return text(kind) + integers(*settings) + STATE


def dense(weights: np.ndarray) -> bytes:
    i, o = weights.shape
    shapes = alias(i, o, 1, 1) + alias(0, 0, 0, 0) + integer(1)
    return text("fc_2") + integers(o, i) + tensor(weights) + shapes + 3 * number(1.0) + number(0.0) + STATE


def network(*layers: bytes, side: int = 150, means: tuple[float, float, float] = (122.782, 117.001, 104.298)) -> bytes:
    first, *rest = layers
    head = integer(1) + text("loss_metric_2") + number(0.04) + number(0.6)
    head += b"".join(integer(1 if layer == MARK else 2) for layer in reversed(rest)) + integer(3)
    seen = text("input_rgb_image_sized") + b"".join(map(number, means)) + integers(side, side)
    return head + seen + first + integer(1) + b"".join(rest)
