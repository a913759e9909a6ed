"""View of a canvas for a network in training: a crop a little off, mirrored or not, a little brighter or flatter."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


class View(NamedTuple):
    """One look. shift (2,): of the crop's middle, y then x, in sides of the crop. zoom: of its side. mirrored: 1 or 0.
    gain, lift: pixels become (x - .5) * gain + .5 + lift, in [0, 1].
    """

    shift: Float[Array, "2"]
    zoom: Float[Array, ""]
    mirrored: Float[Array, ""]
    gain: Float[Array, ""]
    lift: Float[Array, ""]


class Range(NamedTuple):
    """How far a look may be off: shift and zoom in sides of the crop, gain around 1, lift around 0. All are uniform."""

    shift: float = 0.05
    zoom: float = 0.1
    gain: float = 0.0
    lift: float = 0.0


def straight(*, mirrored: bool = False) -> View:
    """The crop as the network expects it."""
    return View(jnp.zeros(2), jnp.ones(()), jnp.full((), float(mirrored)), jnp.ones(()), jnp.zeros(()))


def draw(key: PRNGKeyArray, within: Range) -> View:
    """A look at random, mirrored every second time."""
    keys = dict(zip(View._fields, jax.random.split(key, 5), strict=True))

    def off(name: str, reach: float, shape: tuple[int, ...] = ()) -> Array:
        return reach * jax.random.uniform(keys[name], shape, minval=-1.0, maxval=1.0)

    return View(
        shift=off("shift", within.shift, (2,)),
        zoom=1 + off("zoom", within.zoom),
        mirrored=jax.random.bernoulli(keys["mirrored"]).astype(jnp.float32),
        gain=1 + off("gain", within.gain),
        lift=off("lift", within.lift),
    )


def window(view: View, crop: tuple[float, float] | tuple[tuple[float, float], tuple[float, float]]) -> Array:
    """`window_yx` (2, 2) of `engine.extractors.crop` for the square of a network, seen this way.

    crop: (lo, hi) of y, then of x, in canvas pixels, or one for both axes.
    """
    rows = np.broadcast_to(np.array(crop, np.float32), (2, 2))
    side = rows[1, 1] - rows[1, 0]
    centre, half = rows.mean(axis=1) + side * view.shift, side * view.zoom / 2
    facing = jnp.stack([jnp.ones(()), 1 - 2 * view.mirrored])  # lo > hi on the x axis mirrors it
    return jnp.stack([centre - half * facing, centre + half * facing], axis=1)


def lit(view: View, canvas: Float[Array, "c c 3"]) -> Float[Array, "c c 3"]:
    """The canvas in the light of the view, in [0, 1]."""
    return jnp.clip((canvas - 0.5) * view.gain + 0.5 + view.lift, 0.0, 1.0)
