"""The commands and the Python of the READMEs, run as a reader would, with small photos and networks.

What cannot run here is in NOT_RUN with its reason. All else is run, so a new command is in one of the two.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import test_dlib_dat
import tiny_cloak
import tiny_package
import tiny_robust
from conftest import REPOSITORY
from PIL import Image
from test_readme import PAGES, blocks, in_blocks, in_sentences

import engine
from engine import Cloaked, Cloaker, Encoded, Recipe, cli
from engine.bulk import budget, verify
from engine.config import Mode
from engine.evaluate import study

pytestmark = pytest.mark.usefixtures("quick_compiles")

DEVICES = 1

NOT_RUN = {
    "runs these tests": ("tools/test", ".ci/run", "NEW/bin/python -m pytest"),
    "downloads": ("curl ", "pip install ", "NEW/bin/pip ", "tools/lock", "python tools/convert_weights.py "),
    "reads what is to be downloaded": ("cloak convert 2018", "cloak convert low_extract.h5 "),
    "needs another Python": ("python3.13 ",),
    "marks a release": ("git tag ",),
    "names a preset alone, without people": ("cloak evaluate --presets ",),
    "needs people of LFW": (
        "cloak evaluate LFW ", "cloak evaluate-extractor NAME LFW ", "python tools/make_population.py LFW ",
        "python tools/golden_embeddings.py --check LFW", "python tools/golden_dlib_chips.py --check LFW",
    ),
    "needs torch and other libraries of networks": ("python tools/prove_converters.py",),
    "makes the goldens of other tests anew": ("python tools/golden_cloaks.py",),
    "trains for hours": ("cloak train-robust mobilefacenet-192 ",),
    "disturbs runs for minutes; tests/test_faults.py does a part": ("python tools/faults.py",),
    "measures for minutes to hours, in part LFW, other programs or other checkouts": (
        "cloak run FOLDER/12.00 ", "cloak bench --only ", "time tools/cloak run tests/photos/obama.jpg ",
        *(
            f"python benchmarks/{name}.py"
            for name in (
                "accelerator", "compare", "detection", "example", "extractors", "host", "identity", "jpeg", "layers",
                "memory", "pipeline", "recipe", "roofline", "scale", "service", "slots", "start", "steps", "training",
                "transfer", "visibility", "warm_start",
            )
        ),
    ),
}  # fmt: skip
"""By reason the beginnings of commands. "python tools/faults.py --help" and its like are run all the same."""

ELSEWHERE = {
    "python examples/ray_parquet.py ": "test_ray_data.py",
    "python examples/ray_webdataset.py ": "test_ray_data.py",
    "python examples/ray_folder.py ": "test_ray_data.py",
    "cloak run album --out cloaked --runner ": "test_ray_runner.py",
    "python -m hatchling build ": "test_wheel.py",
}
"""By beginning the tests that take these commands from the page, by `test_readme.documented`, and run them."""

FILLED = {
    r"\bPHOTOS\b(\.\.\.)?": "album",
    r"\bFACES\b": "faces",
    r"\bDIR\b": "out",
    r"\bEXTRACTOR\b": tiny_robust.NAME,
    r"\bmodels NAME\b": "models sface",
    r"\bNAME\b": "mine",
    r"\bLAYOUT\b": "resnet29/dlib",
    r"\bSOURCE\b": "weights.pt",
    r"--inputs \d+": "--inputs 20",
}
"""By placeholder what stands for it here. The last is smaller than on the pages."""

SOLVED = {"--extractors": "tiny", "--steps": "2", "--batch": "2"}
LESS = {
    "cloak run": SOLVED,
    "tools/cloak run": SOLVED,
    "cloak bench": {
        "--extractors": "tiny", "--steps": "2", "--batches": "2", "--devices": "1", "--faces": "2", "--repeats": "1",
        "--only": "solve,photos",
    },
    "cloak evaluate": {
        "--extractors": "tiny", "--recognisers": "tiny", "--steps": "2", "--users": "2", "--photos": "4",
        "--others": "1", "--public": "1", "--presets": "protection",
    },
    "cloak evaluate-extractor": {
        "--against": "tiny", "--recognisers": "tiny", "--users": "2", "--photos": "4", "--others": "1",
    },
    "cloak train-robust": {"--steps": "1", "--batch": "2", "--validation": "2", "--devices": "1"},
}  # fmt: skip
"""By command the options that make it small, those that it does not give itself. All share a batch's programs."""

DRY = (
    "cloak evaluate FACES --out DIR --presets ",
    "cloak evaluate-extractor EXTRACTOR ",
    "cloak run PHOTOS --out DIR --extractors NAME,",
)
"""Commands that are run with --dry-run: they train trackers, or compile a whole network. Tests of their own do that."""

NOTHING_LEFT = {("cloak run album --out cloaked", 2), ("cloak run album --out cloaked --shard 0/4", 1)}
"""Commands that find nothing to do any more, and which of those alike."""


def filled(command: str) -> list[str]:
    """The words of the command with its placeholders filled, and with the options that make it small."""
    text = command
    for placeholder, value in FILLED.items():
        text = re.sub(placeholder, value, text)
    words = shlex.split(text)
    less = LESS.get(" ".join(words[:2]), {})
    words += [word for option, value in less.items() if option not in words for word in (option, value)]
    return [*words, "--dry-run"] if command.startswith(DRY) else words


def runs(command: str) -> bool:
    return command.endswith(" --help") or not command.startswith((*LISTED, *ELSEWHERE))


