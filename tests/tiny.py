"""Tiny networks with random weights and synthetic pictures, for every test that needs an extractor but not a face."""

from __future__ import annotations

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from engine.extractors import Extractor, InputSpec
from engine.extractors.layers import conv

SIZE = 32
DIM = 16


class Net(nnx.Module):
    """Two strided convolutions and a dense layer, zero mean weights: an embedding that looks at structure."""

    def __init__(self, *, seed: int, dim: int = DIM) -> None:
        rng = np.random.default_rng(seed)
        self.first = _param(rng, (4, 4, 3, 8))
        self.second = _param(rng, (4, 4, 8, 12))
        self.dense = _param(rng, (12 * (SIZE // 8) ** 2, dim))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(conv(x, self.first[...], stride=4, padding="SAME"))
        x = jnp.tanh(conv(x, self.second[...], stride=2, padding="SAME"))
        return x.reshape(-1) @ self.dense[...]


def _param(rng: np.random.Generator, shape: tuple[int, ...]) -> nnx.Param:
    kernel = rng.standard_normal(shape) * (2 / np.prod(shape[:-1])) ** 0.5
    return nnx.Param(jnp.asarray(kernel - kernel.mean(axis=tuple(range(len(shape) - 1))), jnp.float32))


def extractor(seed: int = 0, *, window: tuple[float, float] = (32.0, 144.0), dim: int = DIM) -> Extractor:
    """An extractor with seeded random weights; window in canvas pixels."""
    graphdef, state = nnx.split(Net(seed=seed, dim=dim))
    spec = InputSpec(size=SIZE, window=window, mean=(127.5, 127.5, 127.5), scale=64.0)
    return Extractor(nnx.to_pure_dict(state), f"tiny-{seed}", spec, graphdef, dim, f"{seed:064x}")


def texture(seed: int, height: int, width: int, *, sigma: float = 3.0, contrast: float = 0.15) -> np.ndarray:
    """A photo-like picture (height, width, 3) in [0, 1]: blurred noise of this contrast round mid-grey."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return (0.5 + contrast * smooth / smooth.std()).clip(0, 1)


def texture_pixels(seed: int, height: int, width: int, *, sigma: float = 3.0, contrast: float = 0.15) -> np.ndarray:
    """The same as uint8."""
    return np.rint(texture(seed, height, width, sigma=sigma, contrast=contrast) * 255).astype(np.uint8)
