"""Files of weights made to read others, to hang, to crash or to fill memory: each is one sentence that names it."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx as onnx_package
import pytest
from test_convert import write_tfjs

from engine import cli
from engine.convert import keras_h5, layouts, onnx, onnx_graph, reading, tfjs, torch_file
from engine.convert.source_file import FLOOR, SourceError

SECRET = b"secret" * 4
ONE_OF_A_FORMAT = {
    "torch": "mobilefacenet/frbench",
    "keras": "densenet121/keras",
    "onnx": "mobilefacenet/onnx",
    "tfjs": "faceres/human-tfjs",
    "tflite": "mobilefacenet/sirius-tflite",
    "pb": "inception-resnet-v1/facenet-pb",
    "sface": "sface/opencv-onnx",
}
LEFT_OUT = {"torch": "torch", "tflite": "ai_edge_litert"}
"""Packages that tools/test-convert installs."""


def one_sentence(capsys: pytest.CaptureFixture[str], *, names: str) -> str:
    message = capsys.readouterr().err
    assert message.startswith("cloak: ")
    assert message.count("\n") == 1
    assert names in message
    assert "Traceback" not in message
    return message


def convert(source: Path, form: str, tmp_path: Path) -> int:
    if form in LEFT_OUT:
        pytest.importorskip(LEFT_OUT[form], reason="not installed: tools/test-convert runs this")
    arguments = ["--as", ONE_OF_A_FORMAT[form], "--name", "mine", "--out", str(tmp_path / "home")]
    return cli.main(["convert", str(source), *arguments])


# --- what every reader refuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ONE_OF_A_FORMAT)
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "folder", "empty", "0xff", "zeros"])
def test_what_is_no_file_of_its_format_is_one_sentence(
    form: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readers, start = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: readers.append(a) or start(*a, **k))
    file = tmp_path / "weights"
    if kind in ("pipe", "link to a pipe"):
        os.mkfifo(tmp_path / "pipe")
        file.symlink_to(tmp_path / "pipe")
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        file.write_bytes({"empty": b"", "0xff": b"\xff" * 3_000_000}.get(kind, bytes(3_000_000)))
    assert convert(file, form, tmp_path) == cli.USAGE
    assert len(readers) == (kind in ("empty", "0xff", "zeros")), "what is no file is not read at all"
    assert "takes too" not in one_sentence(capsys, names="weights"), "no reader met its bounds of time and memory"
    assert not list((tmp_path / "home").glob("extractors/*"))


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_no_layout_has_a_way_of_its_own(layout: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights")
    arguments = ["--as", layout, "--name", "mine", "--out", str(tmp_path / "home")]
    assert cli.main(["convert", str(tmp_path / "weights"), *arguments]) == cli.USAGE


READERS = {
    "crashes": ("import os\n    os.abort()", "SIGABRT"),
    "ends": ("import os\n    os._exit(3)", "code 3"),
    "loops": ("import resource\n    resource.setrlimit(resource.RLIMIT_CPU, (1, 9))\n    while True: pass", "too long"),
    "allocates": ("import numpy\n    return {'a': numpy.ones(1 << 32)}", "too much memory"),
    "recurses": ("return parse(file)", "RecursionError"),
    "exits": ("raise SystemExit('enough')", "enough"),
    "many names": (
        "import numpy\n    return dict.fromkeys(range(300), numpy.ones(1 << 16, 'f4'))",
        "describes weights",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_that_fails_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, says = READERS[name]
    (tmp_path / "hostile_reader.py").write_text(f"def parse(file):\n    {body}\n")
    (tmp_path / "weights").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SourceError, match=says) as error:
        reading.read(tmp_path / "weights", module="hostile_reader", kind="a test file")
    assert str(tmp_path / "weights") in str(error.value)


def test_a_reader_imports_nothing_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    assert tfjs.read(write_tfjs(tmp_path, [({"name": "w"}, np.ones(3, np.float32))]))["w"].shape == (3,)
    assert not (tmp_path / "ran").exists()


# --- TensorFlow.js ------------------------------------------------------------------------------------------------


def manifest(folder: Path, paths: list[object], shape: list[object]) -> Path:
    weights = [{"name": "w", "shape": shape, "dtype": "float32"}]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": paths, "weights": weights}]}))
    return folder / "model.json"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder whose files are a model's, beside one whose are not."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    folder = tmp_path / "bundle"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "own.bin").write_bytes(SECRET)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "inside.bin").symlink_to(folder / "sub" / "own.bin")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.bin")
    return folder


PLACES = ["/etc/passwd", "../secret.bin", "sub/../../secret.bin", "link.bin", "inside.bin", "up/secret.bin", "pipe.bin",
          "sub", "", ".", "..", "gone.bin", "own\0.bin", "sub/" * 2000]  # fmt: skip


@pytest.mark.parametrize("place", [*PLACES, 7, None, ["sub/own.bin"]])
def test_a_shard_lies_beside_the_model_or_below(bundle: Path, place: object) -> None:
    with pytest.raises(SourceError, match=r"model\.json") as error:
        tfjs.read(manifest(bundle, [place], [6]))
    assert "secretsecret" not in str(error.value)
    assert tfjs.read(manifest(bundle, ["sub/own.bin"], [6]))["w"].shape == (6,)


def test_a_model_may_be_reached_by_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(bundle)
    manifest(bundle, ["sub/own.bin"], [6])
    assert tfjs.read(tmp_path / "here" / "model.json")["w"].shape == (6,)


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 32, 1 << 32], [-6], [-2, -3], [6.5], ["6"], [1] * 60, None, 6])
def test_a_shape_is_checked_before_it_is_made(bundle: Path, shape: object) -> None:
    with pytest.raises(SourceError, match=r"model\.json"):
        tfjs.read(manifest(bundle, ["sub/own.bin"], shape))  # type: ignore[arg-type]


def test_a_shard_is_read_once(bundle: Path) -> None:
    for again in ("sub/own.bin", "./sub/own.bin", "sub//own.bin"):
        with pytest.raises(SourceError, match="twice"):
            tfjs.read(manifest(bundle, ["sub/own.bin", again], [12]))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[]", "null", '{"weightsManifest": 3}', '{"weightsManifest": [{}]}']
)
def test_a_manifest_of_another_form_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(SourceError, match=r"model\.json is not a TensorFlow\.js model") as error:
        tfjs.read(tmp_path / "model.json")
    assert "\n" not in str(error.value)


# --- ONNX ---------------------------------------------------------------------------------------------------------


def onnx_file(path: Path, nodes: list, constants: dict[str, np.ndarray], change: Callable = lambda graph: None) -> Path:
    helper = onnx_package.helper
    graph = helper.make_graph(
        [helper.make_node(*node, **options) for node, options in nodes],
        "g",
        [helper.make_tensor_value_info("x", onnx_package.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx_package.TensorProto.FLOAT, [1])],
        [onnx_package.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    change(graph)
    onnx_package.save(helper.make_model(graph), path)
    return path


CONV = [(("Conv", ["x", "k"], ["y"]), {})]


def outside(location: str, **more: str) -> Callable:
    def change(graph) -> None:
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = tensor.EXTERNAL
        for key, value in {"location": location, **more}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


@pytest.mark.parametrize("read", [onnx.read, onnx_graph.read])
def test_external_data_lies_beside_the_file_or_below(bundle: Path, read: Callable) -> None:
    constants = {"k": np.zeros((1, 1, 2, 2), np.float32)}
    (bundle / "data.bin").write_bytes(bytes(4) + np.arange(4, dtype="<f4").tobytes())
    weights = read(onnx_file(bundle / "a.onnx", CONV, constants, outside("data.bin", offset="4", length="16")))
    value = weights["k"] if isinstance(weights, dict) else weights[0].arrays["kernel"]
    np.testing.assert_array_equal(value.ravel(), range(4))
    for place in ("/etc/passwd", "../secret.bin", "link.bin", "up/secret.bin", "pipe.bin", "gone.bin"):
        with pytest.raises(SourceError, match=r"a\.onnx"):
            read(onnx_file(bundle / "a.onnx", CONV, constants, outside(place)))
    for wrong in ({"offset": "1" * 30}, {"offset": "-4"}, {"length": "1" * 13}, {"length": "-1"}):
        with pytest.raises(SourceError, match=r"a\.onnx"):
            read(onnx_file(bundle / "a.onnx", CONV, constants, outside("data.bin", **wrong)))


def declared(*dims: int) -> Callable:
    def change(graph) -> None:
        graph.initializer[0].dims[:] = dims

    return change


MANY = 400
BIG = np.zeros((1, FLOOR // 256), np.int8)
EXPANDING = {
    "declared": (CONV, {"k": np.zeros(4, np.float32)}, declared(1 << 31, 1 << 31)),
    "negative": (CONV, {"k": np.zeros(4, np.float32)}, declared(-1, 4)),
    "scales over values": (
        [(("DequantizeLinear", ["k", "s"], ["d"]), {"axis": 1}), (("Conv", ["x", "d"], ["y"]), {})],
        {"k": np.zeros((300_000, 1), np.int8), "s": np.ones(300_000, np.float32)},
        lambda graph: None,
    ),
    "long blocks": (
        [
            (("DequantizeLinear", ["k", "s"], ["d"]), {"axis": 0, "block_size": 1 << 40}),
            (("Conv", ["x", "d"], ["y"]), {}),
        ],
        {"k": np.zeros((4, 2), np.int8), "s": np.ones((4, 1), np.float32)},
        lambda graph: None,
    ),
    "again and again": (
        [
            *((("DequantizeLinear", ["k", "s"], [f"d{n}"]), {}) for n in range(MANY)),
            *((("Gemm", ["x", f"d{n}"], [f"y{n}"]), {}) for n in range(MANY)),
        ],
        {"k": BIG, "s": np.ones(1, np.float32)},
        lambda graph: None,
    ),
    "one for many": (
        [(("Gemm", ["x", "k"], [f"y{n}"]), {}) for n in range(3 * MANY)],
        {"k": BIG.astype(np.float32)},
        lambda graph: None,
    ),
    "norm over kernel": (
        [(("Conv", ["x", "k"], ["c"]), {}), (("BatchNormalization", ["c", *"gbmv"], ["y"]), {})],
        {"k": np.zeros((1, 300_000, 1, 1), np.float32)} | {n: np.ones(300_000, np.float32) for n in "gbmv"},
        lambda graph: None,
    ),
    "parts of a norm": (
        [(("BatchNormalization", ["x", *"gbmv"], ["y"]), {})],
        {"g": np.ones((300_000, 1), np.float32)} | {n: np.ones(300_000, np.float32) for n in "bmv"},
        lambda graph: None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPANDING)
def test_an_onnx_file_that_expands_is_refused(name: str, tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "a.onnx", *EXPANDING[name])
    readers = {"one for many": [onnx_graph.read], "norm over kernel": [onnx_graph.read]}
    readers |= {"parts of a norm": [onnx_graph.read], "scales over values": [onnx.read], "long blocks": [onnx.read]}
    for read in readers.get(name, [onnx.read, onnx_graph.read] if name != "again and again" else [onnx.read]):
        with pytest.raises(SourceError, match=r"a\.onnx"):
            read(file)


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul", "PRelu", "BatchNormalization", "Identity"])
def test_a_node_without_its_inputs_is_one_sentence(op: str, tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "a.onnx", [((op, [], []), {})], {"k": np.zeros(0, np.float32)})
    with pytest.raises(SourceError, match=r"a\.onnx is not an ONNX file"):
        onnx_graph.read(file)


def test_the_name_of_an_operation_calls_nothing_else(tmp_path: Path) -> None:
    nodes = [((op, ["k", "k"], ["y"]), {}) for op in ("_Init__", "Source", "Add_Found", "Dense", "_Class__")]
    assert onnx_graph.read(onnx_file(tmp_path / "a.onnx", nodes, {"k": np.zeros(3, np.float32)})) == []


# --- HDF5 ---------------------------------------------------------------------------------------------------------


def keras_file(path: Path, put: Callable) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        file.create_group("conv").attrs["weight_names"] = [b"kernel:0"]
        put(h5py, file, file["conv"])
    return path


def link_layer(h5py, file, layer, link) -> None:
    del file["conv"]
    file["conv"] = link


def virtual(h5py, file, layer) -> None:
    layout = h5py.VirtualLayout((6,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (6,))
    layer.create_virtual_dataset("kernel:0", layout)


HDF5 = {
    "raw data elsewhere": lambda h5, f, g: g.create_dataset("kernel:0", (6,), "f4", external=[("secret.bin", 0, 24)]),
    "external link": lambda h5, f, g: g.__setitem__("kernel:0", h5.ExternalLink("other.h5", "/data")),
    "external link to a layer": lambda h5, f, g: link_layer(h5, f, g, h5.ExternalLink("other.h5", "/")),
    "external link to all": lambda h5, f, g: f.__setitem__("model_weights", h5.ExternalLink("other.h5", "/")),
    "link to itself": lambda h5, f, g: g.__setitem__("kernel:0", h5.SoftLink("/conv/kernel:0")),
    "virtual": virtual,
    "declared": lambda h5, f, g: g.create_dataset("kernel:0", (1 << 40,), "f4", chunks=(1024,)),
    "packed": lambda h5, f, g: g.create_dataset("kernel:0", (1 << 28,), "f4", chunks=(1 << 20,), compression="gzip"),
    "wide chunk": lambda h5, f, g: g.create_dataset("kernel:0", (1,), "f4", chunks=(1 << 28,), maxshape=(None,)),
    "text": lambda h5, f, g: g.create_dataset("kernel:0", data=["a"] * 3),
    "a group": lambda h5, f, g: g.create_group("kernel:0"),
    "missing": lambda h5, f, g: None,
}


@pytest.mark.parametrize("name", HDF5)
def test_a_keras_file_holds_its_weights_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = keras_file(tmp_path / "a.h5", HDF5[name])
    keras_file(tmp_path / "other.h5", lambda h5, f, g: f.__setitem__("data", np.arange(6.0)))
    (tmp_path / "secret.bin").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"a\.h5"):
        keras_h5.read(file)


# --- PyTorch ------------------------------------------------------------------------------------------------------


def torch_archive(path: Path, value: object, *, compression: int = zipfile.ZIP_STORED, twice: str = "") -> Path:
    torch = pytest.importorskip("torch", reason="not installed: tools/test-convert runs this")
    plain = io.BytesIO()
    torch.save(value, plain)
    with zipfile.ZipFile(plain) as archive, zipfile.ZipFile(path, "w", compression) as made:
        for entry in archive.infolist():
            made.writestr(entry.filename, archive.read(entry))
            if twice and entry.filename.endswith(twice):
                with pytest.warns(UserWarning, match="Duplicate"):
                    made.writestr(entry.filename, archive.read(entry))
    return path


def test_a_torch_archive_is_as_torch_writes_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="not installed: tools/test-convert runs this")
    state = {"w": torch.nn.Parameter(torch.ones(3))}
    np.testing.assert_array_equal(torch_file.read(torch_archive(tmp_path / "a.pt", state))["w"], 1)
    with pytest.raises(SourceError, match="compressed"):
        torch_file.read(torch_archive(tmp_path / "a.pt", state, compression=zipfile.ZIP_DEFLATED))
    for entry in ("data.pkl", "data/0"):
        with pytest.raises(SourceError, match="two entries"):
            torch_file.read(torch_archive(tmp_path / "a.pt", state, twice=entry))


def test_a_torch_file_that_expands_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="not installed: tools/test-convert runs this")
    small = torch.zeros(1 << 16)
    states = {
        "one storage": {"w": torch.zeros(1).expand(1 << 20, 1 << 20)},
        "many views": {f"w{n}": small.expand(16, 1 << 16) for n in range(100)},
        "sparse": {"w": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (1 << 40,), check_invariants=True)},
        "meta": {"w": torch.zeros(1 << 40, device="meta")},
    }
    for state in states.values():
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises(SourceError, match=r"a\.pt"):
            torch_file.read(tmp_path / "a.pt")


def test_a_torch_pickle_that_allocates_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="not installed: tools/test-convert runs this")
    (tmp_path / "a.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R.")
    with pytest.raises(SourceError, match=r"a\.pt"):
        torch_file.read(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": [1, 2]}, protocol=2))
    with pytest.raises(SourceError, match=r"a\.pt"):
        torch_file.read(tmp_path / "a.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from test_conversion import SMALL, state_dict

    (tmp_path / "weights.pt").write_bytes(b"weights")
    for value, half, advice in (
        (np.nan, [], "get it again"),
        (np.inf, [], "get it again"),
        (1e6, ["--half"], "--half"),
    ):
        tensors = state_dict()
        tensors["conv1.conv.weight"][0, 0, 0, 0] = value
        monkeypatch.setattr(torch_file, "read", lambda path, tensors=tensors: dict(tensors))
        arguments = [str(tmp_path / "weights.pt"), "--as", SMALL, "--name", "mine", "--out", str(tmp_path / "home")]
        assert cli.main(["convert", *arguments, *half]) == cli.USAGE
        assert advice in one_sentence(capsys, names="weights.pt")


def test_the_documented_way_in_is_the_only_one() -> None:
    """No reader opens a file itself: `parse` gets one, and only `reading` and `source_file` open."""
    folder = Path(reading.__file__).parent
    opening = textwrap.dedent("""
        open(
        .read_bytes(
        .read_text(
        torch.load(path
        h5py.File(path
        onnx.load(str
    """).split("\n")[1:-1]
    for module in folder.glob("*.py"):
        if module.name not in ("reading.py", "source_file.py"):
            assert not [words for words in opening if words in module.read_text()], module.name
