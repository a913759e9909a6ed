"""Embeddings of the sample portraits by runtimes that are not ours, and how far ours are from them.

    python tools/golden_embeddings.py --cache DIR                  writes tests/goldens/embeddings.npz
    python tools/golden_embeddings.py --cache DIR --only NAME ...  the same of these extractors, the rest as it is
    python tools/golden_embeddings.py --cache DIR --check PHOTOS   measures parity on up to 50 photos of a folder

The references (tools/references.py) run the very files that tools/convert_weights.py takes the weights from, which
are fetched into --cache; crops are resampled by Pillow. Needs the extra `convert`, `pip install onnxruntime`, and
`npm install @tensorflow/tfjs-core @tensorflow/tfjs-converter @tensorflow/tfjs-backend-wasm` in a folder whose
node_modules NODE_PATH names.

embeddings.npz has `canvases`, uint8 (n, 176, 176, 3): every portrait of tests/photos, then its mirror image; and
for each extractor its embeddings, float32 (n, d), of length one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from references import MAKERS, prepared, reference

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint, extractors, faces
from engine.detect import YuNet
from engine.extractors import registry

ROOT = Path(__file__).resolve().parent.parent


def canvases(photos: Iterable[Path]) -> np.ndarray:
    """The canvas of the largest face of each photo that has one, uint8."""
    detector = YuNet(checkpoint.detector())
    pixels = [np.asarray(Image.open(photo).convert("RGB")) for photo in photos]
    cuts = [faces.cut(image, face) for image in pixels for face in detector.detect(image)[:1]]
    return np.stack([np.rint(cut.canvas * 255).astype(np.uint8) for cut in cuts])


def references(images: np.ndarray, names: Iterable[str], *, cache: Path) -> dict[str, np.ndarray]:
    """Embeddings by the other runtimes, by extractor."""
    result = {}
    for name in names:
        raw = reference(name, cache=cache).embed(prepared(images, registry.find(name).spec))
        result[name] = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return result


def _as_before(file: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """The embeddings that a file has. Raises ValueError if they are of other canvases."""
    with np.load(file) as golden:
        if not np.array_equal(golden["canvases"], images):
            raise ValueError(f"{file} has other canvases: run without --only")
        return {name: golden[name] for name in golden.files if name != "canvases"}


def parity(images: np.ndarray, expected: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Smallest cosine and largest absolute difference of ours from the references, by extractor."""
    result = {}
    for name, theirs in expected.items():
        extractor = extractors.load(name)
        with jax.default_matmul_precision("highest"):
            ours = extractors.embed_all(extractor, images)
        result[name] = {
            "faces": len(images),
            "cosine_min": round(float((ours * theirs).sum(1).min()), 8),
            "max_abs_difference": round(float(np.abs(ours - theirs).max()), 8),
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="where the source files are kept; a temporary folder by default")
    parser.add_argument("--check", type=Path, metavar="PHOTOS", help="measure on a folder of photos, write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "goldens" / "embeddings.npz")
    parser.add_argument("--only", nargs="*", default=list(MAKERS), choices=MAKERS, help="the others' rows are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        if options.check:
            photos = sorted(options.check.rglob("*.jpg"))
            images = canvases(itertools.islice(photos, 0, None, max(1, len(photos) // 50)))[:50]
            expected = references(images, options.only, cache=cache)
        else:
            upright = canvases(sorted((ROOT / "tests" / "photos").glob("*.[jp][pn]g")))
            images = np.concatenate([upright, upright[:, :, ::-1]])
            expected = references(images, options.only, cache=cache)
            before = _as_before(options.out, images) if set(options.only) != set(MAKERS) else {}
            arrays: dict[str, Any] = before | expected
            np.savez_compressed(options.out, canvases=images, **arrays)
    print(json.dumps(parity(images, expected), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
