"""Embeddings of the sample portraits by runtimes that are not ours, and how far ours are from them.

    python tools/golden_embeddings.py --cache DIR                  writes tests/goldens/embeddings.npz
    python tools/golden_embeddings.py --cache DIR --check PHOTOS   measures parity on up to 50 photos of a folder

The references run the very files that tools/convert_weights.py takes the weights from (it fetches them into
--cache): OpenCV's dnn the frozen graph of web-incept, LiteRT the tflite of mobilefacenet-192. Crops are resampled
by Pillow. Needs what tools/convert_weights.py needs.

embeddings.npz has `canvases`, uint8 (n, 176, 176, 3): every portrait of tests/photos, then its mirror image; and
for each extractor its embeddings, float32 (n, d), of length one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import jax
import numpy as np
from convert_weights import SOURCES, fetch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint, extractors, faces
from engine.detect import YuNet
from engine.extractors import InputSpec, registry

ROOT = Path(__file__).resolve().parent.parent
Reference = Callable[[np.ndarray], np.ndarray]


def prepared(canvas: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The network's input, by Pillow: (s, s, 3) float32."""
    lo, hi = spec.window
    channels = [
        Image.fromarray(channel.astype(np.float32)).resize(
            (spec.size, spec.size), Image.Resampling.BILINEAR, box=(lo, lo, hi, hi)
        )
        for channel in np.moveaxis(canvas, -1, 0)
    ]
    x = np.stack([np.asarray(channel) for channel in channels], -1)[..., :: -1 if spec.bgr else 1]
    return ((x - np.float32(spec.mean)) / np.float32(spec.scale)).astype(np.float32)


def opencv(file: Path) -> Reference:
    """A frozen TensorFlow graph in OpenCV's dnn."""
    net = cv2.dnn.readNetFromTensorflow(str(file))

    def run(x: np.ndarray) -> np.ndarray:
        net.setInput(np.ascontiguousarray(x.transpose(2, 0, 1)[None]))
        return net.forward().reshape(-1)

    return run


def litert(file: Path) -> Reference:
    """A tflite file in LiteRT. This one has a fixed batch of two."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given["index"], np.stack([x, x]))
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])[0]

    return run


REFERENCES: dict[str, Callable[[Path], Reference]] = {"web-incept": opencv, "mobilefacenet-192": litert}


def canvases(photos: Iterable[Path]) -> np.ndarray:
    """The canvas of the largest face of each photo that has one, uint8."""
    detector = YuNet(checkpoint.root() / "yunet.onnx")
    pixels = [np.asarray(Image.open(photo).convert("RGB")) for photo in photos]
    cuts = [faces.cut(one, face) for one in pixels for face in detector.detect(one)[:1]]
    return np.stack([np.rint(cut.canvas * 255).astype(np.uint8) for cut in cuts])


def references(images: np.ndarray, *, cache: Path) -> dict[str, np.ndarray]:
    """Embeddings by the other runtimes, by extractor."""
    result = {}
    for name, reference in REFERENCES.items():
        run, spec = reference(fetch(SOURCES[name], cache=cache)), registry.find(name).spec
        raw = np.stack([run(prepared(image, spec)) for image in images])
        result[name] = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return result


def parity(images: np.ndarray, expected: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Smallest cosine and largest absolute difference of ours from the references, by extractor."""
    result = {}
    for name, reference in expected.items():
        extractor = extractors.load(name)
        with jax.default_matmul_precision("highest"):
            batches = [images[i : i + 10].astype(np.float32) / 255 for i in range(0, len(images), 10)]
            ours = np.concatenate([np.asarray(extractors.embed_batch(extractor, batch)) for batch in batches])
        result[name] = {
            "faces": len(images),
            "cosine_min": round(float((ours * reference).sum(1).min()), 8),
            "max_abs_difference": round(float(np.abs(ours - reference).max()), 8),
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="where the source files are kept; a temporary folder by default")
    parser.add_argument("--check", type=Path, metavar="PHOTOS", help="measure on a folder of photos, write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "goldens" / "embeddings.npz")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        if options.check:
            found = sorted(options.check.rglob("*.jpg"))
            images = canvases(itertools.islice(found, 0, None, max(1, len(found) // 50)))[:50]
            expected = references(images, cache=cache)
        else:
            upright = canvases(sorted((ROOT / "tests" / "photos").glob("*.[jp][pn]g")))
            images = np.concatenate([upright, upright[:, :, ::-1]])
            expected = references(images, cache=cache)
            np.savez_compressed(options.out, canvases=images, **expected)
    print(json.dumps(parity(images, expected), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
