"""Small sound files of weights in every format whose package is here, and how mutated ones are read."""

from __future__ import annotations

import importlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from engine.convert import layouts, onnx_graph, reading
from engine.convert.source_file import SourceFile

CARD: dict[str, Any] = {
    "network": "mobilefacenet",
    "options": {"form": "arcface", "dim": 64},
    "dim": 64,
    "robust": False,
    "description": "a test",
    "source": "weights.pt",
    "source_sha256": "0" * 64,
    "licence": "MIT",
    "command": "cloak convert weights.pt --as x --name mine",
    "path": "weights",
    "sha256": "0" * 64,
    "input": {"size": 112, "window": [32.0, 144.0], "mean": [127.5, 127.5, 127.5], "scale": 128.0, "bgr": False},
}
_LAYOUTS = {
    "tfjs": ("faceres/human-tfjs", "mobileface/human-tfjs"),
    "pb": ("inception-resnet-v1/facenet-pb",),
    "sface": ("sface/opencv-onnx",),
    "torch": ("mobilefacenet/frbench", "iresnet18/magface"),
    "keras": ("densenet121/keras", "inception-resnet-v1/keras"),
}
_READERS = {
    "tfjs": "tfjs",
    "pb": "frozen_graph",
    "onnx": "onnx_graph",
    "sface": "onnx",
    "torch": "torch_file",
    "keras": "keras_h5",
}


def read(kind: str, name: str, data: bytes, folder: Path) -> None:
    """Reads a file as `cloak convert` does, but in this process: what would end the reader's process ends this one."""
    path = folder / name
    if kind == "tfjs":
        split = data.find(b"\0\0SPLIT\0\0")
        (folder / "own.bin").write_bytes(data[split + 9 :] if split >= 0 else b"")
        data = data[: split if split >= 0 else None]
    path.write_bytes(data)
    usual, reading.read = reading.read, _here
    try:
        importlib.import_module(f"engine.convert.{_READERS[kind]}").read(path)
        for layout in _LAYOUTS.get(kind, ()):
            layouts.find(layout).read(path)
        if kind == "onnx":
            onnx_graph.read(path)
    finally:
        reading.read = usual


def _here(path: Path | str, *, module: str, kind: str, needs: tuple[str, str] | None = None) -> dict[str, np.ndarray]:
    with reading.guarded(Path(path), kind), reading.source(Path(path)) as stream:
        file = SourceFile(Path(path), stream)
        tensors = importlib.import_module(module).parse(file)
        file.check(sum(value.size * 4 for value in tensors.values()), "all its tensors")
        return tensors


def files() -> list[tuple[str, str, bytes]]:
    """(format, name, bytes) of a small file of each format."""
    rng = np.random.default_rng(0)
    arrays = {
        "conv1/kernel": rng.normal(size=(3, 3, 3, 8)),
        "conv1/bias": rng.normal(size=8),
        "fc/kernel": rng.normal(size=(8, 4)),
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    entries = [{"name": name, "shape": list(value.shape), "dtype": "float32"} for name, value in arrays.items()]
    model = {"weightsManifest": [{"paths": ["own.bin"], "weights": entries}]}
    stored = b"".join(value.tobytes() for value in arrays.values())
    samples = [
        ("tfjs", "model.json", json.dumps(model).encode() + b"\0\0SPLIT\0\0" + stored),
        ("pb", "graph.pb", _graph(arrays)),
    ]
    for make in (_onnx, _torch, _keras):
        try:
            samples += make(arrays)
        except ImportError:
            continue
    return samples


def _field(number: int, value: int | bytes) -> bytes:
    def varint(n: int) -> bytes:
        return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])

    return (
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
    )


def _graph(arrays: dict[str, np.ndarray]) -> bytes:
    nodes = b""
    for name, value in arrays.items():
        shape = b"".join(_field(2, _field(1, length)) for length in value.shape)
        tensor = _field(1, 1) + _field(2, shape) + _field(4, value.tobytes())
        nodes += _field(
            1,
            _field(1, name.encode())
            + _field(2, b"Const")
            + _field(5, _field(1, b"value") + _field(2, _field(8, tensor))),
        )
    return nodes


def _onnx(arrays: dict[str, np.ndarray]) -> list[tuple[str, str, bytes]]:
    import onnx

    node, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    kernel = arrays["conv1/kernel"].transpose(3, 2, 0, 1).copy()
    constants = {
        "k": kernel,
        "b": arrays["conv1/bias"],
        "m": arrays["fc/kernel"],
        "q": np.zeros((8, 4), np.int8),
        "s": np.ones(8, np.float32),
    }
    constants |= {name: np.ones(8, np.float32) for name in ("gamma", "beta", "mean", "var")}
    nodes = [
        node("Conv", ["x", "k", "b"], ["c"]),
        node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        node("Flatten", ["n"], ["f"]),
        node("Gemm", ["f", "m"], ["y"]),
        node("DequantizeLinear", ["q", "s"], ["d"], axis=0),
        node("MatMul", ["y", "d"], ["z"]),
        node("PRelu", ["z", "s"], ["p"]),
    ]
    graph_input, made = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "p"))
    graph = onnx.helper.make_graph(
        nodes, "g", [graph_input], [made], [tensor(value, name) for name, value in constants.items()]
    )
    data = onnx.helper.make_model(graph).SerializeToString()
    return [("onnx", "a.onnx", data), ("sface", "a.onnx", data)]


def _torch(arrays: dict[str, np.ndarray]) -> list[tuple[str, str, bytes]]:
    import torch

    # One storage for all: files of the old form name and order storages by their addresses.
    whole = torch.from_numpy(np.concatenate([value.ravel() for value in arrays.values()]))
    parts = whole.split([value.size for value in arrays.values()])
    views = zip(arrays.items(), parts, strict=True)
    state = {name.replace("/", "."): part.view(value.shape) for (name, value), part in views}
    samples = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"state_dict": state}, buffer, _use_new_zipfile_serialization=zipped)
        data = buffer.getvalue()
        if not zipped:
            data = re.sub(rb"X.\0\0\0\d{6,}", lambda _: b"X\x01\0\0\0" + b"1", data, flags=re.DOTALL)
        samples.append(("torch", "a.pt", data))
    return samples


def _keras(arrays: dict[str, np.ndarray]) -> list[tuple[str, str, bytes]]:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [b"conv1", b"fc"]
        for layer in ("conv1", "fc"):
            names = [name for name in arrays if name.startswith(f"{layer}/")]
            file.create_group(layer).attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                file[layer].create_dataset(name, data=arrays[name], chunks=True, compression="gzip")
    return [("keras", "a.h5", buffer.getvalue())]
