"""engine.convert from file to extractor: layouts, maps, folding, readers, `cloak convert`; extractors of others."""

from __future__ import annotations

import json
import os
import runpy
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import h5py
import jax
import numpy as np
import onnx
import pytest
from flax import nnx

from engine import checkpoint, cli, extractors
from engine.convert import conversion, keras_h5, layouts, modules, onnx_graph, torch_file
from engine.extractors import converted, registry
from engine.extractors.iresnet import IResNet
from engine.extractors.weight_map import resolve, weight_map

MAPPED = [name for name, layout in layouts.LAYOUTS.items() if layout.weight_map is not None]
SMALL = "mobilefacenet/frbench"
TORCH = "not installed: tools/test-convert runs this"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAWKES_ENGINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# --- layouts and maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPPED)
def test_every_map_names_every_parameter_once(name: str) -> None:
    layout = layouts.find(name)
    _, shapes = registry.abstract(registry.network(layout.network, layout.options))
    parameters = checkpoint.flatten(shapes)
    mapping = resolve(weight_map(layout.weight_map or ""), parameters)
    assert sorted(mapping.values()) == sorted(parameters)


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_every_layout_makes_an_embedding_of_its_input(name: str) -> None:
    layout = layouts.find(name)
    build = registry.network(layout.network, layout.options)
    assert conversion.embedding_length(build, layout.spec.size) in (128, 192, 256, 512, 1024)


def test_an_unknown_layout_lists_all_of_them() -> None:
    with pytest.raises(ValueError, match="no layout named") as error:
        layouts.find("resnet50/paper")
    assert all(name in str(error.value) for name in layouts.LAYOUTS)


def test_every_layout_is_proven() -> None:
    """benchmarks/results/converters.json, by tools/prove_converters.py."""
    results = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "converters.json"
    proven = json.loads(results.read_text())
    assert set(proven) == set(layouts.LAYOUTS)
    for name, proofs in proven.items():
        assert proofs, name
        assert all(proof["max_abs_difference"] < 1e-5 for proof in proofs), name


def test_a_star_stands_for_the_same_part_on_both_sides() -> None:
    mapping = resolve({"a.*.b/*": "x/*/y/*", "c": "z"}, ["x/0/y/kernel", "x/12/y/bias", "x/0/0/y/kernel", "z"])
    assert mapping == {"a.0.b/kernel": "x/0/y/kernel", "a.12.b/bias": "x/12/y/bias", "c": "z"}


# --- folding ------------------------------------------------------------------------------------------------------


def statistics(rng: np.random.Generator, channels: int) -> dict[str, np.ndarray]:
    names = ("weight", "bias", "running_mean")
    drawn = {name: rng.normal(size=channels).astype(np.float32) for name in names}
    return drawn | {"running_var": rng.uniform(0.1, 2, channels).astype(np.float32)}


def normed(x: np.ndarray, s: dict[str, np.ndarray], *, epsilon: float) -> np.ndarray:
    return (x - s["running_mean"]) / np.sqrt(s["running_var"] + epsilon) * s["weight"] + s["bias"]


def test_batch_norms_on_both_sides_of_a_dense_layer_are_folded_into_it() -> None:
    rng = np.random.default_rng(0)
    before, after = statistics(rng, 3), statistics(rng, 5)
    matrix, x = rng.normal(size=(5, 3 * 4)).astype(np.float32), rng.normal(size=(2, 2, 3)).astype(np.float32)
    tensors = {"fc.weight": matrix}
    tensors |= {f"{n}.{k}": v for n, s in (("b", before), ("a", after)) for k, v in s.items()}
    layers = modules.from_torch(tensors, epsilon=0.01, flattened={"fc": [2, 2]})
    folded = modules.fold(layers, after={"fc": "a"}, before={"fc": "b"})
    assert list(folded) == ["fc"]
    ours = np.einsum("hwi,hwio->o", x, folded["fc"]["kernel"]) + folded["fc"]["bias"]
    flat = normed(x, before, epsilon=0.01).transpose(2, 0, 1).reshape(-1)  # channels first, as torch flattens
    np.testing.assert_allclose(ours, normed(matrix @ flat, after, epsilon=0.01), rtol=1e-4, atol=1e-4)


