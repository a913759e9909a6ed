"""The two wheels: what each takes along, and what a network says whose weights are not installed."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY
from hatchling.build import build_editable
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from PIL import Image
from test_readme import documented

import engine
from engine import checkpoint, cli, extractors
from engine.bulk import people, verify
from engine.bulk.dependencies import dependencies
from engine.config import Recipe
from engine.evaluate.presets.catalogue import PRESETS
from engine.evaluate.recognisers import ExtractorRecogniser
from engine.extractors import registry

ZOO = REPOSITORY / "checkpoints"
MAIN, WEIGHTS = "fawkes-engine", "fawkes-engine-weights"
NETWORKS = checkpoint.manifest()["extractors"]
ELSEWHERE = sorted(name for name, table in NETWORKS.items() if "package" in table)
MOST = 100e6
"""Bytes of a file that PyPI takes."""


def build_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ZOO / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def share(package: str) -> set[str]:
    return set(build_script().share(package)) - {"manifest.toml"}


def files(name: str) -> set[str]:
    """The files of a checkpoint, relative to the zoo."""
    path = ZOO / name
    below = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(ZOO).as_posix() for file in below}


def size(names: set[str]) -> int:
    return sum((ZOO / file).stat().st_size for name in names for file in files(name))


def metadata(folder: Path) -> ProjectMetadata:
    return ProjectMetadata(str(folder), PluginManager())


def test_every_checkpoint_is_in_one_of_the_two_wheels() -> None:
    there = {path.name for path in ZOO.iterdir() if path.suffix == ".onnx" or (path / "_METADATA").is_file()}
    assert share(MAIN) | share(WEIGHTS) == there
    assert not share(MAIN) & share(WEIGHTS)
    assert {table["package"] for table in NETWORKS.values() if "package" in table} == {WEIGHTS}


def test_what_every_call_needs_is_in_the_main_wheel() -> None:
    always = {people.EXTRACTOR, *Recipe().names, *(name for name, table in NETWORKS.items() if table["robust"])}
    assert {"manifest.toml", "yunet.onnx", "yunet", "population", *always} == set(build_script().share(MAIN))


def test_the_weights_fit_into_wheels_that_an_index_takes() -> None:
    assert 0 < size(share(MAIN)) < 95e6  # the rest of the wheel is below 2 MB
    assert 0 < size(share(WEIGHTS)) < MOST


@pytest.mark.parametrize(
    ("folder", "module"),
    [(REPOSITORY, "engine/__init__.py"), (ZOO, "checkpoints/fawkes_engine_weights/__init__.py")],
    ids=[MAIN, WEIGHTS],
)
def test_the_package_and_its_distribution_have_one_version(folder: Path, module: str) -> None:
    assert "version" not in tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (said,) = re.findall(r'^__version__ = "(.*)"$', (REPOSITORY / module).read_text(), re.MULTILINE)
    assert metadata(folder).version == said
    if folder == REPOSITORY:
        assert said == engine.__version__


def test_the_weights_are_under_the_licences_that_the_manifest_names() -> None:
    said = set(metadata(ZOO).core.license_expression.split(" AND "))
    assert said == {NETWORKS[name]["licence"] for name in ELSEWHERE}
    assert said == set(metadata(REPOSITORY).core.license_expression.split(" AND "))


def test_the_notices_name_every_network_under_its_licence() -> None:
    notices, mit, apache = (ZOO / "LICENCES").read_text().split("-" * 80)
    assert "Permission is hereby granted, free of charge" in mit
    assert apache.strip() == (REPOSITORY / "LICENSE").read_text().strip()
    listed = {}
    for block in re.split(r"\n(?=\S)", notices):
        for name in re.findall(r"^  (\S+)  ", block, re.MULTILINE):
            listed[name] = block.split()[0]
    expected = {name: table["licence"].removesuffix("-1.0") for name, table in NETWORKS.items() if not table["robust"]}
    assert listed == expected | {"yunet.onnx": "MIT"}
    assert all(NETWORKS[table["source"].split()[1]]["licence"] == table["licence"] for table in robust_ones())
    for folder, name in ((REPOSITORY, "checkpoints/LICENCES"), (ZOO, "LICENCES")):
        assert name in metadata(folder).core.license_files


def robust_ones() -> list[dict[str, str]]:
    return [table for table in NETWORKS.values() if table["robust"]]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by the names of their distributions."""
    built = {}
    for name, source in ((MAIN, REPOSITORY), (WEIGHTS, ZOO)):
        out = tmp_path_factory.mktemp(name)
        (kind,) = documented("python -m hatchling build ")
        command = [sys.executable, "-m", "hatchling", "build", *kind, "-d", str(out)]
        subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=200)
        (built[name],) = out.iterdir()
    return built


