"""`--verbose`: what is being done and where errors arose, on stderr and nowhere else."""

from __future__ import annotations

import json
import logging

import pytest

from engine import cli
from engine.bulk.manifest import Row
from engine.view import SHOWN, View


def test_a_traceback_is_shown_to_who_asks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        logging.getLogger("engine.extractors").info("loading \x1b[31mred")
        raise ValueError("odd\x1b[31m")

    monkeypatch.setattr("engine.extractors.available", broken)
    assert cli.main(["models", "--json", "--verbose"]) == cli.USAGE
    said = capsys.readouterr()
    assert "Traceback" in said.err
    assert "test_verbose.py" in said.err
    assert r"engine.extractors: loading \x1b[31mred" in said.err
    assert "\x1b" not in said.err
    assert json.loads(said.out) == {"error": "odd\x1b[31m"}
    assert cli.main(["models", "--json"]) == cli.USAGE
    assert capsys.readouterr().err == "cloak: odd\\x1b[31m\n", "it is over with the command"


def test_a_line_is_shown_once_whoever_else_listens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.extractors.available", lambda: logging.getLogger("engine.extractors").info("loading"))
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        cli.main(["models", "--json", "--verbose"])
        assert logging.getLogger("engine").propagate
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err.count("loading") == 1


def test_a_mistake_in_the_arguments_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--verbose", "--fast"]) == cli.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("verbose", [False, True])
def test_every_photo_is_named_with_what_is_to_know_of_it(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    view = View(quiet=True, verbose=verbose)
    note = "Left out of the file: a thumbnail."
    for number in range(SHOWN + 5):
        view.row(Row(f"{number}.jpg", f"{number}.jpg", 1, 1, "s", "k", "cloaked", note))
    said = capsys.readouterr().err.splitlines()
    assert said == ([f"cloaked {number}.jpg: {note}" for number in range(SHOWN + 5)] if verbose else [])
    for number in range(SHOWN + 5):
        view.row(Row(f"{number}.jpg", f"{number}.jpg", 1, 1, "s", "k", "failed", "why"))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "FAILED 0.jpg: why"
    assert len(said) == (SHOWN + 5 if verbose else SHOWN + 1)
