"""Protection success rate on real photos: the test of section 5.2 of the paper, floor and held-out trackers beside.

Users are 20 people of LFW (benchmarks/users.txt), 20 photos each. Half of a user's photos are scraped cloaked, half are
clean test photos; 300 other people are clean labels. A tracker is an extractor and a linear softmax head (or the
nearest class mean) trained on what was scraped. Protection success rate: share of a user's clean test photos that
the tracker does not name as the user, mean over users. Floor: the same with nothing cloaked. Embeddings and DSSIM are
of the files that `cloak run` wrote, read and detected anew. A tracker whose extractor made the cloak is "in"; the
others are "held-out". dlib takes part if it is installed:
pip install dlib-bin==20.0.1 face-recognition-models==0.3.0 "setuptools<81"

    python benchmarks/protection.py ../shared/faces/lfw --work DIR [--set rho=.017 --set extractors=web-incept]

Resumes: the cloaked photos stay in DIR/cloaked. --cache keeps the embeddings of the clean photos for other settings.
Writes benchmarks/results/protection-NAME.json; the last line is that JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from embed_folder import embed_photos

from engine import checkpoint, sharding
from engine.bulk.prepare import Prepared, prepare
from engine.config import Recipe
from engine.detect import YuNet
from engine.dssim import dssim_pixels
from engine.photo import read

HERE = Path(__file__).resolve().parent
PHOTOS, OTHERS, OTHERS_PHOTOS = 20, 300, 6


@dataclass(frozen=True)
class Dataset:
    """Paths: per user the scraped and the test half, per other person all."""

    scraped: dict[str, list[Path]]
    tests: dict[str, list[Path]]
    others: dict[str, list[Path]]


def dataset(root: Path) -> Dataset:
    users = (HERE / "users.txt").read_text().split()
    scraped, tests = {}, {}
    for user in users:
        photos = sorted((root / user).glob("*.jpg"))[:PHOTOS]
        scraped[user], tests[user] = photos[0::2], photos[1::2]
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in users)
    counted = {name: sorted((root / name).glob("*.jpg")) for name in names}
    eligible = [name for name, photos in counted.items() if 2 <= len(photos) < PHOTOS]
    chosen = sorted(np.random.default_rng(0).choice(eligible, OTHERS, replace=False))
    return Dataset(scraped, tests, {str(name): counted[name][:OTHERS_PHOTOS] for name in chosen})


def cloak(data: Dataset, work: Path, settings: dict[str, str]) -> dict[Path, Path]:
    """`cloak run` on the scraped half, laid out in a folder of links; returns the cloaked file of each photo."""
    source, out = work / "scraped", work / "cloaked"
    suffix = {"png": ".png", "webp": ".webp"}.get(settings.get("format", "keep"), ".jpg")
    pairs = {}
    for user, photos in data.scraped.items():
        (source / user).mkdir(parents=True, exist_ok=True)
        for photo in photos:
            link = source / user / photo.name
            if not link.exists():
                link.symlink_to(photo.resolve())
            pairs[photo] = (out / user / photo.name).with_suffix(suffix)
    options = [f"--{name}={value}" for name, value in settings.items()]
    done = subprocess.run([sys.executable, "-m", "engine.cli", "run", source, "--out", out, *options], check=False)
    if done.returncode not in (0, 3):  # 3: all done by an earlier call
        raise SystemExit(f"cloak run ended with {done.returncode}")
    return pairs


def central(photo: Prepared) -> int:
    """Index of the face nearest to the middle: in LFW that is the person."""
    height, width = photo.photo.size
    middles = [(f.box[0] + f.box[2] / 2 - width / 2, f.box[1] + f.box[3] / 2 - height / 2) for f in photo.faces]
    return int(np.argmin([np.hypot(*middle) for middle in middles]))


def measure(original: Path, changed: Path) -> float:
    """DSSIM of the central face's region between the two files."""
    before = prepare(original, YuNet(checkpoint.root() / "yunet.onnx"))
    top, left, bottom, right = before.regions[central(before)]
    return dssim_pixels(before.photo.pixels[top:bottom, left:right], read(changed).pixels[top:bottom, left:right])


def embeddings_of(paths: Sequence[Path], *, cache: Path | None) -> dict[str, dict[Path, np.ndarray]]:
    """By extractor, those of the engine and dlib, and path the embedding of the central face."""
    names = tuple(checkpoint.manifest()["extractors"])
    rows = embed_photos(paths, names=names, cache=None if cache is None else cache / "embeddings.npz")
    found = {name: dict(zip(paths, rows[name], strict=True)) for name in names}
    if (dlib := dlib_embeddings(paths, cache=None if cache is None else cache / "dlib.npz")) is not None:
        found["dlib"] = dlib
    return found


def dlib_embeddings(paths: Sequence[Path], *, cache: Path | None) -> dict[Path, np.ndarray] | None:
    """dlib's own detector (YuNet's box where it finds none), landmarks and ResNet, all of its own library."""
    known = dict(np.load(cache)) if cache is not None and cache.exists() else {}
    try:
        import dlib
        import face_recognition_models as weights
    except ImportError:
        return None
    detector, fallback = dlib.get_frontal_face_detector(), YuNet(checkpoint.root() / "yunet.onnx")
    landmarks = dlib.shape_predictor(weights.pose_predictor_five_point_model_location())
    network = dlib.face_recognition_model_v1(weights.face_recognition_model_location())
    for path in paths:
        if str(path) in known:
            continue
        one = prepare(path, fallback)
        pixels, face = np.ascontiguousarray(one.photo.pixels), one.faces[central(one)]
        x, y = (float(v) for v in face.landmarks.mean(axis=0))
        boxes = [box for box in detector(pixels, 1) if box.contains(dlib.point(round(x), round(y)))]
        left, top, width, height = (round(float(v)) for v in face.box)
        box = boxes[0] if boxes else dlib.rectangle(left, top, left + width, top + height)
        known[str(path)] = np.array(network.compute_face_descriptor(pixels, landmarks(pixels, box)), np.float32)
    if cache is not None:
        np.savez(cache, **known)
    return {path: known[str(path)] for path in paths}


