"""Chips and descriptors by dlib, as face_recognition asks for them, and how far our network is from them.

    python tools/golden_dlib_chips.py                       writes tests/goldens/dlib_chips.npz
    python tools/golden_dlib_chips.py --check PHOTOS        measures parity on up to 50 photos of a folder

Needs the extra `evaluate`. Of the largest face of each photo: `chips`, uint8 (n, 150, 150, 3), RGB, cut by dlib's own
detector and five landmarks with the padding .25, and `descriptors`, float32 (n, 128), not normalised. The golden is of
the portraits of tests/photos, in the order of their names.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import dlib
import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import extractors

ROOT = Path(__file__).resolve().parent.parent


def described(photos: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Chips and descriptors of the photos in which dlib finds a face."""
    package_spec = importlib.util.find_spec("face_recognition_models")
    if package_spec is None or package_spec.submodule_search_locations is None:
        sys.exit("face_recognition_models is not installed: pip install 'fawkes-engine[evaluate]'")
    (package,) = package_spec.submodule_search_locations
    models = Path(package) / "models"
    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))
    chips = []
    for path in photos:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        if boxes := detector(pixels, 1):
            largest = max(boxes, key=lambda box: box.area())
            chips.append(dlib.get_face_chip(pixels, landmarks(pixels, largest), 150, 0.25))
    return np.stack(chips), np.array(network.compute_face_descriptor(chips), np.float32)


def parity(chips: np.ndarray, descriptors: np.ndarray) -> dict[str, float]:
    """Smallest cosine and largest absolute difference of our embeddings from dlib's, both of length one."""
    extractor = extractors.load("dlib-resnet")
    embed = jax.jit(extractors.embed_crop)
    with jax.default_matmul_precision("highest"):
        ours = np.stack([embed(extractor, chip.astype(np.float32) / 255) for chip in chips]).astype(np.float64)
    ours, theirs = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, descriptors))
    return {
        "faces": len(chips),
        "cosine_min": round(float((ours * theirs).sum(1).min()), 8),
        "max_abs_difference": round(float(np.abs(ours - theirs).max()), 8),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="PHOTOS", help="measure on a folder of photos, write nothing")
    options = parser.parse_args()
    if options.check:
        photos = sorted(options.check.rglob("*.jpg"))
        chips, descriptors = described(itertools.islice(photos, 0, None, max(1, len(photos) // 50)))
        chips, descriptors = chips[:50], descriptors[:50]
    else:
        chips, descriptors = described(sorted((ROOT / "tests" / "photos").glob("*.[jp][pn]g")))
        file = ROOT / "tests" / "goldens" / "dlib_chips.npz"
        np.savez_compressed(file, chips=chips, descriptors=descriptors)
    print(json.dumps(parity(chips, descriptors), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
