"""engine.evaluate.installed: recognisers as anybody installs them.

dlib runs as it is. OpenCV's SFace and @vladmandic/human are tested on tiny stand-ins of theirs, and as they are where
FAWKES_SFACE_ONNX and FAWKES_HUMAN name the file and the folder.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import tiny
from there import all_there, there

from engine import photo
from engine.evaluate import installed
from engine.evaluate.installed import Dlib, HumanNode, OpenCVSFace
from engine.evaluate.protocol import part_of

GOLDENS = Path(__file__).parent / "goldens" / "face_recognition.npz"


@pytest.fixture
def odd(tmp_path: Path) -> list[Path]:
    """A photo without a face, and a file that is no photo."""
    cv2.imwrite(str(tmp_path / "texture.png"), tiny.texture_pixels(0, 160, 120))
    (tmp_path / "text.jpg").write_text("no photo")
    return [tmp_path / "texture.png", tmp_path / "text.jpg"]


@pytest.fixture(scope="session")
def two_people(faces_folder: Path) -> list[Path]:
    people = sorted(p for p in (faces_folder / "lfw").iterdir() if len(list(p.iterdir())) >= 20)[:2]
    return [path for person in people for path in sorted(person.iterdir())[:2]]


def tells_apart(rows: Sequence[np.ndarray | None]) -> bool:
    seen = np.stack(all_there(rows))
    unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    similarity = unit @ unit.T
    return min(similarity[0, 1], similarity[2, 3]) > similarity[:2, 2:].max() + 0.1


def test_dlib_gives_what_the_package_face_recognition_gives(photos):
    """To the last bit: tools/golden_face_recognition.py asked the package itself."""
    goldens = np.load(GOLDENS)
    paths = sorted(photos.glob("*.[jp][pn]g"))
    assert len(paths) == len(goldens.files) == 3
    for path, row in zip(paths, Dlib().embed(paths), strict=True):
        row = there(row)
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, goldens[path.stem][0].astype(np.float32))


def test_dlib_takes_the_central_face_and_has_none_where_its_detector_finds_none(photos, odd, tmp_path):
    small = cv2.resize(there(cv2.imread(str(photos / "biden.jpg"))), None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    portrait = cv2.resize(there(cv2.imread(str(photos / "obama.jpg"))), (width, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "left.png"), np.hstack([portrait, small, np.zeros_like(small)]))
    cv2.imwrite(str(tmp_path / "right.png"), np.hstack([np.zeros_like(small), small, portrait]))
    cv2.imwrite(str(tmp_path / "alone.png"), np.hstack([np.zeros_like(small), small, np.zeros_like(small)]))
    left, right, alone, texture, text = Dlib().embed(
        [*(tmp_path / f"{name}.png" for name in ("left", "right", "alone")), *odd]
    )
    assert texture is text is None
    left, right, alone = all_there((left, right, alone))
    assert np.linalg.norm(left - alone) < 0.2 > np.linalg.norm(right - alone)
    assert np.linalg.norm(left - np.load(GOLDENS)["obama"][0]) > 0.6  # the package's threshold for another person


def test_dlib_counts_as_the_engines_network_of_the_same_weights():
    assert (Dlib.name, Dlib.extractors) == ("dlib", ("dlib-resnet",))
    assert part_of(Dlib.extractors, ("dlib-resnet",)) == "in"
    assert part_of(Dlib.extractors, ("sface", "web-incept")) == "held-out"
    assert Dlib().version.startswith("dlib 20")


@pytest.mark.parametrize("lacking", ["dlib", "face_recognition_models"])
def test_without_dlib_or_its_weights_the_error_says_what_to_install(monkeypatch, lacking):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else find(name))
    with pytest.raises(ValueError, match=r"pip install 'fawkes-engine\[evaluate\]'"):
        Dlib()


@pytest.fixture
def sface(tmp_path: Path) -> Path:
    """A network of SFace's shapes, its weights named as inputs, and an orphan among these, as in the quantised file."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = np.random.default_rng(0).standard_normal((48, 128)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["pooled"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights"], ["fc1"]),
    ]

    def value(name: str, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = [value("data", [1, 3, 112, 112]), value("weights", [48, 128]), value("orphan", [3])]
    initial = [numpy_helper.from_array(weights, "weights")]
    graph = helper.make_graph(nodes, "tiny", inputs, [value("fc1", [1, 128])], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "sface.onnx")
    return tmp_path / "sface.onnx"


def test_opencv_runs_its_detector_alignment_and_network(photos, odd, sface):
    recogniser = OpenCVSFace(sface)
    obama, texture, text = recogniser.embed([photos / "obama.jpg", *odd])
    obama = there(obama)
    assert (obama.shape, obama.dtype) == ((128,), np.float32)
    assert texture is text is None
    pixels = photo.read(photos / "obama.jpg").pixels
    mirrored = there(OpenCVSFace(sface)._one(np.ascontiguousarray(pixels[:, ::-1])))
    assert np.abs(mirrored - obama).max() > 0.01 * np.abs(obama).max()
    np.testing.assert_array_equal(recogniser.embed([photos / "obama.jpg"])[0], obama)


def test_opencv_counts_as_the_engines_network_of_the_same_weights(sface):
    assert (OpenCVSFace.name, OpenCVSFace.extractors) == ("opencv-sface", ("sface",))
    version = OpenCVSFace(sface).version
    assert cv2.__version__ in version
    model = onnx.load(sface)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, sface)
    assert OpenCVSFace(sface).version != version