def linear_head(rows: np.ndarray, labels: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """The labels a softmax regression names, trained to convergence by L-BFGS with weight decay 1e-4."""
    mean, scale = rows.mean(0), np.linalg.norm(rows - rows.mean(0), axis=1).mean()
    x, t = (jnp.asarray((part - mean) / scale * 8) for part in (rows, tests))
    y = jnp.asarray(labels)
    params = {"kernel": jnp.zeros((rows.shape[1], int(labels.max()) + 1)), "bias": jnp.zeros(int(labels.max()) + 1)}

    def loss(p: dict[str, jax.Array]) -> jax.Array:
        logits = x @ p["kernel"] + p["bias"][None]
        decay = 1e-4 * (p["kernel"] ** 2).sum()
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean() + decay

    solver = optax.lbfgs()
    step = jax.value_and_grad(loss)

    @jax.jit
    def advance(p, state):
        value, gradient = step(p)
        update, state = solver.update(gradient, state, p, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(p, update), state

    state = solver.init(params)
    for _ in range(150):
        params, state = advance(params, state)
    return np.asarray((t @ params["kernel"] + params["bias"][None]).argmax(1))


def nearest_mean(rows: np.ndarray, labels: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """The label of the class whose mean embedding is nearest."""
    means = np.stack([rows[labels == label].mean(0) for label in range(labels.max() + 1)])
    return ((tests[:, None] - means[None]) ** 2).sum(-1).argmin(1)


TRACKERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "linear head": linear_head,
    "nearest class mean": nearest_mean,
}


def protection(
    data: Dataset, scraped: dict[Path, np.ndarray], clean: dict[Path, np.ndarray], tracker: Callable
) -> dict:
    """Protection success rate by user, and accuracy on the other people (their last photo, left out of training)."""
    rows, labels, users = [], [], list(data.scraped)
    for label, user in enumerate(users):
        rows += [scraped[path] for path in data.scraped[user]]
        labels += [label] * len(data.scraped[user])
    for label, photos in enumerate(data.others.values(), len(users)):
        rows += [clean[path] for path in photos[:-1]]
        labels += [label] * (len(photos) - 1)
    tests = [clean[path] for user in users for path in data.tests[user]]
    tests += [clean[photos[-1]] for photos in data.others.values()]
    named = tracker(np.stack(rows), np.array(labels), np.stack(tests))
    counts = [len(data.tests[user]) for user in users]
    truth = np.repeat(np.arange(len(users)), counts)
    missed = named[: len(truth)] != truth
    rates = [float(missed[truth == label].mean()) for label in range(len(users))]
    others = named[len(truth) :] == np.arange(len(users), len(users) + len(data.others))
    boot = np.random.default_rng(0).choice(rates, (10_000, len(rates))).mean(1)
    return {
        "protection": float(np.mean(rates)),
        "interval95": [float(value) for value in np.quantile(boot, (0.025, 0.975))],
        "others_accuracy": float(others.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder for the embeddings of the clean photos")
    parser.add_argument("--name", default="mid", help="of the result file")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of `cloak run`")
    arguments = parser.parse_args()
    sharding.configure()
    settings = dict(item.split("=", 1) for item in arguments.set)
    data = dataset(arguments.faces)
    cloaked = cloak(data, arguments.work, settings)
    given = {"extractors": tuple(settings["extractors"].split(","))} if "extractors" in settings else {}
    made_with = set(Recipe(**given).names)
    clean_paths = [p for part in (data.scraped, data.tests, data.others) for photos in part.values() for p in photos]
    if arguments.cache is not None:
        arguments.cache.mkdir(parents=True, exist_ok=True)
    embeddings = embeddings_of(clean_paths, cache=arguments.cache)
    for name, own in embeddings_of(list(cloaked.values()), cache=None).items():
        embeddings[name] |= own
    dssim = [measure(original, changed) for original, changed in cloaked.items()]
    rows = []
    for name, found in embeddings.items():
        for kind, tracker in TRACKERS.items():
            floor = protection(data, {p: found[p] for p in cloaked}, found, tracker)
            result = protection(data, {p: found[c] for p, c in cloaked.items()}, found, tracker)
            part = "in" if name in made_with else "held-out"
            rows.append({"extractor": name, "tracker": kind, "part": part, "floor": floor["protection"], **result})
            print(
                f"{name:20} {kind:20} {part:9} protection {result['protection']:.1%} "
                f"({result['interval95'][0]:.0%}-{result['interval95'][1]:.0%}), floor {floor['protection']:.1%}, "
                f"others named rightly {result['others_accuracy']:.1%}",
                flush=True,
            )
    report = {
        "settings": settings,
        "made_with": sorted(made_with),
        "users": len(data.scraped),
        "cloaked_photos": len(cloaked),
        "test_photos": sum(map(len, data.tests.values())),
        "other_people": len(data.others),
        "dssim_mean": float(np.mean(dssim)),
        "dssim_max": float(np.max(dssim)),
        "rows": rows,
    }
    target = HERE / "results" / f"protection-{arguments.name}.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
