"""`cloak run` as a user meets it: real photos and faces, a tiny network instead of the large ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_cloak
from PIL import Image

from engine import cli
from engine import photo as photos
from engine.bulk import run as runner
from engine.bulk.manifest import BusyError, Manifest
from engine.checkpoint import root
from engine.detect import YuNet
from engine.dssim import dssim_pixels
from engine.faces import region_box

SETTINGS = ["--extractors", "tiny", "--steps", "6", "--batch", "2"]


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_cloak.provide(path)
    return path


@pytest.fixture
def collection(tmp_path: Path, photos: Path, tiny_checkpoint: Path) -> Path:
    """A folder as people have them: photos, photos of nobody, broken ones, and what is no photo."""
    del tiny_checkpoint
    folder = tmp_path / "photos"
    (folder / "album").mkdir(parents=True)
    with Image.open(photos / "astronaut.png") as image:
        image = image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    image.rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    image.save(folder / "album" / "same.png")
    image.convert("L").save(folder / "grey.png")
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(folder / "wall.png")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    data = (folder / "album" / "same.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "notes.txt").write_text("hello")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return folder


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, str]:
    """Exit code, the last line of stdout as JSON, stderr."""
    code = cli.main(["run", *map(str, arguments), *SETTINGS, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out.splitlines()[-1]), captured.err


def rows(out: Path) -> dict[str, tuple[str, str, list]]:
    with Manifest(out) as manifest:
        return {row.target: (row.status, row.reason, row.faces) for row in manifest.rows()}


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and ".cloak" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_every_input_is_accounted_for_and_a_second_call_does_nothing(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before = contents(collection)
    code, summary, _ = call(collection, "--out", out, capsys=capsys)
    assert code == cli.FAILED
    assert summary["counts"] == {"cloaked": 3, "no_face": 1, "skipped": 1, "failed": 4}
    assert summary["faces"] == 3
    assert 0 < summary["dssim_mean"] <= summary["dssim_max"] <= 0.007
    assert contents(collection) == before, "an original was touched"
    assert set(contents(out)) == {"turned.jpg", "album/same.png", "grey.png"}
    found = rows(out)
    assert {name: row[0] for name, row in found.items()} == {
        "turned.jpg": "cloaked", "album/same.png": "cloaked", "grey.png": "cloaked", "wall.png": "no_face",
        "text.jpg": "failed", "empty.png": "failed", "cut.png": "failed", "loop.jpg": "failed", "notes.txt": "skipped",
    }  # fmt: skip
    assert all(reason for status, reason, _ in found.values() if status != "cloaked")
    assert "empty" in found["empty.png"][1]
    assert "symbolic link" in found["loop.jpg"][1]

    written = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.[pj][np]g")}
    code, summary, said = call(collection, "--out", out, capsys=capsys)
    assert code == cli.FAILED, "what failed is forgotten in the second call"
    for name in ("text.jpg", "empty.png", "cut.png", "loop.jpg", "wall.png"):
        assert name in said
    assert sum(summary["counts"].values()) == 0
    assert summary["earlier"] == {"cloaked": 3, "no_face": 1, "skipped": 1, "failed": 4}
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(out) == written


def test_the_budget_holds_on_the_files_and_metadata_survives(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call(collection, "--out", out, capsys=capsys)
    detector = YuNet(root() / "yunet.onnx")
    for name in ("turned.jpg", "album/same.png", "grey.png"):
        before, after = photos.read(collection / name), photos.read(out / name)
        (face,) = detector.detect(before.pixels)
        top, left, bottom, right = region_box(face, before.size)
        changed = dssim_pixels(before.pixels[top:bottom, left:right], after.pixels[top:bottom, left:right])
        assert 0.001 < changed <= 0.007
        assert changed == pytest.approx(rows(out)[name][2][0]["dssim"])
        assert before.format == after.format
        assert before.grey == after.grey
    with Image.open(out / "turned.jpg") as image:
        assert image.getexif()[0x010F] == "Camera"
        assert image.getexif().get(0x0112, 1) == 1


def test_restart_and_changed_settings_and_changed_photos_are_done_again(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    only = collection / "album"
    call(only, "--out", out, capsys=capsys)
    first = contents(out)
    code, summary, _ = call(only, "--out", out, "--restart", capsys=capsys)
    assert (code, summary["counts"]["cloaked"]) == (cli.OK, 1)
    assert contents(out) == first, "the same photo and settings gave another file"
    _, summary, _ = call(only, "--out", out, "--seed", 1, capsys=capsys)
    assert summary["counts"]["cloaked"] == 1
    assert contents(out) != first
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(only / "same.png")
    _, summary, _ = call(only, "--out", out, "--seed", 1, capsys=capsys)
    assert summary["counts"]["no_face"] == 1
    assert contents(out) == {}, "a file stayed that is not the cloaked version of this photo"
    shutil.copy(collection / "turned.jpg", only / "same.png")
    call(only, "--out", out, capsys=capsys)
    (out / "same.png").unlink()
    _, summary, _ = call(only, "--out", out, capsys=capsys)
    assert summary["counts"]["cloaked"] == 1, "a deleted output was not made again"


def test_a_dry_run_writes_nothing(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, summary, _ = call(collection, "--out", out, "--dry-run", capsys=capsys)
    assert code == cli.FAILED
    assert summary["counts"] == {"cloaked": 3, "no_face": 1, "skipped": 1, "failed": 4}
    assert summary["faces"] == 3
    assert not out.exists()


def test_a_file_of_the_users_own_is_never_overwritten(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "same.png").write_bytes(b"precious")
    code, _, _ = call(collection / "album", "--out", out, capsys=capsys)
    assert code == cli.FAILED
    assert (out / "same.png").read_bytes() == b"precious"
    assert "not this tool's" in rows(out)["same.png"][1]


def test_shards_share_the_work_without_overlap(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = [
        call(collection, "--out", tmp_path / "out", "--shard", f"{index}/2", capsys=capsys)[1]["counts"]
        for index in range(2)
    ]
    assert sum(counts["cloaked"] for counts in done) == 3
    assert sum(counts["failed"] for counts in done) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere"),
        (["{photos}", "--rho", "0.9"], "rho must be"),
        (["{photos}", "--steps", "0"], "steps must be"),
        (["{photos}", "--quality", "200"], "quality must be"),
        (["{photos}", "--min-size", "3"], "min_size must be"),
        (["{photos}", "--shard", "2/2"], "shard must be"),
        (["{photos}", "--shard", "half"], "--shard must be"),
        (["{photos}", "--devices", "99"], "devices must be"),
        (["{photos}", "--batch", "0"], "batch must be"),
        (["{photos}", "--only", "{photos}/wall.png"], "must show one face"),
        (["{photos}", "--only", "{photos}/gone.png"], "gone.png"),
        (["{photos}", "--mode", "huge"], "huge"),
        (["{photos}", "--format", "bmp"], "bmp"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = [argument.format(photos=collection) for argument in arguments]
    settings = [option for option in SETTINGS if "--batch" not in given or option not in ("--batch", "2")]
    settings = settings if "--steps" not in given else ["--extractors", "tiny"]
    assert cli.main(["run", *given, "--out", str(tmp_path / "out"), *settings]) == cli.USAGE
    assert said in capsys.readouterr().err


def test_unknown_extractors_are_named_with_the_known_ones(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(collection), "--out", str(tmp_path / "out"), "--extractors", "wrong"]) == cli.USAGE
    said = capsys.readouterr().err
    assert "wrong" in said
    assert "web-incept" in said


def test_two_runs_into_one_folder_are_refused(collection: Path, tmp_path: Path) -> None:
    with Manifest(tmp_path / "out"), pytest.raises(BusyError, match="another run"), Manifest(tmp_path / "out"):
        pass


def test_a_failed_write_is_a_reason_and_is_tried_again(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_write", full)
        code, _, _ = call(collection / "album", "--out", out, capsys=capsys)
    assert code == cli.FAILED
    assert "No space left" in rows(out)["same.png"][1]
    assert contents(out) == {}
    code, summary, _ = call(collection / "album", "--out", out, capsys=capsys)
    assert (code, summary["counts"]["cloaked"]) == (cli.OK, 1)


def many(folder: Path, photos: Path, count: int) -> None:
    """Different photos of one face: a growing frame makes each its own file."""
    folder.mkdir()
    with Image.open(photos / "astronaut.png") as image:
        face = image.convert("RGB").crop((100, 20, 340, 260))
    for index in range(count):
        frame = Image.new("RGB", (250 + index, 250), (index, 60, 90))
        frame.paste(face, (5, 5))
        frame.save(folder / f"{index:02}.png")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_and_resumed_gives_the_same_files(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "photos"
    many(folder, photos, 12)
    command = [sys.executable, str(Path(__file__).parent / "tiny_cloak.py"), str(tiny_checkpoint), "run", str(folder)]
    command += [*SETTINGS, "--json", "--out"]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    whole = subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, env=environment)
    assert json.loads(whole.stdout.splitlines()[-1])["counts"]["cloaked"] == 12

    out = tmp_path / "killed"
    process = subprocess.Popen(
        [*command, str(out)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.png"))) < 3:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == cli.INTERRUPTED
        assert "goes on from there" in said
    assert len(list(out.glob("*.png"))) < 12, "nothing was left to resume"
    for path in out.glob("*.png"):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    resumed = subprocess.run([*command, str(out)], check=True, capture_output=True, env=environment)
    summary = json.loads(resumed.stdout.splitlines()[-1])
    assert 0 < summary["counts"]["cloaked"] < 12
    assert contents(out) == contents(tmp_path / "whole")
    assert not list((out / ".cloak").glob("*.part"))


def test_the_manifest_can_be_read_with_any_sqlite(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(collection / "album", "--out", tmp_path / "out", capsys=capsys)
    with sqlite3.connect(tmp_path / "out" / ".cloak" / "manifest.sqlite") as database:
        assert database.execute("SELECT target, status FROM photos").fetchall() == [("same.png", "cloaked")]