@pytest.mark.parametrize("content", [b"\xff no ONNX", b""])
def test_a_file_that_opencv_cannot_run_is_refused(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.onnx"):
        OpenCVSFace(tmp_path / "bad.onnx")


def test_opencvs_sface_as_it_is_tells_people_apart(two_people):
    if "FAWKES_SFACE_ONNX" not in os.environ:
        pytest.skip("FAWKES_SFACE_ONNX does not name OpenCV Zoo's face_recognition_sface_2021dec.onnx")
    assert tells_apart(OpenCVSFace(Path(os.environ["FAWKES_SFACE_ONNX"])).embed(two_people))


LIBRARY = """
exports.Human = class {
  constructor(config) {
    this.config = config;
    this.tf = { tensor3d: (pixels, shape) => ({ pixels, shape }), dispose: () => {} };
  }
  async load() {
    console.log("chatter");
    this.model = await (await fetch(this.config.modelBasePath + "model.json")).json();
  }
  async detect({ pixels, shape: [height, width] }) {
    if (pixels[0] === 13) return { error: "model on fire", face: [] };
    if (pixels[0] === 14) process.exit(9);
    const sum = pixels.reduce((total, value) => total + value, 0);
    const middle = { box: [width / 2 - 1, height / 2 - 1, 2, 2], embedding: [this.model.is, height, width, sum] };
    return { face: pixels[0] === 0 ? [] : [{ box: [0, 0, 1, 1], embedding: [0] }, middle] };
  }
};
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder as npm would leave it, with a library of the same calls that says what it was given."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    human = tmp_path / "npm" / "node_modules" / "@vladmandic" / "human"
    wasm = tmp_path / "npm" / "node_modules" / "@tensorflow" / "tfjs-backend-wasm"
    for folder, version in ((human, "1.2.3"), (wasm, "4.5.6")):
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"version": version}))
    (human / "dist").mkdir()
    (human / "dist" / "human.node-wasm.js").write_text(LIBRARY)
    (human / "models").mkdir()
    (human / "models" / "model.json").write_text('{"is": 42}')
    return tmp_path / "npm"


def flat(path: Path, value: int, height: int, width: int) -> Path:
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


def test_human_gets_each_photo_whole_and_answers_in_order(stand_in, tmp_path):
    sizes = [(5, 7), (700, 900), (3, 3), (1, 400)]  # the second is far more than a pipe holds
    paths = [flat(tmp_path / f"{n}.png", n + 1, *size) for n, size in enumerate(sizes)]
    dark = flat(tmp_path / "dark.png", 0, 8, 8)
    (tmp_path / "text.jpg").write_text("no photo")
    human = HumanNode(stand_in)
    rows = human.embed([paths[0], dark, *paths[1:], tmp_path / "text.jpg"])
    assert rows[1] is rows[-1] is None
    for row, (height, width), value in zip([rows[0], *rows[2:-1]], sizes, (1, 2, 3, 4), strict=True):
        row = there(row)
        assert row.dtype == np.float32
        assert row.tolist() == [42, height, width, 3 * value * height * width]
    assert there(human.embed([paths[2]])[0]).tolist() == there(rows[3]).tolist()


def test_human_says_what_it_is_and_counts_as_the_engines_faceres(stand_in):
    human = HumanNode(stand_in)
    assert (human.name, human.extractors, human.version) == ("human", ("faceres",), "human 1.2.3, tfjs 4.5.6 wasm")


@pytest.mark.parametrize(("value", "message"), [(13, "model on fire"), (14, "has ended")])
def test_a_failing_library_is_an_error_with_its_words(stand_in, tmp_path, value, message):
    human = HumanNode(stand_in)
    with pytest.raises(RuntimeError, match=message):
        human.embed([flat(tmp_path / "bad.png", value, 4, 4), flat(tmp_path / "next.png", 1, 4, 4)])


def test_the_process_serves_all_photos_and_ends_with_its_owner(stand_in, tmp_path):
    human = HumanNode(stand_in)
    paths = [flat(tmp_path / "a.png", 1, 4, 4)]
    human.embed(paths)
    process = there(human._process)
    human.embed(paths)
    assert human._process is process
    assert process.poll() is None
    del human
    gc.collect()
    assert process.poll() is not None


def test_without_node_or_the_library_the_error_says_what_to_do(stand_in, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"npm install --prefix {tmp_path} @vladmandic/human@{installed.HUMAN} "):
        HumanNode(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="Node"):
        HumanNode(stand_in)


def test_human_as_it_is_tells_people_apart(two_people, odd):
    if "FAWKES_HUMAN" not in os.environ:
        pytest.skip(f"FAWKES_HUMAN does not name the folder of: {installed.INSTALL_HUMAN}")
    rows = HumanNode(Path(os.environ["FAWKES_HUMAN"])).embed([*two_people, *odd])
    assert rows[4:] == [None, None]
    assert tells_apart(rows[:4])
