"""Layers of the extractors: convolutions that are quick on every platform, pooling, PReLU.

All of them work on one example, (height, width, channels), and are vmapped by the caller. Under `jax.vmap` a
convolution of a batch of one becomes an ordinary batched convolution. Batch normalisation does not occur: it is folded
into kernel and bias when a checkpoint is converted.

The functions are jitted for the sake of tracing alone. A network calls them a hundred times with a dozen shapes. What
has been traced and differentiated for a shape once is not again. This halves the time that tracing a solver step takes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Padding = Literal["SAME", "VALID"] | int
"""TensorFlow's rules (SAME with stride 2 pads an even side at its end only), or so many zeros on every side."""


def _by_platform(*arguments: Array, cpu: Callable[..., Array], default: Callable[..., Array]) -> Array:
    """`cpu` if that is what JAX computes on unasked, else `default`.

    `lax.platform_dependent` would trace, differentiate and batch both, which is most of what tracing a network costs.
    So a CPU beside an accelerator runs `default`: the same results, slower.
    """
    return (cpu if jax.default_backend() == "cpu" else default)(*arguments)


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def conv(x: Float[Array, "h w i"], kernel: Float[Array, "kh kw i o"], *, stride: int, padding: Padding):
    """Convolution of one example; (h, w, i) to (h', w', o)."""
    pads = _pads(x, kernel, stride, padding)
    native = functools.partial(_convolved, strides=(stride, stride), pads=pads)
    if kernel.shape[:3] == x.shape and not any(sum(pads, ())):
        return product(x.reshape(-1), kernel.reshape(-1, kernel.shape[3]))[None, None]  # a dense layer
    if kernel.shape[:2] != (1, 1) or stride != 1 or any(sum(pads, ())):
        return native(x, kernel)
    # XLA's CPU convolution is about half as fast on a 1x1 kernel as its matrix product.
    return _by_platform(x, kernel, cpu=lambda x, kernel: product(x, kernel[0, 0]), default=native)


def _convolved(x: Array, kernel: Array, *, strides: tuple[int, int], pads: Any, dilation: int = 1, sums: Any = None):
    """XLA's convolution of one example. sums: their type and the result's, by default that of x."""
    return lax.conv_general_dilated(
        x[None],
        kernel,
        strides,
        pads,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=sums,
    )[0]


def product(x: Float[Array, "... i"], kernel: Float[Array, "i o"]) -> Float[Array, "... o"]:
    """x @ kernel. In bfloat16 the sums are in float32 and rounded once; CPUs use their units for bfloat16 only so."""
    return _product(x, kernel) if x.dtype == jnp.bfloat16 else x @ kernel


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, kernel), (x, kernel)


