"""Layer by layer: how near each convolution of an extractor comes to the machine's product peak, here and by form.

    python benchmarks/layers.py [EXTRACTOR...] [--batch N] [--repeats N] [--out FILE.json]

For every different convolution of a network (input side and channels, kernel, stride) how often it occurs, its share of
the network's FLOPs, and the GFLOP/s of its forward pass and of the gradient of its input, each alone in a jitted
function at this batch size, in the forms that XLA has for it: `native` (its convolution), `product` (the patches as
one matrix, or the pixels themselves for a 1x1 kernel; one product), and for depthwise ones `taps` (shifted products).
The form that the engine uses is starred, the least of the repeats counts, and the physical ceiling is `peak`: a
product of two 2048 x 2048 matrices in the same process. Depthwise ones are bound by memory, not by products. Last
the sum: what all layers take at these speeds, at peak speed, and what the whole network takes, which has activations,
pools and concatenations besides.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import sharding
from engine.bench import ceiling
from engine.bench.timing import times
from engine.extractors import layers, registry

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Shape(NamedTuple):
    """One convolution. depthwise: its kernel is (kh, kw, c)."""

    height: int
    width: int
    channels: int
    kernel: tuple[int, ...]
    stride: int
    padding: layers.Padding

    @property
    def depthwise(self) -> bool:
        return len(self.kernel) == 3


def shapes(name: str) -> Counter[Shape]:
    """The convolutions of an extractor and how often each occurs."""
    entry = registry.find(name)
    counts: Counter[Shape] = Counter()

    def spy(original: Callable) -> Callable:
        def called(x: jax.Array, kernel: jax.Array, *, stride: int, padding: layers.Padding) -> jax.Array:
            height, width, channels = x.shape
            counts[Shape(height, width, channels, kernel.shape, stride, padding)] += 1
            return original(x, kernel, stride=stride, padding=padding)

        return called

    with mock.patch.multiple(layers, conv=spy(layers.conv), depthwise=spy(layers.depthwise)):
        side = entry.spec.size
        graphdef, params = registry.abstract(entry.build)
        jax.eval_shape(
            lambda p, x: nnx.merge(graphdef, p)(x), params, jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
        )
    return counts


def native(shape: Shape, x: jax.Array, kernel: jax.Array) -> jax.Array:
    pads = layers._pads(x[0], kernel, shape.stride, shape.padding)
    groups = shape.channels if shape.depthwise else 1
    kernel = kernel[:, :, None] if shape.depthwise else kernel
    strides = (shape.stride, shape.stride)
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=DIMENSIONS, feature_group_count=groups)


def product(shape: Shape, x: jax.Array, kernel: jax.Array) -> jax.Array:
    def product_of(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, (*layers._pads(x, kernel, shape.stride, shape.padding), (0, 0)))
        patches = jnp.concatenate(layers._taps(padded, (kernel.shape[0], kernel.shape[1]), shape.stride), axis=-1)
        return patches @ kernel.reshape(-1, kernel.shape[-1])

    return jax.vmap(product_of)(x)


def taps(shape: Shape, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: layers._shifted(x, kernel, shape.stride, shape.padding))(x)


def speeds(shape: Shape, form: Callable, batch: int, repeats: int) -> tuple[float, float, float]:
    """GFLOP of the batch, and GFLOP/s forward and of the gradient."""
    x = jax.random.normal(jax.random.key(0), (batch, shape.height, shape.width, shape.channels))
    kernel = jax.random.normal(jax.random.key(1), shape.kernel)
    forward = jax.jit(lambda x, kernel: form(shape, x, kernel))
    backward = jax.jit(lambda x, kernel, y: jax.vjp(lambda x: form(shape, x, kernel), x)[1](y)[0])
    y = forward(x, kernel)
    inputs = 1 if shape.depthwise else shape.channels
    work = 2 * y.size * inputs * shape.kernel[0] * shape.kernel[1] / 1e9
    ahead = times(lambda: forward(x, kernel), repeats=repeats).least
    back = times(lambda: backward(x, kernel, y), repeats=repeats).least
    return work, work / ahead, work / back


def forms(shape: Shape) -> dict[str, Callable]:
    """The forms to try; the engine's own first."""
    if shape.depthwise:
        return {"taps": taps, "native": native}
    pointwise = shape.kernel[:2] == (1, 1) and shape.stride == 1
    return {"product": product, "native": native} if pointwise else {"native": native, "product": product}


def table(name: str, *, batch: int, repeats: int, top: float) -> dict[str, Any]:
    counts = shapes(name)
    rows, spent, ideal = [], 0.0, 0.0
    for shape, count in sorted(counts.items(), key=lambda pair: (-pair[0].height, pair[0].channels)):
        measured = {label: speeds(shape, form, batch, repeats) for label, form in forms(shape).items()}
        (form, (work, ahead, back)), *_ = measured.items()
        spent += count * (work / ahead + work / back)
        ideal += 2 * count * work / top
        title = f"{shape.height}x{shape.width}x{shape.channels} {'x'.join(map(str, shape.kernel))} /{shape.stride}"
        row: dict[str, Any] = {"layer": title, "times": count, "gflop": round(count * work / batch, 4), "form": form}
        for label, (_, forward, backward) in measured.items():
            row[label] = [round(forward, 1), round(backward, 1)]
        rows.append(row)
        cells = "  ".join(f"{k}{'*' if k == form else ''} {v[1]:.0f} / {v[2]:.0f}" for k, v in measured.items())
        print(f"{title:<34}{count:3} x {row['gflop'] / count:7.4f} GFLOP   {cells}", flush=True)
    milliseconds = {"layers": 1000 * spent / batch, "at_peak": 1000 * ideal / batch}
    print(f"{name}: all layers {milliseconds['layers']:.1f} ms a face, at peak {milliseconds['at_peak']:.1f} ms")
    return {"rows": rows, "milliseconds": {key: round(value, 2) for key, value in milliseconds.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extractors", nargs="*", default=["web-incept", "mobilefacenet-192"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sharding.configure()
    top = ceiling.product(repeats=options.repeats).best
    print(
        f"peak {top:.0f} GFLOP/s; GFLOP/s forward / gradient of the input, batch {options.batch}; *: the engine's form"
    )
    results: dict[str, Any] = {"peak_gflops_per_second": round(top, 1), "batch": options.batch}
    for name in options.extractors:
        results[name] = table(name, batch=options.batch, repeats=options.repeats, top=top)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
