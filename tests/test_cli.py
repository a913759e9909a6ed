"""`cloak verify`, `cloak models` and the help, as a user calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import checkpoint, cli
from engine.config import ENSEMBLE
from engine.extractors import available


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
def test_verify_measures_the_two_files(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(photos / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB")).copy()
    pixels[100:140:2, 200:240:2] ^= 16
    Image.fromarray(pixels).save(tmp_path / "changed.png")
    assert cli.main(["verify", str(photos / "astronaut.png"), str(tmp_path / "changed.png"), "--json"]) == cli.OK
    report = json.loads(capsys.readouterr().out)
    assert report["max_change"] == 16
    assert report["changed"] == pytest.approx(400 / 512**2)
    (face,) = report["faces"]
    assert 0 < face["dssim"] < 0.05
    assert set(face["shift"]) == set(available())
    assert all(0.01 < shift < 2 for shift in face["shift"].values())
    assert cli.main(["verify", str(photos / "astronaut.png"), str(photos / "astronaut.png")]) == cli.OK
    same = capsys.readouterr().out
    assert "DSSIM 0.00000, largest change 0" in same


def test_verify_refuses_what_cannot_be_compared(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 30)).save(tmp_path / "small.png")
    assert cli.main(["verify", str(photos / "astronaut.png"), str(tmp_path / "small.png")]) == cli.USAGE
    assert "different sizes" in capsys.readouterr().err
    assert cli.main(["verify", str(tmp_path / "gone.png"), str(tmp_path / "small.png")]) == cli.USAGE
    assert "no such file" in capsys.readouterr().err


def test_models_lists_every_checkpoint_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json"]) == cli.OK
    shipped = checkpoint.manifest()["extractors"]  # other tests register networks of their own
    rows = [row for row in json.loads(capsys.readouterr().out) if row["name"] in shipped]
    plain, robust = ({row["name"] for row in rows if row["robust"] is kind} for kind in (False, True))
    assert plain >= {"web-incept", "mobilefacenet-192", "faceres", "mobileface", "sface", "dlib-resnet"}
    assert robust == {member.partition(":")[0] for member in ENSEMBLE}
    for row in rows:
        assert row["licence"]
        assert row["source"]
        assert row["megabytes"] > 1
        assert 0.9 < row["metric"]["lfw_pairs_auc"] <= 1
    assert cli.main(["models"]) == cli.OK
    assert "web-incept" in capsys.readouterr().out


def test_a_model_s_card_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "sface", "--json"]) == cli.OK
    card = json.loads(capsys.readouterr().out)
    assert card["name"] == "sface"
    assert card["parameters"] == 9629632
    assert card["gflops"] == pytest.approx(1.17, abs=0.1)
    assert cli.main(["models", "sface"]) == cli.OK
    said = capsys.readouterr().out
    for part in (
        *(card[key] for key in ("description", "licence", "licence_note", "source", "sha256", "command")),
        "112 x 112 RGB, canvas pixels 32 to 144",
        "(0 to 255 - [127.5, 127.5, 127.5]) / 128",
        "9,629,632 parameters",
        "128-D",
        f"AUC {card['metric']['lfw_pairs_auc']}, TAR {card['metric']['lfw_pairs_tar']} at FAR 1e-3",
        str(card["metric"]["parity_cosine_min"]),
    ):
        assert part in said


def test_an_unknown_model_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "arcface"]) == cli.USAGE
    said = capsys.readouterr().err
    assert "'arcface'; there are " in said
    # Other tests of this process may have registered more.
    assert set(checkpoint.manifest()["extractors"]) <= set(said.partition("there are ")[2].strip().split(", "))
    assert cli.main(["models", "arcface", "--json"]) == cli.USAGE
    assert "arcface" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.OK
    assert capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["run"], ["run", "x"], ["fly"], ["run", "x", "--out", "y", "--fast"]])
def test_mistakes_are_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.USAGE
    capsys.readouterr()


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