def _product_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # The automatic gradient would multiply the kernel by a gradient in float32.
    x, kernel = residuals
    rows, pulled = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    return _product(gradient, kernel.T), _product(rows.T, pulled)


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def tuned_conv(x: Float[Array, "h w i"], kernel: Array, flipped: Array, *, stride: int, padding: Padding):
    """`conv` for gradients of x alone. flipped: the kernel as (kh, kw, o, i), rows and columns reversed."""
    return _tuned_conv(x, kernel, flipped, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _tuned_conv(x: Array, kernel: Array, flipped: Array, stride: int, padding: Padding) -> Array:
    del flipped
    if x.dtype != jnp.bfloat16 or kernel.shape[:3] == x.shape:
        return conv(x, kernel, stride=stride, padding=padding)

    def wide(x: Array, kernel: Array) -> Array:
        pads = _pads(x, kernel, stride, padding)
        return _convolved(x, kernel, strides=(stride, stride), pads=pads, sums=jnp.float32).astype(x.dtype)

    return _by_platform(x, kernel, cpu=wide, default=functools.partial(conv, stride=stride, padding=padding))


def _tuned_conv_forward(x: Array, kernel: Array, flipped: Array, stride: int, padding: Padding):
    return _tuned_conv(x, kernel, flipped, stride, padding), (jnp.zeros((*x.shape[:2], 0)), kernel, flipped)


def _tuned_conv_backward(stride: int, padding: Padding, residuals: tuple[Array, Array, Array], gradient: Array):
    # The automatic gradient turns every kernel round in every step. GPUs and TPUs have programs of their own for it,
    # which XLA finds by that very reversal.
    like, kernel, flipped = residuals
    pads = []
    for axis, (before, _) in enumerate(_pads(like, kernel, stride, padding)):
        size, length = kernel.shape[axis], (gradient.shape[axis] - 1) * stride + 1
        pads.append((size - 1 - before, like.shape[axis] + before - length))

    def turned(gradient: Array, kernel: Array, flipped: Array) -> Array:
        del kernel
        cotangent = _convolved(gradient, flipped, strides=(1, 1), pads=pads, dilation=stride, sums=jnp.float32)
        return cotangent.astype(gradient.dtype)

    def automatic(gradient: Array, kernel: Array, flipped: Array) -> Array:
        del flipped
        shape = jax.ShapeDtypeStruct((*like.shape[:2], kernel.shape[2]), gradient.dtype)
        forth = functools.partial(_convolved, strides=(stride, stride), pads=_pads(like, kernel, stride, padding))
        pull = jax.linear_transpose(lambda x: forth(x, kernel), shape)
        return pull(gradient)[0]

    pulled = _by_platform(gradient, kernel, flipped, cpu=turned, default=automatic)
    return pulled, jnp.full_like(kernel, jnp.nan), jnp.full_like(flipped, jnp.nan)  # nobody must train with these


_tuned_conv.defvjp(_tuned_conv_forward, _tuned_conv_backward)


@functools.partial(jax.jit, static_argnames=("stride", "padding"))
def depthwise(x: Float[Array, "h w c"], kernel: Float[Array, "kh kw c"], *, stride: int, padding: Padding):
    """Depthwise convolution of one example; (h, w, c) to (h', w', c)."""

    def native(x, kernel):
        return lax.conv_general_dilated(
            x[None],
            kernel[:, :, None, :],
            (stride, stride),
            _pads(x, kernel, stride, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )[0]

    def shifted(x, kernel):
        # XLA's CPU convolution falls back to a naive loop when grouped: 30 times slower than this sum of products.
        if x.shape == kernel.shape and padding == "VALID":
            return jnp.sum(x * kernel, axis=(0, 1), keepdims=True)
        return _shifted(x, kernel, stride, padding)

    return _by_platform(x, kernel, cpu=shifted, default=native)


def _pads(x: Array, kernel: Array, stride: int, padding: Padding) -> tuple[tuple[int, int], ...]:
    """Zeros (before, after) on the two axes."""
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    return tuple(lax.padtype_to_pads(x.shape[:2], kernel.shape[:2], (stride, stride), padding))


def _taps(x: Float[Array, "h w c"], size: tuple[int, int], stride: int) -> list[Float[Array, "H W c"]]:
    """Values that each element of a kernel of `size` sees of an already padded x, row by row."""
    rows, columns = ((n - k) // stride for n, k in zip(x.shape[:2], size, strict=True))
    return [
        lax.slice(x, (dy, dx, 0), (dy + rows * stride + 1, dx + columns * stride + 1, x.shape[2]), (stride, stride, 1))
        for dy in range(size[0])
        for dx in range(size[1])
    ]


def _sum_of_taps(x: Array, kernel: Array, stride: int) -> Array:
    weights = kernel.reshape(-1, 1, 1, kernel.shape[-1])
    taps = _taps(x, (kernel.shape[0], kernel.shape[1]), stride)
    return functools.reduce(jnp.add, [tap * weights[n] for n, tap in enumerate(taps)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """The depthwise convolution as one shifted product for each element of the kernel, summed."""
    return _sum_of_taps(jnp.pad(x, (*_pads(x, kernel, stride, padding), (0, 0))), kernel, stride)


def _shifted_forward(x: Array, kernel: Array, stride: int, padding: Padding):
    return _shifted(x, kernel, stride, padding), (x, kernel)


def _shifted_backward(stride: int, padding: Padding, residuals: tuple[Array, Array], gradient: Array):
    # The automatic gradient pads the cotangent once for each element. XLA:CPU then fuses all that made the cotangent
    # into every one of those pads, and computes it nine times over. That is 5 to 20 times slower than one pad.
    x, kernel = residuals
    pads = _pads(x, kernel, stride, padding)
    spread = []
    for axis, (before, _) in enumerate(pads):
        size, length = kernel.shape[axis], (gradient.shape[axis] - 1) * stride + 1
        spread.append((size - 1 - before, x.shape[axis] + before - length, stride - 1))
    spaced = lax.pad(gradient, jnp.zeros((), gradient.dtype), (*spread, (0, 0, 0)))
    return _sum_of_taps(spaced, kernel[::-1, ::-1], 1), _to_kernel(x, kernel, gradient, stride, padding)


def _to_kernel(x: Array, kernel: Array, gradient: Array, stride: int, padding: Padding) -> Array:
    """The gradient of the kernel: each tap times the cotangent, summed over the map, in float32."""
    # A few rows at a time in a loop, which both operands enter as they are. With sums over whole maps XLA:CPU computes
    # all that made the operands once for each element of the kernel, which is several times slower.
    padded = jnp.pad(x, (*_pads(x, kernel, stride, padding), (0, 0)))
    height, width = kernel.shape[:2]
    rows, columns, channels = gradient.shape
    block = max(count for count in range(1, 9) if rows % count == 0)
    last = (columns - 1) * stride + 1

    def add(number: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
        first = number * block
        tall = (block - 1) * stride + height
        seen = lax.dynamic_slice(padded, (first * stride, 0, 0), (tall, *padded.shape[1:])).astype(jnp.float32)
        cotangents = lax.dynamic_slice(gradient, (first, 0, 0), (block, columns, channels)).astype(jnp.float32)
        taps = ((dy, dx) for dy in range(height) for dx in range(width))
        return tuple(
            functools.reduce(
                jnp.add, [seen[r * stride + dy, dx : dx + last : stride] * cotangents[r] for r in range(block)], total
            )
            for total, (dy, dx) in zip(totals, taps, strict=True)
        )

    nothing = (jnp.zeros((columns, channels), jnp.float32),) * (height * width)
    totals = lax.fori_loop(0, rows // block, add, nothing)
    return jnp.stack([total.sum(axis=0) for total in totals]).reshape(kernel.shape).astype(kernel.dtype)


_shifted.defvjp(_shifted_forward, _shifted_backward)


@functools.partial(jax.jit, static_argnames=("window", "stride"))
def max_pool(x: Float[Array, "h w c"], *, window: int, stride: int) -> Float[Array, "H W c"]:
    """Maximum over square windows, VALID padding; the gradient goes to the first of the pixels that tie."""
    return _max_pool(x, window, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: Array, window: int, stride: int) -> Array:
    # Maxima of shifted slices, rows then columns: `lax.reduce_window` is slower on CPU, its gradient 12 times.
    for axis in (0, 1):
        count = (x.shape[axis] - window) // stride + 1
        last = (count - 1) * stride + 1
        x = functools.reduce(jnp.maximum, [lax.slice_in_dim(x, n, n + last, stride, axis) for n in range(window)])
    return x


def _max_pool_forward(x: Array, window: int, stride: int):
    top = _max_pool(x, window, stride)
    taps = _taps(x, (window, window), stride)
    which = functools.reduce(
        lambda later, n: jnp.where(taps[n] == top, jnp.int8(n), later), reversed(range(len(taps))), jnp.int8(0)
    )
    return top, (jnp.zeros((*x.shape[:2], 0)), which)


def _max_pool_backward(window: int, stride: int, residuals: tuple[Array, Array], gradient: Array):
    # Pixels by their remainders modulo the stride: which windows see them is then a few slices, without holes.
    like, which = residuals
    height, width = like.shape[:2]
    reach = (window - 1) // stride
    rows, columns = -(-height // stride), -(-width // stride)
    pads = ((reach, rows - which.shape[0]), (reach, columns - which.shape[1]), (0, 0))
    which, gradient = jnp.pad(which, pads, constant_values=-1), jnp.pad(gradient, pads)

    def phase(y: int, x: int) -> Array:
        total = []
        for dy in range(y, window, stride):
            for dx in range(x, window, stride):
                up, left = reach - dy // stride, reach - dx // stride
                seen = (slice(up, up + rows), slice(left, left + columns))
                total.append(jnp.where(which[seen] == dy * window + dx, gradient[seen], 0))
        return functools.reduce(jnp.add, total)

    phases = [jnp.stack([phase(y, x) for x in range(stride)], axis=2) for y in range(stride)]
    pulled = jnp.stack(phases, axis=1).reshape(rows * stride, columns * stride, gradient.shape[2])
    return (pulled[:height, :width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _over_map(x: Float[Array, "h w c"]) -> Float[Array, " c"]:
    """The sum over the map for each channel."""

    # XLA:CPU's sums over all but the last axis take two to ten times as long as a product with ones.
    def of_ones(x: Array) -> Array:
        return product(jnp.ones(x.shape[0] * x.shape[1], x.dtype), x.reshape(-1, x.shape[2]))

    return _by_platform(x, cpu=of_ones, default=lambda x: jnp.sum(x, axis=(0, 1)))


@jax.custom_vjp
def shifted(x: Float[Array, "h w c"], bias: Float[Array, " c"]) -> Float[Array, "h w c"]:
    """x + bias by channel."""
    return x + bias[None, None]


shifted.defvjp(lambda x, bias: (shifted(x, bias), None), lambda _, gradient: (gradient, _over_map(gradient)))


@jax.custom_vjp
def scaled(x: Float[Array, "h w c"], scale: Float[Array, " c"]) -> Float[Array, "h w c"]:
    """x * scale by channel."""
    return x * scale[None, None]


def _scaled_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, scale = residuals
    return gradient * scale[None, None], _over_map(gradient * x)


scaled.defvjp(lambda x, scale: (scaled(x, scale), (x, scale)), _scaled_backward)


@jax.custom_vjp
def leaky(x: Float[Array, "h w c"], slope: Float[Array, " c"]) -> Float[Array, "h w c"]:
    """x, times slope by channel if it is not positive."""
    return jnp.where(x > 0, x, x * slope[None, None])


def _leaky_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, slope = residuals
    return jnp.where(x > 0, gradient, gradient * slope[None, None]), _over_map(jnp.where(x > 0, 0, gradient * x))


leaky.defvjp(lambda x, slope: (leaky(x, slope), (x, slope)), _leaky_backward)


def average_pool(x: Float[Array, "h w c"], *, window: int) -> Float[Array, "H W c"]:
    """Mean over squares side by side; what is left at the end of an axis is dropped."""
    height, width, channels = x.shape[0] // window, x.shape[1] // window, x.shape[2]
    x = x[: height * window, : width * window]
    return jnp.mean(x.reshape(height, window, width, window, channels), axis=(1, 3))


def _kernel(rngs: nnx.Rngs | None, shape: tuple[int, ...], *, fan_in: int) -> nnx.Param:
    """He-normal, or zeros without `rngs`: a network made only to be filled should not draw 20 million numbers."""
    if rngs is None:
        return nnx.Param(jnp.zeros(shape, jnp.float32))
    return nnx.Param((2 / fan_in) ** 0.5 * jax.random.normal(rngs.params(), shape, jnp.float32))


class SqueezeExcite(nnx.Module):
    """Scales every channel by what two dense layers make of all channels' means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, *, reduction: int = 16, rngs: nnx.Rngs | None):
        """`channels` in and out, a `reduction`-th of them between; zeros without `rngs`."""
        self.squeeze = Conv(channels, channels // reduction, (1, 1), rngs=rngs)
        self.excite = Conv(channels // reduction, channels, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        mean = jnp.mean(x, axis=(0, 1), keepdims=True)
        return x * jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(mean))))


class Conv(nnx.Module):
    """Convolution with a bias (and a batch norm folded into both). `kernel` is (kh, kw, i, o), `bias` (o,)."""

    def __init__(
        self,
        i: int,
        o: int,
        size: tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        rngs: nnx.Rngs | None,
    ):
        """`i` channels in, `o` out; zeros without `rngs`."""
        self.kernel = _kernel(rngs, (*size, i, o), fan_in=size[0] * size[1] * i)
        self.bias = nnx.Param(jnp.zeros((o,), jnp.float32))
        self.flipped: nnx.Param | None = nnx.data(None)
        self.stride = stride
        self.padding: Padding = padding

    def __call__(self, x: Float[Array, "h w i"]) -> Float[Array, "H W o"]:
        """One example in, one out."""
        kernel = self.kernel[...]
        if self.flipped is None:
            y = conv(x, kernel, stride=self.stride, padding=self.padding)
        else:
            y = tuned_conv(x, kernel, self.flipped[...], stride=self.stride, padding=self.padding)
        return shifted(y, self.bias[...])

    def tune(self) -> None:
        """Keep the kernel turned round as well, as the gradient of the input needs it (see `extractor.tuned`)."""
        kernel = np.asarray(self.kernel[...])
        if kernel.shape[:2] != (1, 1):
            self.flipped = nnx.Param(np.ascontiguousarray(kernel[::-1, ::-1].swapaxes(2, 3)))


class Depthwise(nnx.Module):
    """Depthwise convolution with a bias. `kernel` is (kh, kw, c), `bias` (c,)."""

    def __init__(
        self, channels: int, size: tuple[int, int], *, stride: int = 1, padding: Padding = "SAME", rngs: nnx.Rngs | None
    ):
        """`channels` in and out; zeros without `rngs`."""
        self.kernel = _kernel(rngs, (*size, channels), fan_in=size[0] * size[1])
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.stride = stride
        self.padding: Padding = padding

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "H W c"]:
        """One example in, one out."""
        y = depthwise(x, self.kernel[...], stride=self.stride, padding=self.padding)
        return shifted(y, self.bias[...])


class EfficientAttention(nnx.Module):
    """Scales every channel by a short convolution over all channels' means, ECA (Wang et al., CVPR 2020)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs | None):
        """The kernel's length follows from `channels` as in the paper; zeros without `rngs`."""
        length = int(abs(math.log2(channels) + 1) / 2)
        length = max(3, length if length % 2 else length + 1)
        self.kernel = _kernel(rngs, (length,), fan_in=length)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        kernel, channels = self.kernel[...], x.shape[2]
        mean = jnp.pad(jnp.mean(x, axis=(0, 1)), len(kernel) // 2)
        weight = sum(kernel[n] * mean[n : n + channels] for n in range(len(kernel)))
        return x * jax.nn.sigmoid(weight)[None, None]


class Dense(nnx.Module):
    """A dense layer on the last axis. `kernel` is (i, o), `bias` (o,)."""

    def __init__(self, i: int, o: int, *, rngs: nnx.Rngs | None):
        """`i` numbers in, `o` out; zeros without `rngs`."""
        self.kernel = _kernel(rngs, (i, o), fan_in=i)
        self.bias = nnx.Param(jnp.zeros((o,), jnp.float32))

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """One example in, one out."""
        y = product(x, self.kernel[...])
        return y + jnp.expand_dims(self.bias[...], range(y.ndim - 1))


class LayerNorm(nnx.Module):
    """Tokens with mean 0 and deviation 1, then scaled and shifted (Ba et al., 2016)."""

    def __init__(self, width: int):
        """`width` of a token."""
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """One example's tokens in, as many out."""
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        normal = centred * lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + 1e-5)
        return normal * self.scale[...][None] + self.shift[...][None]


class Affine(nnx.Module):
    """x * scale + shift by channel: a batch norm that cannot be folded, before a ReLU or a zero-padded convolution."""

    def __init__(self, channels: int):
        """The identity on `channels` at first."""
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        return shifted(scaled(x, self.scale[...]), self.shift[...])


class PReLU(nnx.Module):
    """max(x, 0) + slope * min(x, 0), one slope a channel (He et al., ICCV 2015)."""

    def __init__(self, channels: int):
        """One slope for each of `channels`, .25 at first."""
        self.slope = nnx.Param(jnp.full((channels,), 0.25, jnp.float32))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """One example in, one out."""
        return leaky(x, self.slope[...])
