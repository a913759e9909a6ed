"""The READMEs: how long the first one is, and that what they name exists: files, headings, commands, options, codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from cyclopts import MissingArgumentError

from engine import checkpoint, cli

PAGES = (
    *sorted(path for path in REPOSITORY.glob("*.md") if path.name != "CHANGELOG.md"),
    *sorted(
        path for folder in ("benchmarks", "checkpoints", "engine") for path in (REPOSITORY / folder).rglob("README.md")
    ),
)
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_SCRIPT = re.compile(r"(?<![\w./-])((?:benchmarks|tools|tests|engine|checkpoints|\.ci)/[\w./-]*\w)")
_COMMAND = re.compile(r"(?:time )?(?:(?:tools|\.ci)/[\w-]+(?: |$)|(?:NEW/bin/)?(?:cloak|python[\d.]*|pip|git|curl) )")
_PLACEHOLDERS = re.compile(r"/(?:NAME|NETWORK)\.")


def blocks(page: Path, language: str = "") -> list[str]:
    """The contents of the fenced blocks of that language."""
    return [text for kind, text in _FENCE.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    """What stands between backticks in the prose."""
    return [" ".join(code.split()) for code in _CODE.findall(prose(page))]


def call(line: str) -> list[str] | None:
    """The arguments of a call of `cloak`, None if a line of a shell is none."""
    match = re.match(r"(?:time )?(?:tools/)?cloak (.+)", line)
    return shlex.split(match[1], comments=True) if match else None


def lines(page: Path) -> Iterator[str]:
    """The lines of the blocks of shell, those that go on in the next one joined."""
    for block in blocks(page):
        yield from block.replace("\\\n", " ").splitlines()


def in_blocks(page: Path) -> list[str]:
    """The commands of its blocks, without their comments."""
    return [command for line in lines(page) if (command := " ".join(line.partition(" #")[0].split()))]


def in_sentences(page: Path) -> list[str]:
    """The commands of its sentences and tables, each once. `cloak run` without arguments is a name there."""
    said = (code for code in inline(page) if _COMMAND.match(code) and not re.fullmatch(r"cloak [\w-]+", code))
    return list(dict.fromkeys(said))


def documented(beginning: str) -> list[list[str]]:
    """The words after it in all commands that begin so, for tests that run them."""
    every = (command for page in PAGES for command in [*in_blocks(page), *in_sentences(page)])
    return [shlex.split(command.removeprefix(beginning)) for command in every if command.startswith(beginning)]


def parse(arguments: list[str]) -> None:
    cli.app.parse_args(arguments, exit_on_error=False, print_error=False)


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in titles}


def test_the_pages_are_all_here() -> None:
    assert {"README.md", "CONTRIBUTING.md", "benchmarks/README.md", "engine/README.md", "checkpoints/README.md"} <= set(
        NAMES
    )
    assert {"engine/bulk/README.md", "engine/convert/README.md"} <= set(NAMES)


def test_the_landing_page_is_short() -> None:
    assert (REPOSITORY / "README.md").stat().st_size <= 8192


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(prose(page)) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(REPOSITORY), f"{link} leads out of the project"
        if anchor:
            assert anchor in headings(target), f"{link}: {target.name} has no such heading"


def test_links_are_found() -> None:
    links = set(_LINK.findall(prose(REPOSITORY / "README.md")))
    assert {
        f"{folder}/README.md" for folder in ("benchmarks", "engine", "engine/bulk", "engine/convert", "checkpoints")
    } <= links
    assert "a-placebo" not in headings(REPOSITORY / "README.md")
    assert "does-it-protect" in headings(REPOSITORY / "benchmarks" / "README.md")


@each_page
def test_commands_parse(page: Path) -> None:
    for line in lines(page):
        if (arguments := call(line)) is not None:
            parse(arguments)


@each_page
def test_commands_in_sentences_have_options_that_exist(page: Path) -> None:
    for code in inline(page):
        if arguments := call(code):
            try:
                parse(arguments)
            except MissingArgumentError:  # a sentence may leave out what it is not about
                known = option_names(arguments[0])
                named = [word.partition("=")[0] for word in arguments[1:] if word.startswith("--")]
                assert set(named) <= known, code


@each_page
def test_options_in_sentences_are_options_of_a_command(page: Path) -> None:
    # pip's, and those of scripts in tools/ and benchmarks/
    not_ours = {"--upgrade", "--check", "--save", "--inputs", "--cache", "--rivals", "--leave-one-out", "--name"}
    every = not_ours.union(*(option_names(name) for name in commands()))
    for code in inline(page):
        if code.startswith("--"):
            named = {word.partition("=")[0] for word in code.split() if word.startswith("--")}
            assert named <= every, code


def commands() -> list[str]:
    return [name for name in cli.app if not name.startswith("-")]


def option_names(command: str) -> set[str]:
    """All option names of a command."""
    return {name for argument in cli.app[command].assemble_argument_collection() for name in argument.names}


def test_a_wrong_option_would_be_seen() -> None:
    with pytest.raises(Exception, match="--batches"):
        parse(["run", "album", "--out", "cloaked", "--batches", "3"])
    assert "--batch" in option_names("run")
    assert "--batches" not in option_names("run")
    assert call("cloak run a --out b   # of c") == ["run", "a", "--out", "b"]
    assert call("python benchmarks/x.py") is None


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = "\n".join([*blocks(page), *inline(page)])
    for name in _SCRIPT.findall(text):
        if not _PLACEHOLDERS.search(name):
            assert (REPOSITORY / name).exists(), f"{name} is not there"


def test_the_tree_names_every_module() -> None:
    _, tree = blocks(REPOSITORY / "engine" / "README.md", "text")
    named: set[str] = set()
    above: list[str] = []
    for line in tree.splitlines():
        match = re.match(r"((?:  )*)(\S+)(?: +(\S.*))?$", line)
        assert match, line
        depth = len(match[1]) // 2
        above = [*above[:depth], match[2].rstrip("/")]
        assert match[3] or depth == 0, f"{'/'.join(above)} needs a phrase"
        named.add("/".join(above))
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "engine").rglob("*.py")}
    inner = {name for name in modules if name.endswith("/__init__.py") and name != "engine/__init__.py"}
    assert modules - inner == {name for name in named if name.endswith(".py")}


@pytest.mark.parametrize("page", ["README.md", "engine/bulk/README.md"])
def test_exit_codes_are_those_of_the_command(page: str) -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (REPOSITORY / page).read_text(), re.MULTILINE)
    assert [int(code) for code, _ in rows] == [cli.OK, cli.FAILED, cli.USAGE, cli.NOTHING, cli.INTERRUPTED]
    assert dict(rows)[str(cli.NOTHING)] == "nothing to do"


def test_every_network_has_its_figures_and_its_card() -> None:
    page = REPOSITORY / "checkpoints" / "README.md"
    rows = re.findall(
        r"^\| \[([\w-]+)\]\(#([\w-]+)\)( \*)? \| (\d+), (\d+) px \| (\S+) \| (\S+) \|.*\| (\S+) \|$",
        page.read_text(),
        re.M,
    )
    networks = checkpoint.manifest()["extractors"]
    assert {name for name, *_ in rows} == set(networks)
    for name, anchor, star, dim, side, auc, tar, licence in rows:
        table = networks[name]
        assert (int(dim), int(side), licence) == (table["dim"], table["input"]["size"], table["licence"]), name
        assert float(auc) == pytest.approx(table["metric"]["lfw_pairs_auc"], abs=5e-5), name
        assert float(tar) == pytest.approx(table["metric"]["lfw_pairs_tar"], abs=5.1e-4), name
        assert bool(star) == ("package" in table), name
        assert anchor == ("robust-networks" if table["robust"] else name)
    trained = re.findall(r"^\| ([\w-]+) \| \S+ of 255 \| (\d+), \d+ \| (\S+) \| (\S+) \|$", page.read_text(), re.M)
    assert {name for name, *_ in trained} == {name for name, table in networks.items() if table["robust"]}
    for name, steps, auc, tar in trained:
        metric = networks[name]["metric"]
        assert int(steps) == networks[name]["training"]["steps"]
        assert float(auc) == pytest.approx(metric["unseen_pairs_auc"], abs=5e-5), name
        assert float(tar) == pytest.approx(metric["unseen_pairs_tar"], abs=5.1e-4), name
