"""What benchmarks/rivals/fawkes_rival.py uses of Keras, in JAX: the networks that it builds run without TensorFlow.

As in Keras a layer is called first and given its weights later, so that a call only notes what is to be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Node:
    """A value to be. work: what makes it of the values of `inputs`."""

    def __init__(self, work: Callable[..., jax.Array], *inputs: Node):
        self.work = work
        self.inputs = inputs

    def __getitem__(self, key: Any) -> Node:
        return Node(lambda x: x[key], self)

    def value(self, known: dict[Node, jax.Array]) -> jax.Array:
        if self not in known:
            known[self] = self.work(*(node.value(known) for node in self.inputs))
        return known[self]


class Layer:
    """One of a function of the weights and the inputs."""

    def __init__(self, function: Callable[..., jax.Array]):
        self.function = function
        self.weights: list[np.ndarray] = []

    def __call__(self, x: Node | Sequence[Node]) -> Node:
        inputs = [x] if isinstance(x, Node) else x
        return Node(lambda *values: self.function(self.weights, *values), *inputs)

    def set_weights(self, weights: list[np.ndarray]) -> None:
        self.weights = weights


def conv(
    kernel_size: tuple[int, int], strides: int, padding: str, activation: str | None, filters: int | None = None
) -> Layer:
    """Conv2D, or DepthwiseConv2D without `filters`, whose kernels are (h, w, channels, 1)."""

    def function(weights: list[np.ndarray], x: jax.Array) -> jax.Array:
        kernel, bias = weights
        assert kernel.shape[:2] == kernel_size
        assert kernel.shape[3] == (filters or 1)
        groups = 1 if filters else x.shape[3]
        y = lax.conv_general_dilated(
            x,
            jnp.asarray(kernel if filters else kernel.transpose(0, 1, 3, 2)),
            (strides, strides),
            padding.upper(),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        y = y + bias[None, None, None]
        return {"relu": jax.nn.relu, None: lambda x: x}[activation](y)

    return Layer(function)


def prelu(shared_axes: list[int]) -> Layer:
    assert shared_axes == [1, 2]
    return Layer(lambda weights, x: jnp.where(x > 0, x, weights[0][None] * x))


def max_pool(size: int, stride: int) -> Layer:
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return Layer(lambda weights, x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID"))


class Model:
    def __init__(self, source: Node, made: Node):
        self.run = lambda x: made.value({source: jnp.asarray(x)})

    def __call__(self, x: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(numpy=lambda: np.asarray(self.run(x)))


def no_value() -> jax.Array:
    raise AssertionError("the input of a network has no value of its own")


layers = SimpleNamespace(
    Input=lambda shape: Node(no_value),
    Rescaling=lambda scale, offset: Layer(
        lambda weights, x: x * scale + jnp.array(offset, jnp.float32)[None, None, None]
    ),
    Conv2D=lambda filters, **settings: conv(**settings, filters=filters),
    DepthwiseConv2D=conv,
    PReLU=prelu,
    ReLU=lambda: Layer(lambda weights, x: jax.nn.relu(x)),
    MaxPooling2D=max_pool,
    GlobalAveragePooling2D=lambda keepdims: Layer(lambda weights, x: x.mean((1, 2), keepdims=keepdims)),
    Add=lambda: Layer(lambda weights, x, y: x + y),
    Concatenate=lambda: Layer(lambda weights, *values: jnp.concatenate(values, axis=-1)),
    Flatten=lambda: Layer(lambda weights, x: x.reshape(len(x), -1)),
)
