"""The whole pipeline on photos: read, find faces, cloak, write; who waited for whom, and the DSSIM of the files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.bench import machine
from engine.bench.plan import Plan
from engine.bench.timing import figure
from engine.bulk.cloaker import Cloaker
from engine.bulk.run import Options, fingerprint, run
from engine.config import Detection, Output


def rows(plan: Plan) -> Iterator[dict[str, Any]]:
    """The section `photos`, at the largest batch: each photo once, files into a folder that is removed."""
    settings = fingerprint(plan.recipe, Detection(), Output())
    for devices in plan.devices:
        cloaker = Cloaker(recipe=plan.recipe, batch=plan.widest, devices=devices)
        cloaker.batcher.solve(plan.some(1))  # all that there is to compile is compiled before
        cloaker.look(plan.samples.photos[:1])
        with tempfile.TemporaryDirectory() as out, machine.memory() as memory:
            summary = run(lambda photos: cloaker, plan.settings.photos, Path(out), settings=settings, options=Options())  # noqa: B023
        total = summary.seconds["total"]
        photos = summary.counts["cloaked"] + summary.counts["no_face"]
        yield {
            "batch": cloaker.batcher.size,
            "devices": devices,
            "photos": photos,
            "failed": summary.counts["failed"],
            "faces": summary.faces,
            "photos_per_s": figure(photos / total),
            "photos_per_hour": figure(3600 * photos / total),
            "faces_per_s": figure(summary.faces / total),
            "seconds": summary.seconds,
            "occupancy": summary.occupancy,
            "steady_occupancy": summary.steady_occupancy,
            "dssim_mean": summary.dssim_mean,
            "dssim_max": summary.dssim_max,
            "rho": plan.recipe.rho,
            "compiled": summary.compiles["programs"],
            **memory.as_dict(),
            "max_rss_mb": machine.peak_rss(),
        }
