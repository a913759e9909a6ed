"""Makes checkpoints/population, the bank of far targets: mean embeddings of groups of people, by extractor.

    python tools/make_population.py FOLDER [--cache FILE.npz] [--without NAME ...]      FOLDER: identity/photo

One mean embedding per person and extractor; k-means over people on the concatenation of the extractors GROUPED_BY, so
that row i is the same group of people everywhere, and stays so whatever is added to them later; a group of fewer than
MIN_PEOPLE is dissolved into the others, so that a centroid is nobody's template. Rows of the shipped bank for the same
weights that are found again, to the rounding of sums, stay as they are. People with PROTECTED or more photos,
the users of every evaluation, are left out, and so is whom --without names. Prints the table that belongs at the end
of checkpoints/manifest.toml. To be run again whenever an extractor is added or its weights change; the same photos and
weights give the same content hash.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import jax
import numpy as np
from embed_folder import embed_photos
from scipy.cluster.vq import kmeans2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint, extractors, sharding
from engine.bulk.people import centroids_of
from engine.dataset import photos_of

ROOT = Path(__file__).resolve().parent.parent
GROUPED_BY = ("faceres", "mobileface", "mobilefacenet-192", "sface", "web-incept")
PROTECTED = 20
PHOTOS = 4
"""Photos of one person that are looked at."""
CENTROIDS = 64
"""Groups that k-means starts with."""
MIN_PEOPLE = 20
SEED = 0
ROUNDING = 1e-3
"""Between two banks of the same groups, numbers of rows of length one in float16."""
TABLE = """\
[population]
path = "population"
sha256 = "{sha256}"
centroids = {centroids}
people = {people}
photos = {photos}
min_people = {least}
description = "Mean embeddings of groups of people, for objective target; row i is the same group in every extractor"
source = "LFW deep-funneled, development split, without people of 20 or more photos (the users of the evaluation)"
privacy_note = "every row is the mean of at least min_people people; no photo and nobody's template is in it"\
"""


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length one."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def groups_of(people: np.ndarray, *, count: int, least: int, seed: int) -> np.ndarray:
    """A group's number for every person: k-means, the smallest group dissolved until none has fewer than `least`."""
    if len(people) < least:
        raise ValueError(f"a group has at least {least} people; the folder has {len(people)} with a face")
    centres, labels = kmeans2(people, min(count, len(people) // least), minit="++", iter=50, rng=seed)
    while True:
        sizes = np.bincount(labels, minlength=len(centres))
        if sizes.min() >= least:
            return labels
        centres, labels = kmeans2(people, np.delete(centres, sizes.argmin(), axis=0), minit="matrix", iter=50)


def settled(centroids: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The centroids, those of the shipped bank in the place of their like: a machine's sums round in its own way."""
    table = checkpoint.manifest().get("population", {"path": "population", "extractors": {}})
    shapes = {
        name: jax.ShapeDtypeStruct((table["centroids"], entry["dim"]), np.float32)
        for name, entry in table["extractors"].items()
    }
    shipped = checkpoint.restore(checkpoint.root() / table["path"], shapes)[0] if shapes else {}
    weights = {name: entry["weights_sha256"] for name, entry in table["extractors"].items()}
    result = dict(centroids)
    for name in set(shipped) & set(centroids):
        same = weights[name] == checkpoint.manifest()["extractors"][name]["sha256"]
        if (
            same
            and shipped[name].shape == centroids[name].shape
            and np.allclose(shipped[name], centroids[name], atol=ROUNDING)
        ):
            result[name] = np.asarray(shipped[name])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="people to leave out")
    parser.add_argument("--cache", type=Path, help="an .npz where embeddings are kept between runs")
    parser.add_argument("--out", type=Path, default=checkpoint.root() / "population")
    options = parser.parse_args()
    sharding.configure()
    names = [name for name in extractors.available() if centroids_of(name) == name]
    people = {
        name: photos[:PHOTOS]
        for name, photos in photos_of(options.folder).items()
        if len(photos) < PROTECTED and name not in options.without
    }
    paths = [path for photos in people.values() for path in photos]
    owner = np.repeat(np.arange(len(people)), [len(photos) for photos in people.values()])
    embedded = embed_photos(paths, names=names, cache=options.cache)
    seen = np.isfinite(embedded[names[0]]).all(axis=1)
    known = np.unique(owner[seen])
    means = {
        name: unit(np.stack([rows[seen & (owner == person)].mean(axis=0) for person in known])).astype(np.float64)
        for name, rows in embedded.items()
    }
    labels = groups_of(
        np.concatenate([means[name] for name in GROUPED_BY], axis=1), count=CENTROIDS, least=MIN_PEOPLE, seed=SEED
    )
    sizes = np.bincount(labels)
    centroids = {
        name: unit(np.stack([rows[labels == group].mean(axis=0) for group in range(len(sizes))]))
        for name, rows in means.items()
    }
    sha256 = checkpoint.save(options.out, settled(centroids))
    command = f"python tools/make_population.py {os.path.relpath(options.folder, ROOT)}"
    if options.without:
        command += f" --without {' '.join(options.without)}"
    print(
        TABLE.format(sha256=sha256, centroids=len(sizes), people=len(known), photos=int(seen.sum()), least=sizes.min())
    )
    print(f'command = "{command}"')
    for name in names:
        entry = checkpoint.manifest()["extractors"][name]
        print(f'[population.extractors.{name}]\ndim = {entry["dim"]}\nweights_sha256 = "{entry["sha256"]}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
