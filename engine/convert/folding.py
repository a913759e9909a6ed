"""Layouts and batch norms of other frameworks turned into what `engine.extractors.layers` holds: kernel and bias."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def from_oihw(kernel: Float[np.ndarray, "o i kh kw"]) -> Float[np.ndarray, "kh kw i o"]:
    """A convolution's kernel as PyTorch, MXNet and ONNX keep it, in our layout."""
    return kernel.transpose(2, 3, 1, 0)


def depthwise_from_oihw(kernel: Float[np.ndarray, "c 1 kh kw"]) -> Float[np.ndarray, "kh kw c"]:
    """A depthwise convolution's kernel as PyTorch, MXNet and ONNX keep it, in our layout."""
    return kernel[:, 0].transpose(1, 2, 0)


def dense_from_chw(
    matrix: Float[np.ndarray, "o i"], *, height: int, width: int
) -> Float[np.ndarray, "{height} {width} c o"]:
    """The matrix of a dense layer over a flattened (c, height, width), as the kernel of a convolution that large."""
    return from_oihw(matrix.reshape(len(matrix), -1, height, width))


def batch_norm(
    *,
    gamma: Float[np.ndarray, " c"] | None = None,
    beta: Float[np.ndarray, " c"],
    mean: Float[np.ndarray, " c"],
    variance: Float[np.ndarray, " c"],
    epsilon: float,
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """(gain, offset) with which a trained batch norm is x * gain + offset; gamma is 1 if there is none.

    Raises ValueError for parts of different lengths.
    """
    _same_channels(variance, *(part for part in (gamma, beta, mean) if part is not None))
    gain = (1 if gamma is None else gamma) / np.sqrt(variance + np.float32(epsilon))
    return gain, beta - mean * gain


def norm_after(
    kernel: Float[np.ndarray, "kh kw ..."],
    bias: Float[np.ndarray, " o"] | None,
    *,
    gain: Float[np.ndarray, " o"],
    offset: Float[np.ndarray, " o"],
) -> tuple[Float[np.ndarray, "kh kw ..."], Float[np.ndarray, " o"]]:
    """Kernel and bias of a convolution with the batch norm that follows it in them.

    kernel: (kh, kw, i, o), or (kh, kw, o) of a depthwise one. bias: None if it has none. Raises ValueError if the
    norm has another number of channels.
    """
    _same_channels(kernel[(0,) * (kernel.ndim - 1)], gain, offset, *(() if bias is None else (bias,)))
    return kernel * gain, offset if bias is None else bias * gain + offset


def norm_before(
    kernel: Float[np.ndarray, "kh kw i o"],
    bias: Float[np.ndarray, " o"],
    *,
    gain: Float[np.ndarray, " i"],
    offset: Float[np.ndarray, " i"],
) -> tuple[Float[np.ndarray, "kh kw i o"], Float[np.ndarray, " o"]]:
    """Kernel and bias of a convolution with the batch norm of its input in them.

    Exact only without padding: a padded zero would have to be the norm's offset. Raises ValueError if the norm has
    another number of channels.
    """
    _same_channels(kernel[0, 0, :, 0], gain, offset)
    _same_channels(kernel[0, 0, 0], bias)
    return kernel * gain[:, None], bias + np.einsum("hwio,i->o", kernel, offset)


def scaled(kernel: Float[np.ndarray, "kh kw ..."], gain: Float[np.ndarray, " o"]) -> Float[np.ndarray, "kh kw ..."]:
    """Kernel times one gain for each output. Raises ValueError for another number of gains."""
    return norm_after(kernel, None, gain=gain, offset=gain)[0]


def _same_channels(*parts: np.ndarray) -> None:
    """Raises ValueError for vectors of different lengths, which NumPy would spread over each other without bound."""
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 or len(parts[0].shape) != 1:
        raise ValueError(f"a layer and its batch norm have different channels: {sorted(shapes)}")
