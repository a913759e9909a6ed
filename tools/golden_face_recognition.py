"""What the package face_recognition makes of the sample portraits, for tests/test_installed.py.

    python tools/golden_face_recognition.py                        writes tests/goldens/face_recognition.npz

Needs, beside the extra `evaluate`: pip install --no-deps face_recognition==1.3.0 "setuptools<81"

For each portrait of tests/photos, under its name without suffix, float64 (faces, 128): the encodings of its faces, of
the pixels that the package's own load_image_file reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import face_recognition
import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    encodings: dict[str, Any] = {}
    for path in sorted((ROOT / "tests" / "photos").glob("*.[jp][pn]g")):
        pixels = face_recognition.load_image_file(path)
        encodings[path.stem] = np.array(
            face_recognition.face_encodings(pixels, face_recognition.face_locations(pixels))
        )
    np.savez_compressed(ROOT / "tests" / "goldens" / "face_recognition.npz", **encodings)


if __name__ == "__main__":
    main()
