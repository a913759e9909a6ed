"""How well embeddings tell people apart: pairs of faces at a threshold, and grouping a collection into people.

    python benchmarks/identity.py [FOLDER] [--cache FILE.npz] [--out FILE.json]    FOLDER: identity/photo, as LFW

Measured, on clean photos: (1) for each extractor the cosine of same and different pairs, and the threshold and true
accept rate (TAR) at false accept rates (FAR) of 1e-3 and 1e-4; (2) the pairwise precision and recall of
`engine.bulk.people.group` on 60 people with up to 10 photos each, alone and among strangers with one photo each (200,
and all there are), for each threshold tried; (3) its time on 20,000 synthetic faces. The ceiling of (1) and (2) is 1
less the folder's wrong labels (LFW has a few); that of (3) one n x n x d product, measured beside it. (4) Which part of
a person's photos `--only` misses, and which part of other people's it takes for theirs, by the number of its reference
photos. The people may have been in the extractors' training sets, so these figures choose thresholds and say nothing of
strangers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from embed_folder import embed_photos

from engine import extractors, sharding
from engine.bulk import people
from engine.dataset import photos_of

ROOT = Path(__file__).resolve().parent.parent
PEOPLE, PHOTOS = 60, 10
FEW = 4
"""Photos looked at of a person with fewer than PHOTOS."""
STRANGERS = (0, 200, None)
"""People with one photo who are mixed in; None is all of them."""
RATES = (1e-3, 1e-4)
REFERENCES = (1, 2, 3, 5)
"""Numbers of reference photos."""
BLOCK = 2048
"""Rows of the product that is measured, at a time."""
THRESHOLDS = tuple(round(0.3 + 0.02 * step, 2) for step in range(20))


def pair_counts(group: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Pairwise precision and recall of a grouping."""
    same_group = group[:, None] == group[None]
    same_label = label[:, None] == label[None]
    upper = np.triu(np.ones_like(same_group), k=1)
    both = (same_group & same_label & upper).sum()
    return float(both / max((same_group & upper).sum(), 1)), float(both / (same_label & upper).sum())


def pairs(rows: np.ndarray, label: np.ndarray) -> dict[str, object]:
    """Distributions of the cosine over all pairs, and thresholds at fixed false accept rates."""
    upper = np.triu_indices(len(rows), k=1)
    cosine, same = (rows @ rows.T)[upper], label[upper[0]] == label[upper[1]]
    same_scores, different_scores = np.sort(cosine[same]), np.sort(cosine[~same])

    def spread(values: np.ndarray) -> dict[str, float]:
        quantiles = {f"p{q:g}": round(float(np.quantile(values, q / 100)), 4) for q in (0.1, 1, 5, 50, 95, 99, 99.9)}
        return {
            "pairs": len(values),
            "mean": round(float(values.mean()), 4),
            "std": round(float(values.std()), 4),
        } | quantiles

    result: dict[str, object] = {"same": spread(same_scores), "different": spread(different_scores)}
    for rate in RATES:
        threshold = float(different_scores[int(np.ceil(len(different_scores) * (1 - rate)))])
        tar = float((same_scores >= threshold).mean())
        result[f"far_{rate:g}"] = {"threshold": round(threshold, 4), "tar": round(tar, 4)}
    return result


def references(rows: np.ndarray, label: np.ndarray) -> list[dict[str, float]]:
    """What `--only` misses by the number of reference photos; of a person with enough photos the first ones."""
    entries = []
    most = max(REFERENCES)
    several = np.flatnonzero(np.bincount(label) > most)
    for count in REFERENCES:
        missed: list[np.ndarray] = []
        mistaken: list[np.ndarray] = []
        for person in several:
            mine = rows[label == person]
            (reference,) = people.mean_embedding([(row,) for row in mine[:count]])
            missed.append(mine[most:] @ reference < people.SAME_PERSON)
            mistaken.append(rows[label != person] @ reference >= people.SAME_PERSON)
        entry = {"references": count, "people": len(several), "photos": sum(map(len, missed))}
        parts = {"missed": np.concatenate(missed), "mistaken": np.concatenate(mistaken)}
        entries.append(entry | {name: round(float(values.mean()), 5) for name, values in parts.items()})
    return entries


