"""House English in the engine: docstrings, and the help texts of the commands."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from engine import cli

MODULES = sorted((REPOSITORY / "engine").rglob("*.py"))
MOST_WORDS = 25

_CODE = re.compile(r"`[^`]*`")  # a formula, a path or a list of names in backticks is one word and has no colon
_END = re.compile(r"(?<=[.!?])(?<! al\.)[\"')]*\s+")  # the citation "Wu et al. 2023" goes on
_START = re.compile(r"(?:Of|As|By|For|In|Where|What|Who|Whose|Which)\b")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text. A paragraph that is indented or has an example is code and has none."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = paragraph.splitlines()
        if ">>> " not in paragraph and not all(line.startswith("    ") for line in lines):
            yield from _END.split(" ".join(line.strip() for line in lines))


def faults(text: str) -> list[str]:
    """The sentences that are not house English, each after its fault."""
    reasons = [f"begins without a noun: {text.strip()[:60]}"] if _START.match(text.lstrip()) else []
    for sentence in sentences(_CODE.sub("code", text)):
        if (count := len(sentence.split())) > MOST_WORDS:
            reasons.append(f"{count} words: {sentence}")
        if len(re.findall(r":(?=\s|$)", sentence)) > 1:
            reasons.append(f"two colons: {sentence}")
    return reasons


def texts(source: str) -> Iterator[str]:
    """All docstrings of a module, those of its constants too, and the help texts of its options."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) | ast.keyword("help", ast.Constant(value=str(text))):
                yield text


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_docstrings_and_helps_are_plain(module: Path) -> None:
    assert [fault for text in texts(module.read_text()) for fault in faults(text)] == []


@pytest.mark.parametrize("text", [cli.CODES, *cli.COMMANDS.values()])
def test_the_help_of_every_command_is_plain(text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Of every random choice.", "begins without a noun"),
        ("What a run did.", "begins without a noun"),
        ("What `--verbose` shows: what the modules of the engine log, on stderr.", "begins without a noun"),
        ("faces: by default three.\nphotos: files and folders; none: synthetic faces.", "two colons"),
        (
            "Away from the person (the mean of their faces here; the default), away from the face's own embedding "
            "alone (the default of the solvers of others), or each person to one far target.",
            "33 words",
        ),
    ],
)
def test_the_texts_of_old_would_be_seen(text: str, fault: str) -> None:
    (reason,) = faults(text)
    assert reason.startswith(fault)


def test_code_is_no_sentence() -> None:
    formula = "`{layer: {kernel: array, bias: array}}`"
    assert faults(f"Output.\n\n    name: type: {'word ' * 30}\n\nExample:\n    >>> a: b: c") == []
    assert faults(f"Weights, {formula} by layer: float32 (Wu et al. 2023).") == []


def test_all_kinds_of_text_are_read() -> None:
    source = '"""One."""\nX = 1\n"""Two."""\nclass A:\n    """Three."""\n    x = Parameter(help="Fo" "ur.")\n'
    assert sorted(texts(source)) == ["Four.", "One.", "Three.", "Two."]
    assert sum(1 for module in MODULES for _ in texts(module.read_text())) > 1500
