"""The rival of 2020: the loop of the released Fawkes 1.0.4 under TensorFlow, on the weights of one of our extractors.

Runs in DIR/tensorflow of `build`. The package's, unchanged: `FawkesMaskGeneration` (the tanh space, the clip at 15 grey
levels, DSSIM by tf.image.ssim over the whole picture, the loss, the weight that doubles and halves, the best iterate,
all of it run eagerly with a persistent tape) and the `Extractor` wrapper that divides by 255 and normalises. The clean
embedding is computed anew in every step, as it has it. Replaced from outside, as in tools/golden_fawkes1.py: `mtcnn`,
imported and not needed, is an empty stub; `tf.keras.optimizers.Adadelta` is the legacy class, which the TensorFlow that
the package pins calls so; the progress bar, called last in every step, is a recorder of time, DSSIM and distance.
Ours: the network, a Keras model with the weights of the problem file and batch norms folded (the package's own models
are no longer to be had; theirs had batch norms, and so more to do), and the pictures, which are the network's crops of
the problem's canvases, 0 to 255: the package's budget and mask are those of that crop and not of the problem.
TensorFlow's threads and oneDNN are as it sets them.

    python benchmarks/rivals/fawkes_rival.py solve PROBLEM --out RESULT [--extractor NAME] [--batch N] [--faces N]
        [--steps N] [--threshold R] [--learning-rate R] [--penalty C] [--goal G]
    python benchmarks/rivals/fawkes_rival.py check PROBLEM

`solve` runs mode mid (threshold .012, 75 steps, learning rate 20) with the command line's c of 1e6, one face at a time,
unless told otherwise. It writes, in the units of the crop in [0, 1]: delta (n, s, s, 3); shift (n, 1), L2 between
embeddings, and dssim (n,) of it; kept (n,), false where the package found nothing and returned black; step_dssim and
step_distance (T, n), the package's D and F of the iterate before each update; step_seconds (T, n), the time of the step
that the face was in, for the whole batch; reached (n,), the first step with D at most the threshold and sqrt(F) at
least the goal, 0 for never. One step is run before and not counted. `check` compares embeddings with the reference that
the problem carries. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import problem_file
from problem_file import Network, Problem, Weights


@functools.cache
def published() -> tuple[Any, Any, Any]:
    """TensorFlow and the package's two modules, with the stub and the optimiser they need."""
    stub = types.ModuleType("mtcnn")
    stub.MTCNN = None  # type: ignore[attr-defined]
    sys.modules["mtcnn"] = stub
    import tensorflow as tf

    tf.keras.optimizers.Adadelta = tf.keras.optimizers.legacy.Adadelta
    from fawkes import differentiator, utils

    return tf, differentiator, utils


class Layers:
    """Keras layers that take their weights from the problem, by path."""

    def __init__(self, keras: Any, weights: Weights):
        self.keras = keras
        self.weights = weights

    def conv(
        self, x: Any, path: str, *, stride: int = 1, same: bool = True, relu: bool = False, scale: float = 1.0
    ) -> Any:
        """A convolution with a bias, full or depthwise by its kernel; a ReLU after it if asked."""
        kernel, bias = (self.weights.take(f"{path}/{name}") * np.float32(scale) for name in ("kernel", "bias"))
        shape = {
            "kernel_size": kernel.shape[:2],
            "strides": stride,
            "padding": "same" if same else "valid",
            "activation": "relu" if relu else None,
        }
        if kernel.ndim == 3:
            layer, kernel = self.keras.layers.DepthwiseConv2D(**shape), kernel[..., None]
        else:
            layer = self.keras.layers.Conv2D(kernel.shape[3], **shape)
        x = layer(x)
        layer.set_weights([kernel, bias])
        return x

    def prelu(self, x: Any, path: str) -> Any:
        """PReLU with one slope a channel."""
        layer = self.keras.layers.PReLU(shared_axes=[1, 2])
        x = layer(x)
        layer.set_weights([self.weights.take(f"{path}/slope")[None, None]])
        return x

    def branches(self, x: Any, path: str, *, lengths: tuple[int, ...], reduce: bool = False) -> Any:
        """Rows of convolutions with ReLUs, their outputs concatenated, with those of a max pool where they reduce."""
        outputs = []
        for row, length in enumerate(lengths):
            y = x
            for index in range(length):
                last = reduce and index == length - 1
                y = self.conv(y, f"{path}/branches/{row}/{index}", stride=2 if last else 1, same=not last, relu=True)
            outputs.append(y)
        if reduce:
            outputs.append(self.keras.layers.MaxPooling2D(3, 2)(x))
        return self.keras.layers.Concatenate()(outputs)

    def residual(self, x: Any, path: str, *, lengths: tuple[int, ...], scale: float, activate: bool = True) -> Any:
        """x + scale * project(branches of x), the scale folded into the projection."""
        y = self.conv(self.branches(x, path, lengths=lengths), f"{path}/project", scale=scale)
        x = self.keras.layers.Add()([x, y])
        return self.keras.layers.ReLU()(x) if activate else x