def grouping(rows: np.ndarray, label: np.ndarray, thresholds: tuple[float, ...] = THRESHOLDS) -> list[dict[str, float]]:
    """Quality of the grouping at each threshold. wholes: people whose photos are one group with nobody else's."""
    entries = []
    for threshold in thresholds:
        group = people.group(rows, similarity=threshold)
        precision, recall = pair_counts(group, label)
        couples, sizes = np.unique(np.stack([group, label]), axis=1, return_counts=True)
        alone = np.bincount(group)[couples[0]] == sizes
        whole = np.bincount(label)[couples[1]] == sizes
        entries.append(
            {
                "threshold": threshold,
                "precision": round(precision, 4),
                "recall": round(recall, 4),
                "groups": int(group.max()) + 1,
                "people": len(np.unique(label)),
                "wholes": int((alone & whole).sum()),
            }
        )
    return entries


def large(faces: int = 20_000, persons: int = 500, dim: int = 192) -> dict[str, float]:
    """Seconds for a large collection of synthetic faces, and for the one product that is its floor."""
    draw = np.random.default_rng(0)
    label = draw.integers(persons, size=faces)
    rows = draw.normal(size=(persons, dim))[label] + 0.8 * draw.normal(size=(faces, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    begun = time.perf_counter()
    for first in range(0, faces, BLOCK):
        rows[first : first + BLOCK] @ rows.T
    product = time.perf_counter() - begun
    begun = time.perf_counter()
    group = people.group(rows)
    seconds = time.perf_counter() - begun
    return {
        "faces": faces,
        "people": persons,
        "groups": int(group.max()) + 1,
        "seconds": round(seconds, 2),
        "product_seconds": round(product, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT.parent / "shared" / "faces" / "lfw")
    parser.add_argument("--cache", type=Path, help="an .npz where embeddings are kept between runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "identity.json")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"no folder {options.folder}: give one with a folder of photos for each person")
    sharding.configure()
    by_name = photos_of(options.folder)
    photos = {
        name: person_paths[: PHOTOS if len(person_paths) >= PHOTOS else FEW] for name, person_paths in by_name.items()
    }
    paths = [path for person_paths in photos.values() for path in person_paths]
    label = np.repeat(np.arange(len(photos)), [len(person_paths) for person_paths in photos.values()])
    embedded = embed_photos(paths, names=extractors.available(), cache=options.cache)
    seen = np.isfinite(embedded[people.EXTRACTOR]).all(axis=1)
    label = label[seen]

    draw = np.random.default_rng(0)
    counts = np.bincount(label)
    many, rest = np.split(draw.permutation(np.flatnonzero(counts >= PHOTOS // 2)), [PEOPLE])
    crowd, in_rest = np.isin(label, many), np.isin(label, rest)
    strangers = draw.permutation(np.flatnonzero(counts[label] == 1))
    result: dict[str, Any] = {
        "faces": len(label),
        "photos_without_face": int((~seen).sum()),
        "people": len(np.unique(label)),
        "grouped_by": people.EXTRACTOR,
        "similarity": people.SIMILARITY,
        "same_person": people.SAME_PERSON,
        "extractors": {},
        "large": large(),
    }
    for name, rows in embedded.items():
        rows = rows[seen]
        result["extractors"][name] = {"pairs": pairs(rows, label), "grouping": []}
        print(f"\n{name}\n{json.dumps(result['extractors'][name]['pairs'])}")
        print("strangers threshold precision recall groups people wholes")
        for count in STRANGERS:
            mixed = np.concatenate([np.flatnonzero(crowd), strangers[:count]])
            for row in grouping(rows[mixed], label[mixed]):
                row = {"strangers": len(mixed) - int(crowd.sum()), **row}
                result["extractors"][name]["grouping"].append(row)
                print(
                    "{strangers:9} {threshold:9} {precision:9} {recall:6} {groups:6} {people:6} {wholes:6}".format(
                        **row
                    )
                )
    result["only"] = references(embedded[people.EXTRACTOR][seen], label)
    # The threshold was chosen on the tables above: this is what it does on people it was not chosen on.
    rows = embedded[people.EXTRACTOR][seen][in_rest]
    result["other_people"] = grouping(rows, label[in_rest], (people.SIMILARITY,))[0]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
