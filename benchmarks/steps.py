"""What glibc's keeping of freed memory saves on the CPU: page faults and time of a step, kept and given back, in turn.

    python benchmarks/steps.py [EXTRACTOR...] [--batch N] [--repeats N]

A forward pass with the gradient of the input, in the form in which cloaks are made. Each way runs in a process of its
own, the second with MALLOC_ARENA_MAX set, which `engine.sharding.configure` leaves alone. cpu_ms is user and system
time over the number of cores, a face: less disturbed by other work than the clock. Speed of a step alone, no quality.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def measured(name: str, *, batch: int, repeats: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from engine import sharding
    from engine.extractors import load, tuned

    sharding.configure()
    extractor = tuned(load(name))

    @jax.jit
    def both(params: Any, images: jax.Array) -> jax.Array:
        return jax.grad(lambda x: jax.vmap(lambda canvas: nnx.merge(extractor.graphdef, params)(canvas))(x).sum())(
            images
        )

    side = extractor.spec.size
    images = jax.random.normal(jax.random.key(0), (batch, side, side, 3), jnp.float32)
    params = jax.device_put(extractor.params)
    for _ in range(2):
        jax.block_until_ready(both(params, images))
    rows = []
    for _ in range(repeats):
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        jax.block_until_ready(both(params, images))
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rows.append(
            (1000 * seconds / batch, 1000 * spent / batch / (os.cpu_count() or 1), after.ru_minflt - before.ru_minflt)
        )
    wall, spent, faults = (statistics.median(column) for column in zip(*rows, strict=True))
    return {"extractor": name, "ms": round(wall, 1), "cpu_ms": round(spent, 1), "page_faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extractors", nargs="*", default=["web-incept", "mobilefacenet-192"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--one", action="store_true", help="in this process, the first extractor only")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.extractors[0], batch=options.batch, repeats=options.repeats)))
        return 0
    results = []
    for name in options.extractors:
        for memory, more in (("kept", {}), ("given back", {"MALLOC_ARENA_MAX": "8"})):
            command = [sys.executable, __file__, name, "--one", "--batch", str(options.batch)]
            command += ["--repeats", str(options.repeats)]
            done = subprocess.run(command, env={**os.environ, **more}, stdout=subprocess.PIPE, text=True, check=True)
            results.append({"memory": memory, "batch": options.batch, **json.loads(done.stdout.splitlines()[-1])})
            print(results[-1], flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