def inception_resnet_v1(layers: Layers, x: Any) -> Any:
    """engine/extractors/inception_resnet_v1.py."""
    x = layers.conv(x, "conv1a", stride=2, same=False, relu=True)
    x = layers.conv(x, "conv2a", same=False, relu=True)
    x = layers.conv(x, "conv2b", relu=True)
    x = layers.keras.layers.MaxPooling2D(3, 2)(x)
    x = layers.conv(x, "conv3b", same=False, relu=True)
    x = layers.conv(x, "conv4a", same=False, relu=True)
    x = layers.conv(x, "conv4b", stride=2, same=False, relu=True)
    for n in range(5):
        x = layers.residual(x, f"block35/{n}", lengths=(1, 2, 3), scale=0.17)
    x = layers.branches(x, "reduction_a", lengths=(1, 3), reduce=True)
    for n in range(10):
        x = layers.residual(x, f"block17/{n}", lengths=(1, 3), scale=0.1)
    x = layers.branches(x, "reduction_b", lengths=(2, 2, 3), reduce=True)
    for n in range(5):
        x = layers.residual(x, f"block8/{n}", lengths=(1, 3), scale=0.2)
    x = layers.residual(x, "block8_last", lengths=(1, 3), scale=1.0, activate=False)
    x = layers.keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    return layers.conv(x, "bottleneck", same=False)


def mobilefacenet(layers: Layers, x: Any) -> Any:
    """engine/extractors/mobilefacenet.py in the form of `mobilefacenet-192`."""
    x = layers.prelu(layers.conv(x, "stem", stride=2), "stem_prelu")
    x = layers.prelu(layers.conv(x, "stem_depthwise"), "stem_depthwise_prelu")
    x = layers.conv(x, "stem_project")
    for n in range(15):
        stride = 2 if n in (0, 5, 12) else 1
        y = layers.prelu(layers.conv(x, f"blocks/{n}/expand"), f"blocks/{n}/expand_prelu")
        y = layers.prelu(layers.conv(y, f"blocks/{n}/depthwise", stride=stride), f"blocks/{n}/depthwise_prelu")
        y = layers.conv(y, f"blocks/{n}/project")
        x = layers.keras.layers.Add()([x, y]) if stride == 1 else y
    x = layers.prelu(layers.conv(x, "head"), "head_prelu")
    x = layers.conv(x, "global_depthwise", same=False)
    return layers.conv(layers.conv(x, "global_project"), "bottleneck")


BODIES: dict[str, Callable[[Layers, Any], Any]] = {
    "inception_resnet_v1": inception_resnet_v1,
    "mobilefacenet": mobilefacenet,
}


def build(keras: Any, network: Network) -> Any:
    """A Keras model from crops (b, s, s, 3) in [0, 1] to embeddings (b, d), not normalised, as the package calls its.

    Raises ValueError for a network that is not written here, or weights that do not fit it.
    """
    if network.network not in BODIES:
        raise ValueError(f"{network.name} is a {network.network}; this rival has {', '.join(BODIES)}")
    weights = Weights(network)
    images = keras.layers.Input((network.size, network.size, 3))
    x = images[..., ::-1] if network.bgr else images
    x = keras.layers.Rescaling(255 / network.scale, [-mean / network.scale for mean in network.mean])(x)
    x = keras.layers.Flatten()(BODIES[network.network](Layers(keras, weights), x))
    weights.finish()
    return keras.Model(images, x)


class Recorder:
    """Stands where the loop's progress bar is: made anew for every batch, `update` is the last call of a step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, list[np.ndarray]]] = []
        self._begun = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Recorder:
        self.rows.append({"step_seconds": [], "step_dssim": [], "step_distance": []})
        self._begun = time.perf_counter()
        return self

    def update(self, step: int) -> None:
        """Reads the loop's own variables, which it has brought to the host already."""
        time_now = time.perf_counter()
        loop, row = sys._getframe(1).f_locals, self.rows[-1]
        dssim = loop["dist_raw"].numpy()
        row["step_seconds"].append(np.full(len(dssim), time_now - self._begun))
        row["step_dssim"].append(dssim)
        row["step_distance"].append(loop["internal_dist"].numpy())
        self._begun = time.perf_counter()

    def arrays(self) -> dict[str, np.ndarray]:
        """(T, n) each, the batches side by side."""
        return {key: np.concatenate([np.stack(row[key]) for row in self.rows], axis=1) for key in self.rows[0]}


def protect(images: np.ndarray, model: Any, options: argparse.Namespace, *, steps: int, batch: int) -> tuple[Any, ...]:
    """Run the package on images (n, s, s, 3), 0 to 255; what it returns, what it did by step, and the seconds."""
    _, differentiator, utils = published()
    recorder = Recorder()
    differentiator.Progbar = recorder
    np.random.seed(options.seed)  # noqa: NPY002 (the package draws from the global generator)
    protector = differentiator.FawkesMaskGeneration(
        [utils.Extractor(model)],
        batch_size=batch,
        mimic_img=True,
        intensity_range="raw",
        initial_const=options.penalty,
        learning_rate=options.learning_rate,
        max_iterations=steps,
        l_threshold=options.threshold,
        verbose=False,
        maximize=True,
        keep_final=False,
        image_shape=images.shape[1:],
        loss_method="features",
        tanh_process=True,
        save_last_on_failed=True,
    )
    begun = time.perf_counter()
    cloaked = protector.compute(images)
    return cloaked.astype(np.float32), recorder.arrays(), time.perf_counter() - begun


