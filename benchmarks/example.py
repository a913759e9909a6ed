"""The picture in the README: a sample photo's face as it was, cloaked, and their difference times ten round grey.

python benchmarks/example.py            # writes benchmarks/results/example.png and prints what was measured
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from engine import Cloaker
from engine.photo import read

ROOT = Path(__file__).resolve().parent.parent
BOX = (110, 30, 330, 250)
SIDE = 440


def main() -> None:
    path = ROOT / "tests" / "photos" / "astronaut.png"
    before = read(path).pixels
    (result,) = Cloaker(mode="mid", batch=1).cloak(path)
    assert result.image is not None
    difference = np.clip(128 + 10 * (result.image.astype(int) - before), 0, 255).astype(np.uint8)
    parts = [Image.fromarray(part).crop(BOX).resize((SIDE, SIDE), 1) for part in (before, result.image, difference)]
    sheet = Image.fromarray(np.concatenate([np.asarray(part) for part in parts], axis=1))
    sheet.save(ROOT / "benchmarks" / "results" / "example.png")
    print(f"largest change {np.abs(result.image.astype(int) - before).max()} of 255; {result.faces}")


if __name__ == "__main__":
    main()
