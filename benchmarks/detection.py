"""Faces that the detector finds, and what it costs, beside those of another checkout, or of the same network in Flax.

    python benchmarks/detection.py SHARED --against CHECKOUT [--groups 12] [--photos 330] [--wild 255]
    taskset -c 0 python benchmarks/detection.py SHARED --against flax [--repeats 5]

SHARED has faces/photos (a folder for each person) and wild. Three tables. Groups: photos of 12 megapixels made of the
people's photos, each pasted so that its face has 24 to 400 pixels, evenly in the logarithm; only photos with exactly
one face by both detectors at a score of .3 are used, so all else that is found is a false alarm. Recall is given by the
side of the face. Photos and wild: what both find, and what only one does, with the scores of these; a person's photos
have no marked faces, so neither is the truth there. `apart` is how far what both find lies apart at most: box and
landmarks in pixels, and score. CPU seconds are those of one thread. Both detectors see the same pixels in turn; the
last line is one JSON object.

Against Flax there are two tables more. Maps: the largest difference of what the network says at any place, logits and
pixels of a stride, from what OpenCV's gives on the same pictures; and the largest number there is. Sizes: CPU seconds
of photos with three people. `host` is Flax's detector with its network's results remembered: what stays with the
host's processor where an accelerator computes them, but for the transfers and the call.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import host
import jax
import numpy as np
from flax import nnx

from engine import checkpoint, photo, sharding, yunet
from engine.config import Detection
from engine.detect import Detector, YuNet
from engine.types import Face, PhotoError

BANDS = (24, 32, 48, 96, 192, 401)
"""Edges of the classes of faces' sides, in pixels."""
CANVAS = (3000, 4000)
ALIKE = 0.4
"""Intersection over union from which two boxes are one face."""