def test_a_grouped_kernel_becomes_a_full_one() -> None:
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(1, 1, 2, 6)), rng.normal(size=6)  # three groups: two channels in, two out
    full = modules.fit(kernel, (1, 1, 6, 6))
    expected = np.concatenate([x[2 * n : 2 * n + 2] @ kernel[0, 0, :, 2 * n : 2 * n + 2] for n in range(3)])
    np.testing.assert_allclose(x @ full[0, 0], expected)


def test_channels_with_deviations_of_their_own_see_one_scale() -> None:
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(1, 1, 3, 4)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    scaled = modules.scale_input({"c": {"kernel": kernel}}, {"c": [2.0, 3.0, 4.0]}, scale=5.0)["c"]["kernel"]
    np.testing.assert_allclose(x / 5 @ scaled[0, 0], x / np.array([2, 3, 4]) @ kernel[0, 0], rtol=1e-5)


# --- readers ------------------------------------------------------------------------------------------------------


def test_a_torch_state_dict_is_read_without_its_wrappers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=TORCH)
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"module.fc.weight": weight.half(), "module.bn.num_batches_tracked": torch.tensor(3)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.pt")
    tensors = torch_file.read(tmp_path / "a.pt")
    assert list(tensors) == ["fc.weight"]
    assert tensors["fc.weight"].dtype == np.float32
    np.testing.assert_array_equal(tensors["fc.weight"], weight.numpy())


def test_a_torch_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason=TORCH)

    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Attack()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="without running code"):
        torch_file.read(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_a_keras_file_is_read_by_variable(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"conv1/conv", b"relu"]
        root.create_group("relu").attrs["weight_names"] = np.array([], "S")
        layer = root.create_group("conv1/conv")
        layer.attrs["weight_names"] = [b"conv1/conv/kernel:0"]
        layer["conv1/conv/kernel:0"] = np.ones((3, 3, 3, 8), np.float32)
    tensors = keras_h5.read(tmp_path / "a.h5")
    assert {name: value.shape for name, value in tensors.items()} == {"conv1/conv/kernel": (3, 3, 3, 8)}


@pytest.mark.parametrize(
    ("module", "read", "data"),
    [("torch", torch_file.read, b"no"), ("h5py", keras_h5.read, b"no"), ("onnx", onnx_graph.read, b"no \xff file")],
)
def test_what_is_no_such_file_is_a_value_error(tmp_path: Path, module: str, read, data: bytes) -> None:
    if module == "torch":
        pytest.importorskip("torch", reason=TORCH)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read(tmp_path / "a")


def test_an_onnx_graph_gives_its_weights_in_order_and_folded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    norm, before = statistics(rng, 4), statistics(rng, 4)
    constants = {
        "k": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "m": rng.normal(size=(6, 16)).astype(np.float32),
        "z": rng.normal(size=6).astype(np.float32),
        "s": np.full((4, 1, 1), 0.25, np.float32),
    }
    constants |= {f"{n}_{k}": v for n, s in (("n", norm), ("b", before)) for k, v in s.items()}
    node = onnx.helper.make_node
    stats = ("weight", "bias", "running_mean", "running_var")
    nodes = [
        node("Conv", ["x", "k"], ["c"]),
        node("BatchNormalization", ["c", *(f"n_{s}" for s in stats)], ["n"], epsilon=0.01),
        node("PRelu", ["n", "s"], ["p"]),
        node("BatchNormalization", ["p", *(f"b_{s}" for s in stats)], ["b"], epsilon=0.01),
        node("Flatten", ["b"], ["f"]),
        node("Gemm", ["f", "m", "z"], ["y"], transB=1),
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph_input = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 2, 2])
    made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 6])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [graph_input], [made], tensors)), tmp_path / "a.onnx"
    )

    conv, prelu, dense = onnx_graph.read(tmp_path / "a.onnx")
    assert [conv.kind, prelu.kind, dense.kind] == ["kernel", "slope", "kernel"]
    x = rng.normal(size=(2, 2, 3)).astype(np.float32)
    hidden = x @ conv.arrays["kernel"][0, 0] + conv.arrays["bias"]
    np.testing.assert_allclose(hidden, normed(x @ constants["k"][:, :, 0, 0].T, norm, epsilon=0.01), atol=1e-4)
    flat = hidden.transpose(2, 0, 1).reshape(-1)
    expected = constants["m"] @ normed(hidden, before, epsilon=0.01).transpose(2, 0, 1).reshape(-1) + constants["z"]
    np.testing.assert_allclose(flat @ dense.arrays["kernel"] + dense.arrays["bias"], expected, atol=1e-4)


