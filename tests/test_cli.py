"""`cloak` whatever the command: help, mistakes, what nobody foresaw, outputs that end early, interrupts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import cli
from engine.bulk.manifest import Manifest, Row


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.OK
    assert capsys.readouterr().out


MISTAKES = (
    ["run"],
    ["run", "x"],
    ["fly"],
    ["run", "x", "--out", "y", "--fast"],
    ["run", "", "--out", "y"],  # of "$UNSET"; as a path it would be the folder in which one is
    ["run", "x", "--out", ""],
)


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_are_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.USAGE
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "x"],
            "--out DIR is missing. Usage: cloak run PATHS --out DIR [OPTIONS]. `cloak run --help` tells more.",
        ),
        (["verify", "x"], "CLOAKED is missing. Usage: cloak verify ORIGINAL CLOAKED [OPTIONS]. `cloak verify --help` "),
        (["run", "x", "--out"], "--out requires an argument. `cloak run --help` tells more."),
        (["run", "x", "--out", "y", "--fast"], "`cloak run --help` tells more."),
        (["fly"], "`cloak --help` tells more."),
    ],
)
def test_a_mistake_names_what_is_missing_and_the_help(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == cli.USAGE
    assert said in capsys.readouterr().err


def test_an_exception_that_nobody_foresaw_is_one_sentence_and_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("odd\x1b[31m")

    monkeypatch.setattr("engine.extractors.available", broken)
    assert cli.main(["models", "--json"]) == cli.FAILED
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "\x1b" not in said.err
    message = json.loads(said.out)["error"]
    assert "Unexpected KeyError" in message
    log = Path(message.partition("report it with ")[2].partition(", which")[0])
    assert "Traceback" in log.read_text()
    log.unlink()


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (MemoryError(), "not enough memory", 1),
        (RuntimeError("Unable to initialize backend 'cuda': no GPU"), "JAX_PLATFORMS", 2),
        (OSError(28, "No space left on device"), "disk is full", 1),
        (KeyboardInterrupt(), "Interrupted", 130),
    ],
)
def test_what_the_machine_lacks_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str, code: int
) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr("engine.extractors.available", broken)
    assert cli.main(["models"]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("shell", "code"), [("| head -1", 0), ("> /dev/full", 1), (">&-", 0)])
def test_an_output_that_ends_early_is_no_traceback(shell: str, code: int) -> None:
    command = f"set -o pipefail; '{sys.executable}' -m engine models {shell}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert ("could not be written" in done.stderr) == bool(code)


@pytest.mark.parametrize("form", ["", "--csv", "--json"])
def test_a_closed_output_is_no_mistake(form: str, tmp_path: Path) -> None:
    with Manifest(tmp_path) as manifest:
        manifest.put(Row("a.jpg", "a.jpg", 1, 1, "s", "k", "no_face", "No face was found."))
    command = f"'{sys.executable}' -m engine status '{tmp_path}' {form} >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (cli.OK, "")
    assert "Error" not in done.stderr
    assert subprocess.run(["bash", "-c", f"{command} 2>&-"], timeout=120).returncode == cli.OK


def test_an_interrupt_ends_the_command_though_a_thread_goes_on() -> None:
    script = (
        "import sys, threading, time\n"
        "from engine import cli, interrupt\n"
        "interrupt.GRACE = 1.0\n"
        "def stuck(*_, **__):\n"
        "    threading.Thread(target=time.sleep, args=(100,)).start()\n"
        "    print('begun', file=sys.stderr, flush=True)\n"
        "    time.sleep(100)\n"
        "cli.app = stuck\n"
        "sys.argv = ['cloak', 'models']\n"
        "sys.exit(cli.main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert "Interrupted" in said
    assert "Traceback" not in said
