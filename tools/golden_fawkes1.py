"""Record the optimisation loop of the published Fawkes 1.0.4 as the golden of the `fawkes1` solver.

The package itself computes: `FawkesMaskGeneration.compute` and the `Extractor` wrapper of `fawkes==1.0.4` run unchanged
under TensorFlow, on two tiny Keras networks and three synthetic images. Three things are replaced from outside:
- `mtcnn`, which the package imports and this does not need, is an empty stub;
- `tf.keras.optimizers.Adadelta` is the legacy class, which is what TensorFlow 2.4.1, the version that the package pins,
  calls by that name (newer classes refuse the variable that the loop wraps anew after step 1);
- the progress bar, which the loop calls last in every step, is a recorder that reads the loop's own variables.

    python3.11 -m venv env
    env/bin/pip install tensorflow-cpu==2.15.1 numpy==1.26.4 pillow==13.0.0 "setuptools<81"
    env/bin/pip install --no-deps fawkes==1.0.4
    env/bin/python tools/golden_fawkes1.py            # writes tests/goldens/fawkes1.npz, about a minute
    env/bin/python tools/golden_fawkes1.py --check    # runs again, compares with the file, writes nothing

What the file holds (T = 20 steps, 3 images; float32 where nothing else is said):

images              uint8 (3, 112, 112, 3). 0 is smooth, 1 textured, 2 saturated: large areas of exactly 0 and 255.
grid                int32 (4,). Rows and columns where fields are sampled: field[:, grid][:, :, grid].
runs                str. Names of the runs, which prefix the keys below.
net_a.*             conv0, conv1, conv2, dense: 5x5 stride 4, 3x3 stride 3, 3x3 stride 3, each VALID and tanh; flattened
                    in (h, w, c) order; dense. `kernel` is HWIO or (in, out), `bias` (out,). The stride leaves the last
                    three rows and columns unseen: with this network alone their gradient is exactly 0, and so its sign.
net_b.*             conv0, dense: 4x4 stride 4 VALID and softplus; mean over h and w; dense.
                    The package feeds either one image / 255 and divides what comes out by its L2 norm.

<run>.settings      float64 (6,). Threshold, steps, learning rate, c, seed, gain (see `Run`).
<run>.networks      str. "a" or "ab": the extractors that are summed over.
<run>.m0            (3, 4, 4, 3). Initial modifier at the grid. All of it, bit for bit, is
                    RandomState(seed).uniform(-1, 1, (3, 112, 112, 3)) * gain * 1e-4, in float64, then cast to float32.
<run>.loss          (T,). Loss of the batch, at the iterate *before* the update of the step, as the next three:
<run>.dssim .shift  (T, 3). D_i, and F_i summed over the networks.
<run>.delta         (T, 3, 4, 4, 3). a - x in grey levels, at the grid.
<run>.delta_rms     (T, 3). Root mean square of a - x over all pixels and channels.
<run>.grad_rms      (T, 3). The same of the gradient of the loss by the modifier.
<run>.weight .side  (T, 3). g_i and its side *after* the step, that is, for the next one (before step 1: 1 and 1).
<run>.best          (T, 3). F_i of the best iterate so far, after the step (0: none yet).
<run>.modifier      (T, 3, 4, 4, 3). Modifier at the grid *after* the step (after step 1: with the sign step).
<run>.accum_grad .accum_update
                    (T, 3, 4, 4, 3). Adadelta's averages of grad^2 and update^2 at the grid, after the step (after step
                    1: zeros, since step 2 starts them afresh).
<run>.sign_bits     uint8 (2, 14112). packbits(grad > 0) and packbits(grad == 0) of the whole gradient of step 1 in C
                    order, (3, 112, 112, 3). At gain 1 the start is so close to the photo that E(a) - E(x) is largely
                    rounding, and one sign in 200 is luck: a strict comparison takes the signs from here.
<run>.cloak         (3, 4, 4, 3). What `compute` returns, at the grid, in grey levels.
<run>.cloak_mean    (3, 14, 14, 3). Mean of what it returns, less x, over every 8x8 block.
<run>.cloak_rms     (3,). Root mean square of what it returns, less x.
"""

import argparse
import os
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # one convolution algorithm, whatever the processor offers

import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "fawkes1.npz"
SHAPE = (112, 112, 3)
GRID = np.arange(14, 112, 28, dtype=np.int32)


class Run(NamedTuple):
    """Settings of one recorded call; `gain` multiplies the loop's random start, 1 is what the package does."""

    threshold: float
    learning_rate: float
    penalty: float
    networks: str
    seed: int
    gain: float = 1.0
    steps: int = 20