@pytest.mark.slow
def test_the_weights_wheel_has_its_networks_and_their_licences(wheels: dict[str, Path]) -> None:
    assert wheels[WEIGHTS].stat().st_size < MOST
    with zipfile.ZipFile(wheels[WEIGHTS]) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    weights = {file for name in build_script().share(WEIGHTS) for file in files(name)}
    code = {name for name in names if ".dist-info/" not in name}
    assert code == {f"fawkes_engine_weights/{file}" for file in weights | {"__init__.py"}}
    assert any(name.endswith(".dist-info/licenses/LICENCES") for name in names)


@pytest.mark.slow
def test_both_wheels_work_as_installed(wheels: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONSAFEPATH": "1"}

    def call(*command: object) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(sys.executable, "-m", "venv", "--without-pip", "venv")
    pip = [sys.executable, "-m", "pip", "--python", python, "--isolated", "--disable-pip-version-check"]
    call(*pip, "install", "--no-deps", "--no-index", "--no-compile", *wheels.values())
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # The dependencies are those of the tests. They come last, and without the .pth file of an editable engine there,
    # which Python reads in its own site-packages alone.
    folders = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(folders))
    loads = "import engine, engine.extractors as e; print(engine.__file__, e.load('sface').weights_sha256, sep='\\n')"
    assert call(python, "-c", loads).split("\n")[:2] == [
        str(site / "engine" / "__init__.py"),
        NETWORKS["sface"]["sha256"],
    ]
    cloak = python.parent / "cloak"
    models = call(cloak, "models")
    assert all(name in models for name in NETWORKS)
    assert "not installed" not in models
    presets = call(cloak, "evaluate", "--list")
    assert all(name in presets for name in PRESETS)
    arguments = ["--out", "out", "--extractors", "mobilefacenet-192-robust", "--steps", 1]
    call(cloak, "run", photos / "obama.jpg", *arguments)
    with Image.open(tmp_path / "out" / "obama.jpg") as cloaked, Image.open(photos / "obama.jpg") as original:
        assert cloaked.size == original.size
        assert cloaked.tobytes() != original.tobytes()


@pytest.mark.slow
def test_the_main_wheel_has_all_that_the_command_needs(wheels: dict[str, Path]) -> None:
    assert wheels[MAIN].stat().st_size < MOST
    with zipfile.ZipFile(wheels[MAIN]) as archive:
        names = archive.namelist()
        (information,) = (name.removesuffix("METADATA") for name in names if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(information + "METADATA"))
        entry_points = archive.read(information + "entry_points.txt").decode()
    source = (path.relative_to(REPOSITORY) for path in (REPOSITORY / "engine").rglob("*") if path.is_file())
    code = {path.as_posix() for path in source if "__pycache__" not in path.parts}
    weights = {f"engine/checkpoints/{file}" for name in build_script().share(MAIN) for file in files(name)}
    assert {name for name in names if not name.startswith(information)} == code | weights
    assert len(names) == len(set(names))
    assert {"engine/py.typed", "engine/evaluate/human.cjs", "engine/templates/report.html.jinja"} <= code
    assert "engine/extractors/weight_maps/web-incept.toml" in code
    assert "engine/checkpoints/yunet.onnx" in weights
    assert {f"{information}licenses/{name}" for name in ("LICENSE", "checkpoints/LICENCES")} <= set(names)
    assert (about["Name"], about["Version"]) == (MAIN, engine.__version__)
    assert entry_points.split() == ["[console_scripts]", "cloak", "=", "engine.__main__:main"]


