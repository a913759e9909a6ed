"""Whether a face's gradient depends on the slot it lies in: the same face in every slot, bit by bit.

    python benchmarks/slots.py [EXTRACTOR...] [--slots 8,12,24] [--save FILE.json]

Every slot of a batch gets the same canvas, and the gradient of its embedding is compared with that of the first slot.
`differ` names the slots, counted from 0, that have other bits. `largest` is the largest difference, as a share of the
largest gradient. Networks are in the form in which cloaks are made, by default those of the default recipe. Both are of
this machine's processor, number of cores and JAX. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from engine import sharding
from engine.config import CANVAS, ENSEMBLE
from engine.extractors import Extractor, embed, load, tuned


@jax.jit
def gradients(extractor: Extractor, canvases: jax.Array, direction: jax.Array) -> jax.Array:
    """Of how far each canvas's embedding lies in the direction."""
    return jax.vmap(jax.grad(lambda canvas: embed(extractor, canvas) @ direction))(canvases)


def measured(name: str, *, slots: int) -> dict[str, Any]:
    extractor = tuned(load(name))
    canvas = jax.random.uniform(jax.random.key(0), (CANVAS, CANVAS, 3))
    direction = jax.random.normal(jax.random.key(1), (extractor.dim,))
    pulled = np.asarray(gradients(extractor, jnp.stack([canvas] * slots), direction))
    differ = [slot for slot in range(slots) if not np.array_equal(pulled[slot], pulled[0])]
    largest = float(np.abs(pulled - pulled[:1]).max() / np.abs(pulled).max())
    return {"extractor": name, "slots": slots, "differ": differ, "largest": float(f"{largest:.2g}")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractors", nargs="*", default=[*ENSEMBLE, "mobileface"])
    parser.add_argument("--slots", default="8,12,24", help="how many, each in turn")
    parser.add_argument("--save", type=Path, help="a file for the JSON object, too")
    options = parser.parse_args()
    sharding.configure()
    rows = []
    for name in options.extractors:
        for slots in map(int, options.slots.split(",")):
            rows.append(measured(name.partition(":")[0], slots=slots))
            print(rows[-1], flush=True)
    report = json.dumps({"cores": os.cpu_count(), "jax": jax.__version__, "rows": rows})
    if options.save:
        options.save.write_text(report + "\n")
    print(report)


if __name__ == "__main__":
    main()