def against(checkout: Path, settings: Detection) -> Detector:
    """The detector of another checkout, with the same weights."""
    spec = importlib.util.spec_from_file_location("former_detect", checkout / "engine" / "detect.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.YuNet(checkpoint.detector(), settings)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    return common / (float(np.prod(first[2:]) + np.prod(second[2:])) - common)


def matched(boxes: list[np.ndarray], rivals: list[np.ndarray]) -> list[int]:
    """For every box the index of another that is the same face, -1 without one; each is used once."""
    free = set(range(len(rivals)))
    result = []
    for box in boxes:
        best = max(free, key=lambda index: overlap(box, rivals[index]), default=-1)
        best = best if best >= 0 and overlap(box, rivals[best]) >= ALIKE else -1
        free.discard(best)
        result.append(best)
    return result


def timed(detector: Detector, pixels: np.ndarray) -> tuple[list[Face], float]:
    begun = time.process_time()
    faces = detector.detect(pixels)
    return faces, time.process_time() - begun


def opened(path: Path) -> np.ndarray | None:
    try:
        return photo.read(path).pixels
    except PhotoError:
        return None


def group(sources: list[tuple[np.ndarray, Face]], seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A photo of pasted photos, and the boxes of their faces."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*CANVAS, 3), 110, np.uint8)
    cv2.add(pixels, rng.integers(0, 24, pixels.shape, dtype=np.uint8), pixels)
    taken = np.zeros(CANVAS, bool)
    truth: list[np.ndarray] = []
    for _ in range(60):
        source, face = sources[rng.integers(len(sources))]
        ratio = float(np.exp(rng.uniform(np.log(BANDS[0]), np.log(BANDS[-1] - 1)))) / float(face.box[2:].max())
        height, width = (round(side * ratio) for side in source.shape[:2])
        if ratio > 2 or min(height, width) < 24 or height >= CANVAS[0] or width >= CANVAS[1]:
            continue
        top, left = int(rng.integers(CANVAS[0] - height)), int(rng.integers(CANVAS[1] - width))
        place = np.s_[top : top + height, left : left + width]
        if taken[place].any():
            continue
        taken[place] = True
        pixels[place] = cv2.resize(
            source, (width, height), interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
        )
        truth.append(face.box * np.float32(ratio) + np.array([left, top, 0, 0], np.float32))
    return pixels, truth


def on_groups(detectors: dict[str, Detector], sources: list[tuple[np.ndarray, Face]], count: int) -> dict[str, Any]:
    """Recall by size of face, false alarms and seconds a photo, by detector."""
    sides: list[float] = []
    hits: dict[str, list[bool]] = {name: [] for name in detectors}
    false, seconds = dict.fromkeys(detectors, 0), dict.fromkeys(detectors, 0.0)
    errors: dict[str, list[float]] = {name: [] for name in detectors}
    for seed in range(count):
        pixels, truth = group(sources, seed)
        sides += [float(box[2:].max()) for box in truth]
        for name, detector in detectors.items():
            faces, spent = timed(detector, pixels)
            pairs = matched(truth, [face.box for face in faces])
            hits[name] += [index >= 0 for index in pairs]
            errors[name] += [overlap(box, faces[i].box) for box, i in zip(truth, pairs, strict=True) if i >= 0]
            false[name] += len(faces) - sum(index >= 0 for index in pairs)
            seconds[name] += spent / count
    bands = list(pairwise(BANDS))
    inside = {band: [band[0] <= side < band[1] for side in sides] for band in bands}
    return {
        "faces": {f"{low}-{high - 1}": sum(inside[low, high]) for low, high in bands},
        **{
            name: {
                "recall": {f"{a}-{b - 1}": f"{sum(np.array(hits[name])[inside[a, b]])}" for a, b in bands},
                "found": sum(hits[name]),
                "false": false[name],
                "overlap": round(float(np.mean(errors[name])), 4),
                "seconds": round(seconds[name], 3),
            }
            for name in detectors
        },
    }


def on_files(detectors: dict[str, Detector], paths: list[Path]) -> dict[str, Any]:
    """What both find in files, and what one alone does."""
    (mine, first), (theirs, second) = detectors.items()
    both, alone, seconds = 0, {mine: [], theirs: []}, dict.fromkeys(detectors, 0.0)  # type: ignore[var-annotated]
    apart = np.zeros(3)
    read = 0
    for path in paths:
        if (pixels := opened(path)) is None:
            continue
        read += 1
        (faces, a), (former, b) = timed(first, pixels), timed(second, pixels)
        seconds[mine] += a
        seconds[theirs] += b
        pairs = matched([face.box for face in former], [face.box for face in faces])
        for face, index in zip(former, pairs, strict=True):
            if index >= 0:
                both, again = both + 1, faces[index]
                differences = face.box - again.box, face.landmarks - again.landmarks, face.score - again.score
                apart = np.maximum(apart, [np.abs(values).max() for values in differences])

        def told(face: Face, name: str = path.name) -> tuple[str, int, float]:
            return name, round(float(face.box[2:].max())), round(face.score, 3)

        alone[theirs] += [told(face) for face, index in zip(former, pairs, strict=True) if index < 0]
        alone[mine] += [told(face) for index, face in enumerate(faces) if index not in pairs]
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    least = {
        name: float(f"{difference:.2g}") for name, difference in zip(("box", "landmarks", "score"), apart, strict=True)
    }
    return {"photos": read, "both": both, "apart": least, "alone": alone, "seconds": rounded}


def on_maps(pictures: list[np.ndarray]) -> dict[str, Any]:
    """The largest difference of the network's numbers from OpenCV's, and the largest of them, by kind."""
    graphdef, params, _ = yunet.loaded()
    network = jax.jit(lambda params, x, size: nnx.merge(graphdef, params)(x, size))
    source = cv2.dnn.readNetFromONNX(str(checkpoint.detector()))
    places = {"cls": np.s_[:1], "obj": np.s_[1:2], "bbox": np.s_[2:6], "kps": np.s_[6:]}
    names = [f"{head}_{stride}" for head in places for stride in yunet.STRIDES]
    worst = {head: {"difference": 0.0, "largest": 0.0} for head in places}
    for pixels in pictures:
        ratio = 640 / max(pixels.shape)
        height, width = (max(32, int(side * ratio) // 32 * 32) for side in pixels.shape[:2])
        picture = np.ascontiguousarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)[..., ::-1])
        frame = np.zeros((yunet.FRAME, yunet.FRAME, 3), np.float32)
        frame[:height, :width] = picture
        with jax.default_matmul_precision("highest"):
            maps = network(params, frame, np.array([height, width], np.int32))
        source.setInput(cv2.dnn.blobFromImage(picture))
        theirs = dict(zip(names, source.forward(names), strict=True))
        for stride, head_map in zip(yunet.STRIDES, maps, strict=True):
            for head, numbers in places.items():
                ours = np.asarray(head_map)[: height // stride, : width // stride, numbers].astype(np.float64)
                if head in ("cls", "obj"):
                    ours = 1 / (1 + np.exp(-ours))
                wanted = theirs[f"{head}_{stride}"].reshape(ours.shape)
                worst[head]["difference"] = max(worst[head]["difference"], float(np.abs(ours - wanted).max()))
                worst[head]["largest"] = max(worst[head]["largest"], float(np.abs(wanted).max()))
    return {
        "pictures": len(pictures),
        **{head: {k: float(f"{v:.2g}") for k, v in head_values.items()} for head, head_values in worst.items()},
    }


def on_sizes(detectors: dict[str, Detector], folder: Path, repeats: int) -> list[dict[str, Any]]:
    """CPU seconds a photo, the median of so many trials, and the faces that each finds."""
    people = host.portraits(folder, 3, YuNet(checkpoint.detector()))
    rows = []
    for megapixels in (0.25, 2.0, 12.0):
        pixels = host.compose(people, megapixels)
        row: dict[str, Any] = {"megapixels": megapixels}
        for name, detector in [*detectors.items(), ("host", Remembering(yunet.BATCH))]:
            trials = [timed(detector, pixels) for _ in range(repeats + 1)][1:]
            row[name] = {
                "faces": len(trials[0][0]),
                "seconds": round(float(np.median([trial[1] for trial in trials])), 4),
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


class Remembering(yunet.FlaxYuNet):
    """Flax's detector whose network says again what it said of the first photo."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch=batch)
        self.said: list[tuple[np.ndarray, np.ndarray]] = []
        self.known = False

    def detect(self, pixels: np.ndarray) -> list[Face]:
        """Faces, largest first; always the same photo."""
        run, said = yunet.finds, iter(self.said)

        def remembered(*arguments: Any, **settings: Any) -> Any:
            if self.known:
                return next(said)
            best, every = run(*arguments, **settings)
            self.said.append((np.asarray(best), np.asarray(every)))
            return self.said[-1]

        yunet.finds = remembered  # type: ignore[assignment]
        try:
            return super().detect(pixels)
        finally:
            yunet.finds, self.known = run, True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="another checkout of this project, or flax")
    parser.add_argument("--groups", type=int, default=12)
    parser.add_argument("--photos", type=int, default=330)
    parser.add_argument("--wild", type=int, default=255)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    settings, low = Detection(), Detection(min_score=0.3)
    detectors: dict[str, Detector]
    careful: tuple[Detector, Detector]
    if flax := str(options.against) == "flax":
        sharding.configure()
        detectors = {"opencv": YuNet(checkpoint.detector(), settings), "flax": yunet.FlaxYuNet(settings)}
        careful = YuNet(checkpoint.detector(), low), yunet.FlaxYuNet(low)
    else:
        detectors = {"this": YuNet(checkpoint.detector(), settings), "other": against(options.against, settings)}
        careful = against(options.against, low), YuNet(checkpoint.detector(), low)
    paths = sorted(path for path in (options.shared / "faces" / "photos").rglob("*") if path.is_file())
    wild = sorted(path for path in (options.shared / "wild").rglob("*") if path.is_file() and path.suffix != ".csv")
    results: dict[str, Any] = {}
    if flax:
        read = [pixels for path in paths[:: max(1, len(paths) // 40)][:40] if (pixels := opened(path)) is not None]
        results["maps"] = on_maps(read)
        print("maps:", json.dumps(results["maps"]), flush=True)
        results["sizes"] = on_sizes(detectors, options.shared / "faces" / "photos", options.repeats)
    if options.groups:
        sources = []
        for path in paths[:: max(1, len(paths) // 80)]:
            pixels = opened(path)
            if pixels is not None and max(pixels.shape) <= 2000:
                detections = [detector.detect(pixels) for detector in careful]
                if all(len(faces) == 1 for faces in detections) and detections[0][0].score > 0.8:
                    sources.append((pixels, detections[0][0]))
        results["groups"] = {"sources": len(sources), **on_groups(detectors, sources, options.groups)}
        print("groups:", json.dumps(results["groups"], indent=1), flush=True)
    for name, some, count in (("photos", paths, options.photos), ("wild", wild, options.wild)):
        if count:
            results[name] = on_files(detectors, some[:: max(1, len(some) // count)][:count])
            print(f"{name}:", json.dumps(results[name]), flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