# `low` and `mid` have the threshold and learning rate of the package's modes, with the penalty of its API and of its
# command line. `firm` starts far enough from the photo for nearly every sign of step 1 to be the same on any machine.
# `over` has a penalty too weak for its threshold: g halves to 1/256 and starts again, and what is returned is the last
# iterate, over the threshold. Seeds are such that no D_i comes near a threshold, where rounding would decide.
RUNS = {
    "low": Run(0.004, 25.0, 1e7, "a", seed=15),
    "mid": Run(0.012, 20.0, 1e6, "ab", seed=11),
    "firm": Run(0.012, 20.0, 1e6, "ab", seed=11, gain=100.0),
    "over": Run(0.001, 20.0, 1e3, "a", seed=4),
}


def images() -> np.ndarray:
    """Three images of band-limited noise, uint8 (3, 112, 112, 3)."""
    rng = np.random.default_rng(20201021)
    wave = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1])[None, :])[..., None]

    def noise(scale: float) -> np.ndarray:
        spectrum = np.fft.fft2(rng.normal(size=SHAPE), axes=(0, 1)) * np.exp(-0.5 * (wave * scale) ** 2)
        field = np.fft.ifft2(spectrum, axes=(0, 1)).real
        return field / field.std()

    smooth = 128 + 40 * noise(40.0)
    textured = 120 + 35 * noise(60.0) + 12 * noise(8.0)
    saturated = 128 + 130 * noise(50.0)
    return np.clip(np.round(np.stack([smooth, textured, saturated])), 0, 255).astype(np.uint8)