def embeddings(model: Any, crops: np.ndarray) -> np.ndarray:
    """Of length one, of crops in [0, 1]."""
    raw = model(crops.astype(np.float32)).numpy()
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def solve_command(problem: Problem, options: argparse.Namespace) -> dict[str, object]:
    """Cloak the crops of one extractor and write the result."""
    tf, _, _ = published()
    network = problem.network(options.extractor)
    model = build(tf.keras, network)
    problem = problem.faces(slice(0, options.faces))
    goals = problem.goals if options.goal is None else np.full(len(problem.canvas), options.goal, np.float32)
    images = problem_file.crops(network, problem.canvas).astype(np.float32).clip(0, 1) * 255
    batch = min(options.batch, len(images))
    *_, first = protect(images[:batch], model, options, steps=1, batch=batch)
    cloaked, arrays, seconds = protect(images, model, options, steps=options.steps, batch=batch)
    shown = cloaked.reshape(len(cloaked), -1).any(axis=1)
    cloaked = np.where(shown[:, None, None, None], cloaked, images)
    similarity = tf.image.ssim(tf.constant(images), tf.constant(cloaked), max_val=255.0).numpy()
    shift = np.linalg.norm(embeddings(model, cloaked / 255) - embeddings(model, images / 255), axis=1)
    there = (arrays["step_dssim"] <= options.threshold) & (np.sqrt(arrays["step_distance"]) >= goals) & (goals > 0)
    reached = np.where(there.any(axis=0), there.argmax(axis=0) + 1, 0).astype(np.int32)
    arrays |= {
        "delta": (cloaked - images) / 255,
        "shift": shift[:, None],
        "dssim": (1 - similarity) / 2,
        "kept": shown,
        "reached": reached,
    }
    step_ms = 1000 * np.median(arrays["step_seconds"])
    summary = {
        "extractor": network.name,
        "size": network.size,
        "faces": len(images),
        "batch": batch,
        "threshold": options.threshold,
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "penalty": options.penalty,
        "seed": options.seed,
        "first_seconds": round(first, 3),
        "seconds": round(seconds, 3),
        "faces_per_second": round(len(images) / seconds, 4),
        "step_ms": round(float(step_ms), 2),
        "kept": int(shown.sum()),
        "shift_mean": float(shift.mean()),
        "dssim_max": float(arrays["dssim"].max()),
        "reached": reached.tolist(),
    }
    problem_file.write_result(options.out, summary, **arrays)
    return summary


def check_command(problem: Problem, options: argparse.Namespace) -> dict[str, object]:
    """Compare the embeddings of every network written here with the reference in the problem."""
    tf, _, _ = published()
    if not problem.reference:
        raise SystemExit("the problem has no reference: problem.py --reference makes one that has")
    cosines = {}
    for network in problem.networks:
        ours = problem.reference[f"embedding/{network.name}"]
        crops = problem_file.crops(network, problem.canvas[: len(ours)])
        theirs = embeddings(build(tf.keras, network), crops)
        lengths = np.linalg.norm(ours.astype(np.float64), axis=1) * np.linalg.norm(theirs.astype(np.float64), axis=1)
        cosines[network.name] = float(((ours.astype(np.float64) * theirs).sum(axis=1) / lengths).min())
    return {"passed": min(cosines.values()) > 0.99999, "cosine_min": cosines}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("problem", type=Path)
    solving = commands.add_parser("solve", parents=[shared], help="cloak the faces' crops")
    solving.add_argument("--out", type=Path, required=True)
    solving.add_argument("--extractor", help="the one to cloak for (default: the problem's first)")
    solving.add_argument("--batch", type=int, default=1, help="faces at a time (default: the package's, 1)")
    solving.add_argument("--faces", type=int, help="the first so many (default: all)")
    solving.add_argument("--steps", type=int, default=75)
    solving.add_argument("--threshold", type=float, default=0.012)
    solving.add_argument("--learning-rate", type=float, default=20.0)
    solving.add_argument("--penalty", type=float, default=1e6)
    solving.add_argument("--goal", type=float, help="shift, instead of the problem's goals")
    solving.add_argument("--seed", type=int, default=0)
    commands.add_parser("check", parents=[shared], help="compare embeddings with our engine's")
    options = parser.parse_args()
    problem = problem_file.read(options.problem)
    load = round(os.getloadavg()[0], 1)
    result = {"solve": solve_command, "check": check_command}[options.command](problem, options)
    version = published()[0].__version__
    print(json.dumps({"rival": "fawkes", "command": options.command, "version": version, "load": load} | result))
    return 1 if result.get("passed") is False else 0


if __name__ == "__main__":
    sys.exit(main())
