"""CPU seconds that a photo takes of the host, by phase: all that `cloak run` does besides the solver's arithmetic.

    python benchmarks/host.py PHOTOS [--against CHECKOUT] [--sizes .06,2,12,24] [--repeats 3] [--save FILE.json]

With --against the same photos are also measured by the code of another checkout, in a process of its own.

PHOTOS is a folder of people's photos with a face each. From them JPEGs of the given megapixels are made in a temporary
folder, each with one or three faces pasted on a noisy background. Every phase runs in one thread (OpenCV too) and is
timed in CPU seconds of the process, the least of the repeats: other work on the machine counts as little as it can.
The ceiling is decoding and encoding, which no file can do without. Phases: hash, decode, detect, cut (canvases), fit
(composite, encode, decode and measure as often as it takes to meet the budget), of which one composite, one encoding
and one re-check (decode and DSSIM) are given apart. `again` is what a pass over a photo costs that was seen before, the
whole preparation in a checkout that keeps nothing of it.
`photo` is the sum for objective "person": the pass that groups people, then the pass that cloaks. `dssim` is the
largest in the file that `fit` made of a smooth random cloak. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from engine import checkpoint, photo
from engine.bulk.fit import fit
from engine.bulk.prepare import Prepared, digest, prepare
from engine.config import CANVAS
from engine.detect import YuNet
from engine.dssim import dssim_pixels
from engine.faces import composite, cut
from engine.types import PhotoError

try:
    from engine.bulk.sightings import Sightings
except ImportError:  # an older checkout looks at every photo as if it had never seen it
    Sightings = None  # type: ignore[assignment, misc]

T = TypeVar("T")
HERE = Path(__file__).resolve()
RHO = 0.007
AMPLITUDE = 9 / 255
"""Of the random cloak: a little more than the budget allows, as cloaks are that come from the solver."""
SHAPE = (3, 4)
"""Height to width."""
COLUMNS = ("hash", "decode", "detect", "cut", "composite", "encode", "recheck", "fit", "again", "photo")


def compose(faces: list[np.ndarray], megapixels: float, *, seed: int = 0, share: float = 0.9) -> np.ndarray:
    """A photo (h, w, 3) with these pictures side by side on a noisy background; seed: of the background. share: of the
    height, or of the width that a picture may have, which it fills.
    """
    height = round((megapixels * 1e6 * SHAPE[0] / SHAPE[1]) ** 0.5)
    width = round(height * SHAPE[1] / SHAPE[0])
    rng = np.random.default_rng(round(megapixels * 100) + len(faces) + 10_000 * seed)
    coarse = rng.integers(60, 200, (max(2, height // 32), max(2, width // 32), 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.add(pixels, rng.integers(0, 12, pixels.shape, dtype=np.uint8), pixels)
    room = width // len(faces)
    for index, face in enumerate(faces):
        ratio = min(share * room / face.shape[1], share * height / face.shape[0])
        small = cv2.resize(
            face, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_CUBIC if ratio > 1 else cv2.INTER_AREA
        )
        top, left = (height - small.shape[0]) // 2, index * room + (room - small.shape[1]) // 2
        pixels[top : top + small.shape[0], left : left + small.shape[1]] = small
    return pixels


def portraits(folder: Path, count: int, detector: YuNet) -> list[np.ndarray]:
    """One photo with one face of each of so many people."""
    images: list[np.ndarray] = []
    for person in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        for path in sorted(person.iterdir()):
            try:
                pixels = photo.read(path).pixels
            except PhotoError:
                continue
            if min(pixels.shape[:2]) >= 300 and len(detector.detect(pixels)) == 1:
                images.append(pixels)
                break
        if len(images) == count:
            break
    return images


def spent(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """CPU seconds, the least of so many trials, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        begun = time.process_time()
        result = work()
        seconds.append(time.process_time() - begun)
    return min(seconds), result


def cloaks(prepared: Prepared) -> list[np.ndarray]:
    """A smooth random achromatic change for every face."""
    deltas = []
    for index, face in enumerate(prepared.cuts):
        noise = np.random.default_rng(index).standard_normal((CANVAS, CANVAS, 1)).astype(np.float32)
        noise = cv2.GaussianBlur(noise, (0, 0), 2)[..., None]
        deltas.append(np.repeat(noise / np.abs(noise).max() * AMPLITUDE * face.mask, 3, axis=2))
    return deltas


