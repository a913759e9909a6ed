"""What a JPEG's quantisation leaves of a faint grey change, by the steps that it is written with.

Photos are compressed at several qualities, as sources. To each a texture like a cloak's is added: grey, smooth at one
pixel, stronger where the photo has contrast, 3 grey levels root mean square. Then it is written with the source's own
luminance steps, or finer ones; chrominance as `engine.photo` writes it, or not.

- loss: DSSIM of the file without the change, what encoding alone costs. dssim: of the file with it.
- kept: share of the change that the decoded file has (its projection). efficiency: kept over the root of dssim, since
  DSSIM is quadratic in a change; beside that of the source's own steps. size: bytes beside the source's.

    python benchmarks/jpeg.py PHOTOS [--save FILE.json]

The last line is one JSON object. Whole photos of a few hundred pixels, no face, no network.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin
from scipy.ndimage import gaussian_filter

from engine.dssim import dssim_pixels
from engine.photo.encoding import _chrominance, _luminance, _standard

QUALITIES = (75, 85, 90, 95)
STRENGTH = 3.0


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def textured(pixels: np.ndarray) -> np.ndarray:
    """The change: (h, w) in grey levels."""
    grey = pixels.mean(axis=2)
    contrast = np.sqrt(gaussian_filter((grey - gaussian_filter(grey, 3)) ** 2, 3) + 30)
    change = gaussian_filter(np.random.default_rng(0).standard_normal(grey.shape), 1) * contrast
    return change * STRENGTH / np.sqrt((change**2).mean())


def measured(source: bytes) -> dict[str, np.ndarray]:
    """By the kind of steps: loss, dssim, kept, efficiency, size."""
    image = Image.open(io.BytesIO(source))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    luminance, chrominance = (np.array(table) for table in list(image.quantization.values())[:2])
    sampling = JpegImagePlugin.get_sampling(image)
    pixels = np.asarray(image.convert("RGB"))
    change = textured(pixels)
    changed = np.clip(np.rint(pixels + change[..., None]), 0, 255).astype(np.uint8)
    steps = {
        "the source's": (luminance, chrominance),
        "as written": (_luminance(luminance), _chrominance(chrominance)),
        "luminance of 90": (np.minimum(luminance, _standard(90)[0]), chrominance),
        "both of 95": tuple(
            np.minimum(table, new) for table, new in zip((luminance, chrominance), _standard(95), strict=True)
        ),
    }
    measures = {}
    for kind, tables in steps.items():
        options = {"qtables": [table.tolist() for table in tables], "subsampling": max(sampling, 0)}
        plain, full = (jpeg(Image.fromarray(array), **options) for array in (pixels, changed))
        seen = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (plain, full)]
        kept_share = float(((seen[1].astype(float) - pixels).mean(axis=2) * change).sum() / (change**2).sum())
        dssim = dssim_pixels(pixels, seen[1])
        measures[kind] = np.array(
            [dssim_pixels(pixels, seen[0]), dssim, kept_share, kept_share / dssim**0.5, len(full) / len(source)]
        )
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    files = sorted(arguments.photos.rglob("*.jpg"))
    files = files[:: max(1, len(files) // 12)][:12]
    rows = []
    for quality in QUALITIES:
        sources = [jpeg(Image.open(file).convert("RGB"), quality=quality) for file in files]
        each = [measured(source) for source in sources]
        for kind in each[0]:
            loss, dssim, kept_share, efficiency, size = np.mean([row_of_photo[kind] for row_of_photo in each], axis=0)
            base = np.mean([row_of_photo["the source's"][3] for row_of_photo in each])
            row = {"source": quality, "steps": kind, "loss": round(loss, 5), "dssim": round(dssim, 5)}
            rows.append(
                row | {"kept": round(kept_share, 3), "efficiency": round(efficiency / base, 3), "size": round(size, 2)}
            )
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    document = json.dumps({"photos": len(files), "rows": rows})
    if arguments.save:
        arguments.save.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