def networks(keras: Any) -> dict[str, Any]:
    """Build the two extractors with seeded weights: images in [0,1] to embeddings, not yet normalised."""
    layers = keras.layers
    stacks = {
        "a": [
            layers.Conv2D(8, 5, strides=4, activation="tanh", name="conv0"),
            layers.Conv2D(8, 3, strides=3, activation="tanh", name="conv1"),
            layers.Conv2D(8, 3, strides=3, activation="tanh", name="conv2"),
            layers.Flatten(),
            layers.Dense(16, name="dense"),
        ],
        "b": [
            layers.Conv2D(8, 4, strides=4, activation="softplus", name="conv0"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(12, name="dense"),
        ],
    }
    rng = np.random.default_rng(7)
    models = {}
    for name, stack in stacks.items():
        model = keras.Sequential([layers.Input(SHAPE), *stack])
        for layer in model.layers:
            if layer.weights:
                kernel, bias = (np.asarray(weight) for weight in layer.get_weights())
                # A gain above one: the embedding has to move within twenty steps.
                kernel = rng.normal(size=kernel.shape) * 2.5 / np.sqrt(np.prod(kernel.shape[:-1]))
                layer.set_weights([kernel, 0.1 * rng.normal(size=bias.shape)])
        models[name] = model
    return models


def published() -> tuple[Any, Any, Any]:
    """Import TensorFlow and the package's two modules, with the stub and the optimiser they need."""
    stub = types.ModuleType("mtcnn")
    stub.MTCNN = None  # type: ignore[attr-defined]
    sys.modules["mtcnn"] = stub
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    tf.keras.optimizers.Adadelta = tf.keras.optimizers.legacy.Adadelta
    from fawkes import differentiator, utils

    return tf, differentiator, utils


class Recorder:
    """Stands where the loop's progress bar is: `update`, the last call of a step, copies what the loop holds."""

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {}
        self.sign_bits = np.zeros((2, 0), np.uint8)

    def __call__(self, *args: Any, **kwargs: Any) -> "Recorder":
        return self

    def update(self, step: int) -> None:
        loop = sys._getframe(1).f_locals
        modifier, optimizer = loop["self"].modifier, loop["optimizer"]
        gradient = loop["grad"][0].numpy()
        # `simg_raw` is rebound in the step, to x after a round trip through arctanh; the photo itself is `source_imgs`.
        delta = loop["aimg_raw"].numpy() - loop["source_imgs"]
        if step == 1:
            self.sign_bits = np.packbits([(gradient > 0).ravel(), (gradient == 0).ravel()], axis=1)
            slots = [np.zeros_like(gradient)] * 2
        else:
            slots = [optimizer.get_slot(modifier, name).numpy() for name in ("accum_grad", "accum_var")]
        for key, value in {
            "loss": loop["loss"].numpy(),
            "dssim": loop["dist_raw"].numpy(),
            "shift": loop["internal_dist"].numpy(),
            "weight": loop["const_diff_numpy"],
            "side": loop["outside_list"],
            "best": loop["best_bottlesim"],
            "delta": sample(delta),
            "delta_rms": rms(delta),
            "grad_rms": rms(gradient),
            "modifier": sample(modifier.numpy()),
            "accum_grad": sample(slots[0]),
            "accum_update": sample(slots[1]),
        }.items():
            self.rows.setdefault(key, []).append(np.array(value, np.float32))


def sample(field: np.ndarray) -> np.ndarray:
    return field[:, GRID][:, :, GRID]


def rms(field: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(np.square(field, dtype=np.float64), axis=(1, 2, 3)))


def record(
    run: Run, photos: np.ndarray, models: dict[str, Any], differentiator: Any, utils: Any
) -> dict[str, np.ndarray]:
    """Run the package's loop once, all photos in one batch; return the arrays of the run without its prefix."""
    uniform, draws = np.random.uniform, []
    recorder = Recorder()

    def start(*args: Any) -> np.ndarray:
        draws.append(uniform(*args) * run.gain)
        return draws[-1]

    protector = differentiator.FawkesMaskGeneration(
        [utils.Extractor(models[name]) for name in run.networks],
        batch_size=len(photos),
        mimic_img=True,
        intensity_range="raw",
        initial_const=run.penalty,
        learning_rate=run.learning_rate,
        max_iterations=run.steps,
        l_threshold=run.threshold,
        verbose=False,
        maximize=True,
        keep_final=False,
        image_shape=SHAPE,
        loss_method="features",
        tanh_process=True,
        save_last_on_failed=True,
    )
    differentiator.Progbar = recorder
    np.random.seed(run.seed)  # noqa: NPY002 (the package draws from the global generator)
    with mock.patch.object(np.random, "uniform", start):
        cloak = protector.compute(photos.astype(np.float32))
    (draw,) = draws
    change = cloak - photos
    arrays = {key: np.stack(rows) for key, rows in recorder.rows.items()}
    return arrays | {
        "settings": np.array([run.threshold, run.steps, run.learning_rate, run.penalty, run.seed, run.gain]),
        "networks": np.array(run.networks),
        "m0": sample((draw * 1e-4).astype(np.float32)),
        "sign_bits": recorder.sign_bits,
        "cloak": sample(cloak.astype(np.float32)),
        "cloak_rms": rms(change).astype(np.float32),
        "cloak_mean": change.reshape(-1, 14, 8, 14, 8, 3).mean(axis=(2, 4)).astype(np.float32),
    }


def golden() -> dict[str, np.ndarray]:
    """Run everything; return the whole content of the file."""
    tf, differentiator, utils = published()
    photos, models = images(), networks(tf.keras)
    arrays: dict[str, np.ndarray] = {"images": photos, "grid": GRID, "runs": np.array(list(RUNS))}
    for name, model in models.items():
        for layer in model.layers:
            for part, weight in zip(("kernel", "bias"), layer.get_weights(), strict=False):
                arrays[f"net_{name}.{layer.name}.{part}"] = weight
    for name, run in RUNS.items():
        recorded = record(run, photos, models, differentiator, utils)
        arrays |= {f"{name}.{key}": value for key, value in recorded.items()}

    # For information only, not in the file: what a step of the loop costs at batch 1.
    run = RUNS["mid"]
    begin = time.perf_counter()
    record(run, photos[:1], models, differentiator, utils)
    print(f"batch 1: {(time.perf_counter() - begin) / run.steps:.4f} s per step", file=sys.stderr)
    return arrays


def compare(arrays: dict[str, np.ndarray], path: Path) -> int:
    """Print the largest difference from the file by key, for the keys that differ; return how many do."""
    with np.load(path) as file:
        stored = {key: file[key] for key in file.files}
    if stored.keys() != arrays.keys():
        print(f"keys differ: {sorted(stored.keys() ^ arrays.keys())}")
        return len(stored.keys() ^ arrays.keys())
    differing = [key for key in stored if not np.array_equal(stored[key], arrays[key])]
    for key in differing:
        print(f"{key}: largest difference {np.max(np.abs(stored[key].astype(float) - arrays[key])):.3g}")
    print(f"{len(stored) - len(differing)} of {len(stored)} arrays are identical")
    return len(differing)


def main() -> int:
    parser = argparse.ArgumentParser(description="Record the loop of fawkes 1.0.4 as a golden file.")
    parser.add_argument("--out", type=Path, default=GOLDEN)
    parser.add_argument("--check", action="store_true", help="compare with the file at --out instead of writing it")
    options = parser.parse_args()
    arrays: dict[str, Any] = golden()
    if options.check:
        return int(compare(arrays, options.out) > 0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **arrays)
    print(f"{options.out}: {options.out.stat().st_size} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
