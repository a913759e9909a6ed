"""The shipped networks in runtimes that are not ours, on the files their weights are from: for goldens and benchmarks.

    run = reference("sface", cache=DIR)      # fetches the file (tools/convert_weights.py), loads the runtime
    run.embed(images)                        # (n, s, s, 3) as `prepared` gives them, to (n, d), not normalised

OpenCV's dnn runs web-incept, LiteRT mobilefacenet-192, onnxruntime sface and mobilefacenet-512, dlib dlib-resnet, and
TF.js under Node (WebAssembly backend) faceres and mobileface. A runtime that is not here raises Missing with what to
install.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from convert_weights import SOURCES, fetch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.extractors import InputSpec, registry

BATCH = 16


class Missing(Exception):
    """A runtime that is not installed."""


@dataclass(frozen=True)
class Reference:
    """A network in its own runtime, whose name and version is `runtime`.

    embed: images to raw embeddings. milliseconds: times of so many runs over a batch of images, after one that does
    not count; a runtime that takes one image at a time is called for each image of the batch.
    """

    runtime: str
    embed: Callable[[np.ndarray], np.ndarray]
    milliseconds: Callable[[np.ndarray, int], list[float]]


def prepared(canvases: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Inputs of a network (n, s, s, 3), float32, out of uint8 canvases: cropped and resampled by Pillow."""
    (top, bottom), (left, right) = spec.window_yx

    def resampled(channel: np.ndarray) -> np.ndarray:
        image = Image.fromarray(channel.astype(np.float32))
        return np.asarray(
            image.resize((spec.size, spec.size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        )

    pixels = np.stack([np.stack([resampled(canvas[..., n]) for n in range(3)], -1) for canvas in canvases])
    mean, scale = np.array(spec.mean, np.float32), np.float32(spec.scale)
    return ((pixels[..., :: -1 if spec.bgr else 1] - mean) / scale).astype(np.float32)


def levels(images: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The grey levels of a network's inputs, for a runtime that scales them itself."""
    return images * np.float32(spec.scale) + np.array(spec.mean, np.float32)


def optional(module: str, package: str) -> ModuleType:
    """A module, or Missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"needs the Python package {package}") from error


def timed(runtime: str, embed: Callable[[np.ndarray], np.ndarray]) -> Reference:
    """A reference of a runtime that lives in this process."""

    def milliseconds(images: np.ndarray, repeats: int) -> list[float]:
        embed(images)
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            embed(images)
            times.append(1000 * (time.perf_counter() - begun))
        return times

    return Reference(runtime, embed, milliseconds)


def opencv(file: Path, _: InputSpec) -> Reference:
    """A frozen TensorFlow graph. OpenCV refuses this one in batches."""
    net = cv2.dnn.readNetFromTensorflow(str(file))

    def embed_image(image: np.ndarray) -> np.ndarray:
        net.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
        return net.forward().reshape(-1)

    def embed(images: np.ndarray) -> np.ndarray:
        return np.stack([embed_image(image) for image in images])

    return timed(f"OpenCV {cv2.__version__} dnn", embed)


def litert(file: Path, _: InputSpec) -> Reference:
    """A tflite file, which has a fixed batch of its own."""
    interpreter = optional("ai_edge_litert.interpreter", "ai-edge-litert").Interpreter(
        str(file), num_threads=os.cpu_count()
    )
    interpreter.allocate_tensors()
    input_, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    count = int(input_["shape"][0])

    def embed(images: np.ndarray) -> np.ndarray:
        rows = []
        for at in range(0, len(images), count):
            part = images[at : at + count]
            interpreter.set_tensor(input_["index"], np.resize(part, (count, *part.shape[1:])))
            interpreter.invoke()
            rows.append(interpreter.get_tensor(made["index"])[: len(part)])
        return np.concatenate(rows)

    return timed(f"LiteRT {version('ai-edge-litert')}", embed)


def onnxruntime(input_name: str, *, scales_itself: bool) -> Callable[[Path, InputSpec], Reference]:
    """An ONNX file, of one image at a time. input_name: its input's name; other inputs are weights that it names so."""

    def made(file: Path, spec: InputSpec) -> Reference:
        onnx = optional("onnx", "onnx")
        runtime = optional("onnxruntime", "onnxruntime")
        model = onnx.load(str(file))
        for graph_input in list(model.graph.input):
            if graph_input.name != input_name:
                model.graph.input.remove(graph_input)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

        def embed(images: np.ndarray) -> np.ndarray:
            pixels = levels(images, spec) if scales_itself else images
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
            rows = [session.run(None, {input_name: pixels[n : n + 1]})[0].reshape(1, -1) for n in range(len(pixels))]
            return np.concatenate(rows)

        return timed(f"onnxruntime {runtime.__version__}", embed)

    return made


def dlib(file: Path, spec: InputSpec) -> Reference:
    """dlib's face network, which takes whole grey levels: pixels are rounded. It scales its input itself."""
    network = optional("dlib", "dlib-bin").face_recognition_model_v1(str(file))

    def embed(images: np.ndarray) -> np.ndarray:
        pixels = np.rint(levels(images, spec)).clip(0, 255).astype(np.uint8)
        return np.array(network.compute_face_descriptor(list(pixels)), np.float32)

    return timed(f"dlib {version('dlib-bin')}", embed)


def tfjs(output: str, *, scales_itself: bool) -> Callable[[Path, InputSpec], Reference]:
    """A TF.js graph model up to the node `output`, one Node process a call (tools/tfjs_run.cjs)."""

    def make(file: Path, spec: InputSpec) -> Reference:
        def run(images: np.ndarray, repeats: int) -> tuple[np.ndarray, dict]:
            if scales_itself:
                images = levels(images, spec)
            arguments = [file, output, spec.size, BATCH, repeats]
            command = ["node", Path(__file__).with_name("tfjs_run.cjs"), *map(str, arguments)]
            done = subprocess.run(command, input=images.astype("<f4").tobytes(), capture_output=True, check=False)
            if b"Cannot find module" in done.stderr:
                raise Missing("needs the npm packages @tensorflow/tfjs-{core,converter,backend-wasm} on NODE_PATH")
            if done.returncode:
                raise RuntimeError(f"node: {done.stderr.decode()}")
            report = json.loads(done.stderr.decode().splitlines()[-1])
            return np.frombuffer(done.stdout, "<f4").reshape(len(images), -1), report

        if shutil.which("node") is None:
            raise Missing("needs Node")
        report = run(np.zeros((1, spec.size, spec.size, 3), np.float32), 0)[1]
        return Reference(
            f"TF.js {report['version']} {report['backend']}",
            lambda images: run(images, 0)[0],
            lambda images, repeats: run(images, repeats)[1]["milliseconds"],
        )

    return make


MAKERS: dict[str, Callable[[Path, InputSpec], Reference]] = {
    "web-incept": opencv,
    "mobilefacenet-192": litert,
    "faceres": tfjs("global_pooling/Mean", scales_itself=False),
    "mobileface": tfjs("batchnorm0/add_1", scales_itself=True),
    "sface": onnxruntime("data", scales_itself=True),
    "mobilefacenet-512": onnxruntime("input", scales_itself=False),
    "dlib-resnet": dlib,
}


def reference(name: str, *, cache: Path) -> Reference:
    """An extractor in its own runtime; its file is kept in `cache`. Raises Missing where the runtime is not here."""
    return MAKERS[name](fetch(SOURCES[name], cache=cache), registry.find(name).spec)