def planned() -> dict[Path, list[str]]:
    """By page what is run: all of its blocks, and of its sentences what no page has had before."""
    plan: dict[Path, list[str]] = {page: list(filter(runs, in_blocks(page))) for page in PAGES}
    seen = [filled(command) for commands in plan.values() for command in commands]
    for page, commands in plan.items():
        for command in filter(runs, in_sentences(page)):
            if filled(command) not in seen:
                seen.append(filled(command))
                commands.append(command)
    return plan


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


LISTED = [beginning for beginnings in NOT_RUN.values() for beginning in beginnings]
PLANNED = planned()


@pytest.mark.parametrize("beginning", [*LISTED, *ELSEWHERE])
def test_what_is_not_run_here_is_said_somewhere(beginning: str) -> None:
    every = (command for page in PAGES for command in (*in_blocks(page), *in_sentences(page)))
    assert any(command.startswith(beginning) for command in every), "no page says it any more"


@pytest.mark.parametrize("beginning", ELSEWHERE)
def test_what_runs_elsewhere_is_taken_from_the_page(beginning: str) -> None:
    assert f'documented("{beginning}")' in (REPOSITORY / "tests" / ELSEWHERE[beginning]).read_text()


def portraits(folder: Path, photos: Path) -> None:
    """The photos that the pages name, and `faces` with folders of seven people, two of them real."""
    with Image.open(photos / "obama.jpg") as image:
        obama = image.convert("RGB").crop((0, 0, 900, 900)).resize((240, 240))
    with Image.open(photos / "biden.jpg") as image:
        biden = image.convert("RGB").crop((0, 0, image.width, image.width)).resize((240, 240))
    (folder / "album").mkdir()
    people = "me.jpg", "me-2.jpg", "me-3.jpg", "us.png", "alice-1.jpg", "alice-2.jpg", "alice-3.jpg"
    names = *people, "new.jpg", "photo.jpg"
    for angle, name in enumerate(names):
        obama.rotate(angle).save(folder / name)
    shutil.copy(folder / "photo.jpg", folder / "album")
    biden.save(folder / "album" / "friend.jpg")
    for person in range(7):
        photos_of = folder / "faces" / str(person)
        photos_of.mkdir(parents=True)
        for shot in range(4):
            (obama, biden)[person % 2].rotate(2 * person + shot / 2).save(photos_of / f"{shot}.jpg")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[Path]:
    """The extractor "tiny", in this process and in those that it starts, and in `files` all that the pages name."""
    home = tmp_path_factory.mktemp("home")
    (home / "files").mkdir()
    portraits(home / "files", photos)
    test_dlib_dat.written(home / "files", test_dlib_dat.resnet()).rename(home / "files" / "weights.pt")
    tiny_package.install(home)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny_package.environment(home).items():
            patch.setenv(name, value)
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        tiny_cloak.provide(home / "tiny")
        patch.setattr(verify, "available", lambda: ["tiny"])
        patch.setattr(study, "BATCH", 2)
        patch.setattr(budget, "cores", lambda: 1)  # no process helps to compile what is small
        yield home


@pytest.fixture
def clone(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder: a clone in which `tools/env` has nothing to do, with all that the pages name."""
    shutil.copytree(home / "files", tmp_path, dirs_exist_ok=True)
    for path in REPOSITORY.iterdir():
        if path.name in ("benchmarks", "tools"):  # whose files are written, or look for others beside them
            shutil.copytree(path, tmp_path / path.name)
        elif path.name == "README.md":
            shutil.copy(path, tmp_path)
        elif not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(sysconfig.get_path("scripts"))
    stamp = "cat requirements.lock pyproject.toml engine/__init__.py | cksum > .venv/installed"
    subprocess.run(stamp, shell=True, cwd=tmp_path, check=True)
    monkeypatch.setenv("FAWKES_ENGINE_HOME", str(tmp_path / "kept"))
    tiny_robust.provide(tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("engine.extractors.small_network")


def call(words: list[str]) -> int:
    """The exit code. `cloak` and benchmarks, which take long to load, are called in this process."""
    if words[0] == "cloak":
        return cli.main(words[1:])
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
        return cli.OK
    return subprocess.run(words, check=False).returncode


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("page", PLANNED, ids=name_of)
def test_commands_do_what_they_say(page: Path) -> None:
    alike: Counter[str] = Counter()
    for command in PLANNED[page]:
        alike[command] += 1
        words = filled(command)
        code = call(words)
        assert code == (cli.NOTHING if (command, alike[command]) in NOTHING_LEFT else cli.OK), words
        if "--out" in words and "--dry-run" not in words:
            assert any(Path(words[words.index("--out") + 1]).iterdir()), words


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_does_what_it_says(page: Path, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(mode: Mode = "mid") -> Cloaker:
        return Cloaker(recipe=Recipe.of(mode, extractors=("tiny",), steps=2), batch=2)

    monkeypatch.setattr(engine, "Cloaker", small)
    upload = (clone / "new.jpg").read_bytes()
    for block in blocks(page, "python"):
        names: dict[str, Any] = {"upload": upload, "photos": ["me.jpg", "us.png"]}
        names |= {"rows": [SimpleNamespace(bytes=upload, user="alice")], "persons": names}  # "alice" is in the block
        exec(block, names)
        results = [value for value in names.values() if isinstance(value, (Cloaked, Encoded))]
        assert results
        assert {result.status for result in results} == {"cloaked"}