def measure(path: Path, detector: YuNet, repeats: int) -> dict[str, Any]:
    """The row of one photo."""
    row: dict[str, Any] = {}
    row["hash"], _ = spent(lambda: digest(path), repeats)
    row["decode"], opened = spent(lambda: photo.read(path), repeats)
    row["detect"], faces = spent(lambda: detector.detect(opened.pixels), repeats)
    row["cut"], _ = spent(lambda: [cut(opened.pixels, face) for face in faces], repeats)
    prepared = prepare(path, detector)
    deltas = cloaks(prepared)
    matrices = [face.matrix for face in prepared.cuts]
    row["composite"], changed = spent(lambda: composite(opened.pixels, matrices, deltas), repeats)
    row["encode"], data = spent(lambda: photo.Encoder(opened, "keep", None)(changed), repeats)

    def recheck() -> list[float]:
        pixels = photo.decode_pixels(data)
        boxes = [np.s_[top:bottom, left:right] for top, left, bottom, right in prepared.regions]
        return [dssim_pixels(opened.pixels[box], pixels[box]) for box in boxes]

    row["recheck"], _ = spent(recheck, repeats)
    encoder = photo.Encoder(opened, "keep", None)
    row["fit"], fitted = spent(
        lambda: fit(prepared, deltas, rho=RHO, encode=encoder, decode=photo.decode_pixels), repeats
    )
    options: dict[str, Any] = {} if Sightings is None else {"sightings": Sightings(detector)}
    prepare(path, detector, **options)
    row["again"], _ = spent(lambda: prepare(path, detector, **options), repeats)
    first = row["decode"] + row["detect"] + row["cut"]
    row["photo"] = row["hash"] + first + row["again"] + row["fit"]
    row |= {"found": len(faces), "dssim": max(fitted.dssim)}
    return row


def rows(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Of every photo that `make` has put there."""
    detector = YuNet(checkpoint.detector())
    table = []
    for path in sorted(folder.iterdir()):
        megapixels, faces = path.stem.split("-")
        row = {
            "megapixels": float(megapixels),
            "faces": int(faces),
            **measure(path, detector, repeats),
            "load": round(os.getloadavg()[0], 2),
        }
        table.append(row)
        values = " ".join(f"{row[name]:9.3f}" for name in COLUMNS)
        print(f"{row['megapixels']:7.2f} {faces:>5} {row['found']:5d} {values} {row['dssim']:8.5f}", flush=True)
    return sorted(table, key=lambda row: (row["megapixels"], row["faces"]))


def make(folder: Path, photos: Path, sizes: list[float], counts: list[int]) -> None:
    """Write the photos that are measured, named by their megapixels and faces."""
    people = portraits(photos, max(counts), YuNet(checkpoint.detector()))
    for megapixels in sizes:
        for count in counts:
            pixels = compose(people[:count], megapixels)
            path = folder / f"{megapixels:05.2f}-{count}.jpg"
            cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def measured(checkout: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """The rows by the code of a checkout, in a process of its own."""
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    print(
        f"{commit.stdout.strip()}:\n     MP faces found {' '.join(f'{name:>9}' for name in COLUMNS)}    dssim",
        flush=True,
    )
    call = [sys.executable, str(HERE), str(folder), "--made", "--repeats", str(repeats)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            if not line.startswith("["):
                print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"the code of {checkout} could not be measured")
    return {"commit": commit.stdout.strip(), "rows": json.loads(line)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of people's folders")
    parser.add_argument("--against", type=Path, help="another checkout of this project, measured first")
    parser.add_argument("--sizes", default=".06,2,12,24", help="megapixels")
    parser.add_argument("--faces", default="1,3")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--made", action="store_true", help=argparse.SUPPRESS)  # PHOTOS is what `make` has written
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.made:
        print(json.dumps(rows(options.photos, options.repeats)))
        return 0
    result: dict[str, Any] = {"unit": "CPU seconds"}
    with tempfile.TemporaryDirectory() as folder:
        sizes = [float(size) for size in options.sizes.split(",")]
        make(Path(folder), options.photos, sizes, [int(number) for number in options.faces.split(",")])
        if options.against is not None:
            result["other"] = measured(options.against.resolve(), Path(folder), options.repeats)
        result["this"] = measured(HERE.parents[1], Path(folder), options.repeats)
    if options.save is not None:
        options.save.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
