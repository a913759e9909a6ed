"""Chips and descriptors of the sample portraits by dlib, as face_recognition asks for them: for test_extractors.py.

    python tools/golden_dlib_chips.py                              writes tests/goldens/dlib_chips.npz

Needs the extra `evaluate`. For the portraits of tests/photos in the order of their names: `chips`, uint8
(n, 150, 150, 3), RGB, cut by dlib's own detector and five landmarks with the padding .25, and `descriptors`, float32
(n, 128), not normalised.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import dlib
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    (package,) = importlib.util.find_spec("face_recognition_models").submodule_search_locations
    models = Path(package) / "models"
    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))
    chips = []
    for path in sorted((ROOT / "tests" / "photos").glob("*.[jp][pn]g")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        largest = max(detector(pixels, 1), key=lambda box: box.area())
        chips.append(dlib.get_face_chip(pixels, landmarks(pixels, largest), 150, 0.25))
    descriptors = np.array(network.compute_face_descriptor(chips), np.float32)
    np.savez_compressed(ROOT / "tests" / "goldens" / "dlib_chips.npz", chips=np.stack(chips), descriptors=descriptors)


if __name__ == "__main__":
    main()
