"""A network's crop of the canvas as two matrix products: no gather, and no scatter in the gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def resampling_matrix(canvas: int, *, size: int, window: Float[Array, " 2"]) -> Float[Array, "{size} {canvas}"]:
    """Rows that resample `canvas` pixels to `size` over `window` = (lo, hi), anti-aliased bilinear.

    The triangle filter is one source pixel wide, or one output pixel if that is larger (as in PIL's BILINEAR
    and `jax.image.scale_and_translate`). Rows sum to 1; what lies outside the canvas repeats its edge.
    """
    lo, hi = window[0], window[1]
    step = (hi - lo) / size
    centre = lo + (jnp.arange(size, dtype=jnp.float32) + 0.5) * step
    centre = jnp.clip(centre, 0.0, float(canvas))
    pixel = jnp.arange(canvas, dtype=jnp.float32) + 0.5
    width = jnp.maximum(jnp.abs(step), 1.0)
    weight = jnp.maximum(1.0 - jnp.abs(centre[:, None] - pixel[None, :]) / width, 0.0)
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def crop(
    canvas: Float[Array, "c c 3"], *, size: int, window_yx: Float[Array, "2 2"]
) -> Float[Array, "{size} {size} 3"]:
    """The window of the canvas at `size` pixels, A_y @ canvas @ A_x^T per channel.

    `window_yx` has the rows (lo, hi) of y, then x, in canvas pixels. It may be traced, and lo > hi on an axis mirrors
    that axis. A window of `size` whole pixels at a whole offset is an exact copy.

    >>> part = crop(canvas, size=112, window_yx=jnp.array([[32.0, 144.0], [32.0, 144.0]]))
    >>> bool(jnp.array_equal(part, canvas[32:144, 32:144]))
    True
    """
    rows = resampling_matrix(canvas.shape[0], size=size, window=window_yx[0])
    columns = resampling_matrix(canvas.shape[1], size=size, window=window_yx[1])
    # Highest: TF32 or bfloat16 products would round the pixels to about 1/1000 before the network sees them.
    precision = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("oy,yxc->oxc", rows, canvas, precision=precision)
    return jnp.einsum("px,oxc->opc", columns, tall, precision=precision)
