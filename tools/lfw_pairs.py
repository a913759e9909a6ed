"""How well an extractor tells people apart: the pairs of LFW photos of tests/test_extractors.py and of benchmarks.

Four photos each of 120 people, drawn with a fixed seed. The area under the ROC curve (AUC) is that of 400 same and 400
different pairs of them; the true accept rate (TAR) at a false accept rate (FAR) of 1e-3 is that of all 720 same and
114,240 different pairs, since 400 could not resolve it. The people may have been in an extractor's training set.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from engine import checkpoint, extractors, faces
from engine.detect import YuNet
from engine.extractors import Extractor

PEOPLE, PHOTOS, PAIRS, FAR = 120, 4, 400, 1e-3


def canvases(folder: Path, *, people: int = PEOPLE) -> tuple[np.ndarray, np.ndarray]:
    """Canvases (480, c, c, 3) uint8 and people (480,) of LFW in `folder`, laid out as person/photo; or of the first."""
    generator = np.random.default_rng(0)
    enough = [person for person in sorted(folder.iterdir()) if len(list(person.glob("*.jpg"))) >= PHOTOS]
    drawn = generator.choice(np.array(enough, object), PEOPLE, replace=False)
    detector = YuNet(checkpoint.detector())
    cut, labels = [], []
    for label, person in enumerate(drawn[:people]):
        for photo in generator.choice(np.array(sorted(person.glob("*.jpg")), object), PHOTOS, replace=False):
            image = cv2.imread(str(photo))
            assert image is not None, f"{photo} cannot be read"
            pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            all_faces = detector.detect(pixels)
            subject = all_faces[faces.central([face.box for face in all_faces], pixels.shape[:2])]
            canvas = faces.cut(pixels, subject).canvas
            cut.append(np.rint(canvas * 255).astype(np.uint8))
            labels.append(label)
    return np.stack(cut), np.array(labels)


def embedded(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """The embeddings of uint8 canvases."""
    return extractors.embed_all(extractor, images)


def accuracy(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUC, and TAR at a FAR of 1e-3."""
    pairs = np.array(list(itertools.combinations(range(len(labels)), 2)))
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    score = (embeddings @ embeddings.T)[pairs[:, 0], pairs[:, 1]]
    generator = np.random.default_rng(1)
    same_scores, different_scores = (
        score[generator.choice(np.flatnonzero(kind), min(PAIRS, kind.sum()), replace=False)] for kind in (same, ~same)
    )
    threshold = np.quantile(score[~same], 1 - FAR, method="higher")
    return {
        # The share of (same, different) couples in the right order is the area under the curve.
        "auc": float(np.mean(same_scores[:, None] > different_scores[None, :])),
        "tar": float(np.mean(score[same] > threshold)),
    }