# --- from file to extractor ---------------------------------------------------------------------------------------


def state_dict(dim: int = 64) -> dict[str, np.ndarray]:
    """A random MobileFaceNet under frbench's names, made by reading its map backwards."""
    layout = layouts.find(SMALL)
    _, shapes = registry.abstract(registry.network(layout.network, {**layout.options, "dim": dim}))
    parameters = checkpoint.flatten(shapes)
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for source, path in resolve(weight_map(layout.weight_map or ""), parameters).items():
        name, kind = source.split("/")
        value = (rng.normal(size=parameters[path].shape) / 8).astype(np.float32)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 3:
            value = value.transpose(2, 0, 1)[:, None]
        tensors[f"{name}.{'bias' if kind == 'bias' else 'weight'}"] = value
    tensors["output_layer.fc.weight"] = tensors["output_layer.fc.weight"][:, :, 0, 0]
    return tensors


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of SMALL; its reader is replaced, so that torch is not needed."""
    tensors = state_dict()
    monkeypatch.setattr(torch_file, "read", lambda path: dict(tensors))
    (tmp_path / "weights.pt").write_bytes(b"weights")
    return tmp_path / "weights.pt"


def run(*arguments: object) -> int:
    return cli.main(["convert", *map(str, arguments)])


def test_a_converted_extractor_is_one_like_any_other(source: Path, home: Path, capsys) -> None:
    assert run(source, "--as", SMALL, "--name", "mine", "--licence", "MIT") == cli.OK
    assert str(home) in capsys.readouterr().out
    card = tomllib.loads((home / "extractors" / "mine" / "card.toml").read_text())
    shipped = checkpoint.manifest()["extractors"]["mobilefacenet-192"]
    assert set(shipped) - set(card) <= {"metric", "licence_note"}
    assert (card["licence"], card["source"], card["dim"]) == ("MIT", "weights.pt", 64)
    assert str(home.parent) not in (home / "extractors" / "mine" / "card.toml").read_text()

    assert "mine" in extractors.available()
    extractor = extractors.load("mine")
    assert (extractor.dim, extractor.weights_sha256) == (64, card["sha256"])
    kernel = state_dict()["conv1.conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(extractor.params["stem"]["kernel"], kernel)  # float32: nothing is rounded
    canvas = jax.random.uniform(jax.random.key(0), (1, 176, 176, 3))
    assert extractors.embed_batch(extractor, canvas).shape == (1, 64)

    assert cli.main(["models", "--json"]) == cli.OK
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["mine"]["licence"] == "MIT"
    assert rows["mine"]["megabytes"] > 1
    assert cli.main(["models"]) == cli.OK
    assert "mine: " in capsys.readouterr().out
    assert cli.main(["models", "mine"]) == cli.OK
    assert "weights.pt" in capsys.readouterr().out


def test_a_name_that_is_taken_is_not_overwritten(source: Path, home: Path, capsys) -> None:
    assert run(source, "--as", SMALL, "--name", "mine") == cli.OK
    first = extractors.load("mine").weights_sha256
    assert run(source, "--as", SMALL, "--name", "mine", "--half") == cli.USAGE
    assert "--replace" in capsys.readouterr().err
    assert run(source, "--as", SMALL, "--name", "mine", "--half", "--replace") == cli.OK
    assert extractors.load("mine").weights_sha256 != first
    for name in ("web-incept", "../up", "a,b", ""):
        assert run(source, "--as", SMALL, "--name", name, "--replace") == cli.USAGE
    assert [path.name for path in (home / "extractors").iterdir()] == ["mine"]


def test_out_is_another_home(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(source, "--as", SMALL, "--name", "mine", "--out", tmp_path / "other") == cli.OK
    assert "mine" not in extractors.available()
    monkeypatch.setenv("FAWKES_ENGINE_HOME", str(tmp_path / "other"))
    assert "mine" in extractors.available()


def test_weights_that_do_not_fit_are_one_message_and_leave_nothing(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    tensors = state_dict()
    del tensors["conv1.conv.weight"]
    tensors["stray.weight"] = np.zeros((2, 2), np.float32)
    tensors["conv_6_sep.prelu.weight"] = np.zeros(3, np.float32)
    monkeypatch.setattr(torch_file, "read", lambda path: dict(tensors))
    assert run(source, "--as", SMALL, "--name", "mine") == cli.USAGE
    message = capsys.readouterr().err
    for part in ("missing in the source: conv1.conv/kernel", "stray/kernel (2, 2)", "shape of head_prelu/slope"):
        assert part in message
    assert not list(home.glob("extractors/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["gone.pt", "--as", SMALL, "--name", "mine"],
        ["gone.pt", "--as", "resnet/paper", "--name", "mine"],
        ["gone.pt", "--as", SMALL],
    ],
)
def test_mistakes_are_exit_2(arguments: list[str], capsys) -> None:
    assert run(*arguments) == cli.USAGE
    assert capsys.readouterr().err


def test_list_has_a_line_for_every_layout(capsys) -> None:
    assert run("--list") == cli.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(layouts.LAYOUTS)


def test_a_damaged_card_says_so(home: Path, capsys) -> None:
    (home / "extractors" / "bad").mkdir(parents=True)
    (home / "extractors" / "bad" / "card.toml").write_text("path = ")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        converted.cards()
    assert cli.main(["models"]) == cli.USAGE
    assert "damaged" in capsys.readouterr().err


GOOD = {
    "network": '"mobilefacenet"',
    "path": '"weights"',
    "sha256": '"0"',
    "dim": "192",
    "robust": "false",
    "description": '"mine"',
    "licence": '"unknown"',
    "source": '"mine.pt"',
    "input": "{size = 112, window = [32.0, 144.0], mean = [127.5, 127.5, 127.5], scale = 128.0, bgr = false}",
}
DAMAGE: dict[str, str | bytes | dict[str, str | None]] = {
    "no TOML": "path = ",
    "not UTF-8": b"\xff\xfe",
    "nested": "a = " + "[" * 100_000,
    "large": "#" * (1 << 21),
    "path": {"path": "3"},
    "no path": {"path": None},
    "network": {"network": "[1]"},
    "dim": {"dim": "0"},
    "true dim": {"dim": "true"},
    "huge dim": {"dim": "1000000000"},
    "hash": {"sha256": "1"},
    "robust": {"robust": '"no"'},
    "input": {"input": "3"},
    "size": {"input": '{size = "a"}'},
    "window": {"input": GOOD["input"].replace("144.0", "nan")},
    "mean": {"input": GOOD["input"].replace("127.5, 127.5, 127.5", "127.5")},
    "scale": {"input": GOOD["input"].replace("128.0", "inf")},
    "options": {"options": "[]"},
    "training": {"training": "{cosine = 1.0}"},
    "parents": {"trained_from": "[1]"},
}


def damage(home: Path, name: str, text: str | bytes | dict[str, str | None]) -> None:
    folder = home / "extractors" / name
    folder.mkdir(parents=True)
    if isinstance(text, dict):
        text = "".join(f"{key} = {value}\n" for key, value in (GOOD | text).items() if value is not None)
    (folder / "card.toml").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_card_concerns_only_who_asks_for_it(name: str, home: Path, capsys) -> None:
    damage(home, "bad", DAMAGE[name])
    assert "bad" not in extractors.available()
    assert registry.find("web-incept").dim == 512
    for ask in (extractors.load, extractors.card, registry.about):
        with pytest.raises(checkpoint.CheckpointError, match=r"bad/card\.toml is damaged .*convert"):
            ask("bad")
    assert cli.main(["models", "bad"]) == cli.USAGE
    assert cli.main(["models"]) == cli.USAGE
    told = capsys.readouterr()
    assert "bad/card.toml is damaged" in told.err
    assert "web-incept: " in told.out, "the others are listed"


def test_a_card_that_is_a_pipe_is_damaged(home: Path) -> None:
    (home / "extractors" / "bad").mkdir(parents=True)
    os.mkfifo(home / "extractors" / "bad" / "card.toml")
    assert [*registry.damaged()] == ["bad"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": '"registry"'}, "no network named"),
        ({"network": '"../x"'}, "no network named"),
        ({"network": '"nosuch"'}, "no network named"),
        ({"options": "{nosuch = 1}"}, "cannot be built"),
        ({"dim": "191"}, "cannot be built"),
        ({}, "no checkpoint at"),
    ],
)
def test_a_card_that_describes_nothing_is_one_sentence(change: dict[str, str | None], said: str, home: Path) -> None:
    damage(home, "odd", change)
    with pytest.raises(checkpoint.CheckpointError, match=said):
        extractors.load("odd")


# --- extractors of other packages ---------------------------------------------------------------------------------


def example() -> tuple[str, str]:
    """The module and the lines of pyproject.toml in the docstring of engine.extractors."""
    text = extractors.__doc__ or ""
    module, _, project = text.partition("and in its pyproject.toml\n")
    return textwrap.dedent(module.partition("A complete one:\n")[2]), textwrap.dedent(project.partition("Without")[0])


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example, installed: a module and its dist-info on the path, and an entry point that is wrong."""
    module, project = example()
    ((group, points),) = tomllib.loads(project)["project"]["entry-points"].items()
    information = tmp_path / "site" / "my_faces-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-faces\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (information / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "site" / "my_faces.py").write_text(module)
    runpy.run_path(str(tmp_path / "site" / "my_faces.py"), run_name="__main__")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path / "site"
    sys.modules.pop("my_faces", None)


def test_the_documented_example_is_an_extractor_once_it_is_installed(package: Path, capsys) -> None:
    capsys.readouterr()
    assert "my-faces" in extractors.available()
    extractor = extractors.load("my-faces")
    canvases = jax.random.uniform(jax.random.key(0), (2, 176, 176, 3))
    embeddings = extractors.embed_batch(extractor, canvases)
    assert embeddings.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-4
    with pytest.raises(ValueError, match="registered already"):
        extractors.register("my-faces", registry.find("my-faces"))

    assert cli.main(["models", "--json"]) == cli.OK
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["my-faces"]["dim"], rows["my-faces"]["source"]) == (32, "my_faces")


def test_an_entry_point_that_is_no_extractor_says_so(package: Path) -> None:
    with (package / "my_faces-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("\nbroken = my_faces:WEIGHTS\n")
    with pytest.raises(ValueError, match=r"broken.*must be an engine.extractors.Entry"):
        extractors.load("broken")


def test_networks_may_be_built_with_random_weights() -> None:
    build = registry.network("iresnet", {"depth": 18, "se": True})
    network = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    assert isinstance(network, IResNet)
    assert network.stages[0][0].shortcut is None
    with pytest.raises(ValueError, match="no network named"):
        registry.network("layers", {})
