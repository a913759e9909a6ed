"""What a step of adversarial training costs: seconds of processor time, for each extractor, in this checkout.

    python benchmarks/training.py mobilefacenet-192 sface --batch 16 [--repeats 5] [--save FILE.json]

The step is that of `cloak train-robust --preset fast`: an adversary of one step, then the update. Faces are made up. To
compare two checkouts, run it in each in turn, on one core (`taskset -c 0`). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from engine import extractors, sharding
from engine.bench import machine
from engine.config import CANVAS
from engine.robust import train
from engine.robust.presets import FAST


def measured(name: str, batch: int, repeats: int) -> dict[str, object]:
    """Processor seconds of a step (median, least, most), and the shift, which tells whether two runs computed alike."""
    extractor = extractors.load(name)
    rng = np.random.default_rng(0)
    canvases = rng.integers(0, 256, (batch, CANVAS, CANVAS, 3), np.uint8)
    windows = np.tile(np.array(extractor.spec.window, np.float32), (batch, 2, 1))
    anchors = train.embedded(extractor, train.crops_of(extractor, canvases, windows))
    faces = train.Batch(
        canvas=jnp.asarray(canvases),
        window=jnp.asarray(windows),
        label=jnp.arange(batch),
        anchor=anchors,
        noise=jnp.arange(batch, dtype=jnp.uint32),
    )
    training = FAST.training(1000)
    state = train.init(training, extractor)
    seconds, figures = [], {}
    for _ in range(repeats + 1):
        begun = time.process_time()
        state, figures = train.step(training, extractor, state, faces)
        jax.block_until_ready((state, figures))
        seconds.append(time.process_time() - begun)
    later = seconds[1:]  # the first step compiles
    return {
        "extractor": name,
        "batch": batch,
        "cpu_s": {"median": statistics.median(later), "least": min(later), "most": max(later)},
        "shift": float(figures["shift"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor", nargs="+")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    sharding.configure()
    rows = []
    for name in arguments.extractor:
        rows.append(measured(name, arguments.batch, arguments.repeats))
        seconds = rows[-1]["cpu_s"]
        print(f"{name}: {seconds} s of processor time, shift {rows[-1]['shift']:.6f}", flush=True)
    document = {"machine": machine.describe(), "steps": rows}
    if arguments.save:
        arguments.save.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    main()