def test_an_editable_install_copies_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with zipfile.ZipFile(tmp_path / build_editable(str(tmp_path))) as archive:
        assert {Path(name).suffix for name in archive.namelist() if ".dist-info/" not in name} == {".pth"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine as it is with the main wheel alone; the folder of its checkpoints."""
    inside = tmp_path / "site" / "engine" / "checkpoints"
    inside.mkdir(parents=True)
    for name in build_script().share(MAIN):
        (inside / name).symlink_to(ZOO / name)
    monkeypatch.setattr(checkpoint, "root", lambda: inside)
    return inside


def install_weights(installed: Path, monkeypatch: pytest.MonkeyPatch, *, without: str | None = None) -> Path:
    package = installed.parents[1] / "fawkes_engine_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in share(WEIGHTS) - {without}:
        (package / name).symlink_to(ZOO / name)
    monkeypatch.syspath_prepend(package.parent)
    return package


def sentence(name: str, how: str = "") -> str:
    return f"the weights of {name} are not installed: pip install {how}fawkes-engine-weights"


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize(
    "use",
    [
        extractors.load,
        lambda name: dependencies(Recipe(extractors=(name,))),
        lambda name: ExtractorRecogniser(name, None),  # type: ignore[arg-type]
    ],
    ids=["load", "dependencies", "recogniser"],
)
def test_a_network_that_is_not_installed_says_so(installed: Path, name: str, use: Callable[[str], object]) -> None:
    with pytest.raises(checkpoint.CheckpointError) as error:
        use(name)
    assert str(error.value) == sentence(name)


def test_the_other_networks_work_without_the_weights_package(installed: Path) -> None:
    assert set(registry.missing()) == set(ELSEWHERE)
    assert extractors.load(people.EXTRACTOR).weights_sha256 == NETWORKS[people.EXTRACTOR]["sha256"]
    names = Recipe().names
    assert set(dependencies(Recipe(objective="target"))["weights"]) == set(names)
    assert len(people.bank(names)) == len(names)


def test_the_weights_package_brings_the_rest(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = install_weights(installed, monkeypatch)
    assert registry.missing() == {}
    assert registry.find("mobileface").path == package / "mobileface"
    assert registry.find(people.EXTRACTOR).path == installed / people.EXTRACTOR
    assert extractors.load("mobileface").weights_sha256 == NETWORKS["mobileface"]["sha256"]
    assert registry.about("mobileface")["megabytes"] == pytest.approx(size({"mobileface"}) / 1e6)


def test_an_older_weights_package_is_to_be_upgraded(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_weights(installed, monkeypatch, without="sface")
    assert registry.missing() == {"sface": sentence("sface", "--upgrade ")}


def test_a_clone_has_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fawkes_engine_weights" / "sface").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.missing() == {}
    assert registry.find("sface").path == ZOO / "sface"


def test_models_lists_what_is_not_installed(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == cli.OK
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out) if row["name"] in NETWORKS}
    assert rows.keys() == NETWORKS.keys()
    assert [name for name, row in sorted(rows.items()) if not row["installed"]] == ELSEWHERE
    assert {row["megabytes"] for row in rows.values() if not row["installed"]} == {None}
    assert cli.main(["models"]) == cli.OK
    listed = capsys.readouterr().out
    assert listed.count("px, not installed (pip install fawkes-engine-weights), ") == len(ELSEWHERE)
    assert cli.main(["models", "sface"]) == cli.OK
    assert "9,629,632 parameters, not installed (pip install fawkes-engine-weights)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "IN", "--out", "OUT", "--extractors", "mobilefacenet-192-robust,sface"],
        ["evaluate", "IN", "--out", "OUT", "--extractors", "sface"],
        ["bench", "--extractors", "sface", "--only", "compile"],
        ["train-robust", "sface", "--data", "IN", "--out", "OUT", "--name", "mine", "--dry-run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_need_it_say_it_and_begin_nothing(
    arguments: list[str], installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in ("ann", "bob"):
        (tmp_path / "IN" / person).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "IN" / person / f"{number}.png")
    places = {"IN": str(tmp_path / "IN"), "OUT": str(tmp_path / "OUT")}
    assert cli.main([places.get(word, word) for word in arguments]) == cli.USAGE
    captured = capsys.readouterr()
    assert captured.err.strip() == f"cloak: {sentence('sface')}"
    assert not (tmp_path / "OUT").exists()


def test_verify_measures_by_what_is_installed_and_names_the_rest(
    installed: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "available", lambda: (people.EXTRACTOR, "sface"))  # the others are as slow as many
    photo = str(photos / "astronaut.png")
    assert cli.main(["verify", photo, photo, "--json"]) == cli.FAILED  # both show the same pixels
    report = json.loads(capsys.readouterr().out)
    assert report["faces"][0]["shift"] == {people.EXTRACTOR: 0}
    assert report["missing"] == {name: sentence(name) for name in ELSEWHERE}
    assert cli.main(["verify", photo, photo]) == cli.FAILED
    assert f"not installed (see `cloak models`): {', '.join(ELSEWHERE)}\n" in capsys.readouterr().out
