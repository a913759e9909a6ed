"""`cloak run` as a user meets it: real photos and faces, a tiny network instead of the large ones."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_cloak
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine import cli
from engine import photo as photos
from engine.bulk import article, outputs
from engine.bulk import run as runner
from engine.bulk.batching import Lane
from engine.bulk.cloaker import Cloaker
from engine.bulk.manifest import ASIDE, BARED, BusyError, Manifest, Row
from engine.bulk.trouble import RunError
from engine.checkpoint import root
from engine.detect import YuNet
from engine.dssim import dssim_pixels
from engine.faces import region_box
from engine.photo import Encoder

SETTINGS = ["--extractors", "tiny", "--steps", "6", "--batch", "2"]
MANY = 9
"""Photos of a run that is killed: so many more than are under way at once that some are left."""
PATIENCE = 900
"""Seconds that a process may take, when others need the cores too."""


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
    code, summary, said = call(collection, "--out", out, "--verbose", capsys=capsys)
    assert code == cli.FAILED
    assert re.search(r"^cloaked \S+/turned\.jpg: 1 face, DSSIM 0\.00\d+", said, re.M)
    assert re.search(r"^ *\d+ ms engine\.bulk\.run: 9 files: 8 to do, 0 done earlier, 1 passed by", said, re.M)
    assert "Traceback" not in said, "what is wrong with a photo was foreseen"
    assert summary["counts"] == {"cloaked": 3, "no_face": 1, "skipped": 1, "failed": 4}
    assert summary["faces"] == 3
    assert 0 < summary["dssim_mean"] <= summary["dssim_max"] <= 0.007
    assert contents(collection) == before, "an original was touched"
    assert set(contents(out)) == {"turned.jpg", "album/same.png", "grey.png"}
    outcomes = rows(out)
    assert {name: row[0] for name, row in outcomes.items()} == {
        "turned.jpg": "cloaked", "album/same.png": "cloaked", "grey.png": "cloaked", "wall.png": "no_face",
        "text.jpg": "failed", "empty.png": "failed", "cut.png": "failed", "loop.jpg": "failed", "notes.txt": "skipped",
    }  # fmt: skip
    assert all(reason for status, reason, _ in outcomes.values() if status != "cloaked")
    assert "empty" in outcomes["empty.png"][1]
    assert "symbolic link" in outcomes["loop.jpg"][1]
    assert cli.main(["status", str(out), "--json"]) == cli.FAILED
    totals = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: totals[name] for name in ("counts", "faces", "dssim_max", "unprotected")} == {
        name: summary[name] for name in ("counts", "faces", "dssim_max", "unprotected")
    }

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


def test_a_folder_without_any_file_leaves_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, summary, _ = call(tmp_path / "empty", "--out", tmp_path / "out", capsys=capsys)
    assert (code, summary["report"], (tmp_path / "out").exists()) == (cli.NOTHING, None, False)


def test_a_film_that_was_named_is_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "video.mp4").write_bytes(b"no photo")
    for _ in range(2):
        code, summary, said = call(tmp_path / "video.mp4", "--out", tmp_path / "out", capsys=capsys)
        assert (code, summary["unread"], summary["unprotected"]) == (cli.NOTHING, 1, 0)
        assert f"NOT READ {tmp_path / 'video.mp4'}: a film, whose faces stay as they are: .mp4" in said


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
    # Put together by a call without: what shards did is counted as theirs, and nothing is done or fails again.
    out = tmp_path / "out"
    written = {name: (out / name).stat() for name in contents(out)}
    assert len(written) == 3
    for arguments in ((), ("--shard", "0/3"), ("--shard", "2/3"), ("--dry-run",)):
        _, whole, _ = call(collection, "--out", out, *arguments, capsys=capsys)
        assert not set(+Counter(whole["counts"])), arguments
        assert {name: (out / name).stat() for name in contents(out)} == written, "a photo was done twice"
        if "--shard" not in arguments:
            assert whole["earlier"] == {"cloaked": 3, "no_face": 1, "skipped": 1, "failed": 4}
            assert whole["unprotected"] == 4
    _, again, _ = call(collection, "--out", out, "--shard", "1/2", capsys=capsys)
    assert not set(+Counter(again["counts"])), "a shard, after all of them were put together"


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
        (["{photos}", "--steps", "1.5"], "--steps: it must be a whole number, not 1.5."),
        (["{photos}", "--workers", "2.0"], "--workers: it must be a whole number, not 2.0."),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_is_wrong(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    call_arguments = [argument.format(photos=collection) for argument in arguments]
    settings = [option for option in SETTINGS if "--batch" not in call_arguments or option not in ("--batch", "2")]
    settings = settings if "--steps" not in call_arguments else ["--extractors", "tiny"]
    assert cli.main(["run", *call_arguments, "--out", str(tmp_path / "out"), *settings]) == cli.USAGE
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
        patch.setattr(outputs, "write", full)
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


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_checkpoint: Path
) -> tuple[Callable[[Path], subprocess.Popen[str]], Path]:
    """Starts `cloak run` on MANY photos, to be written to a folder; and what it makes of them.

    The cache of programs is its own, since a process that is killed may leave half an entry.
    """
    folder = tmp_path_factory.mktemp("many")
    many(folder / "photos", photos, MANY)
    command = [sys.executable, str(Path(__file__).parent / "tiny_cloak.py"), str(tiny_checkpoint), "run"]
    command += [str(folder / "photos"), *SETTINGS, "--json", "--out"]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}

    def begin(out: Path) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, str(out)], env=environment, stdout=pipe, stderr=pipe, text=True)

    assert ended(begin(folder / "whole"))["cloaked"] == MANY
    return begin, folder / "whole"


def ended(process: subprocess.Popen[str]) -> dict[str, int]:
    """How many photos became what, of a call that went well."""
    out, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == cli.OK, said
    return json.loads(out.splitlines()[-1])["counts"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_and_resumed_gives_the_same_files(
    tmp_path: Path, uninterrupted: tuple[Callable[[Path], subprocess.Popen[str]], Path], how: signal.Signals
) -> None:
    begin, whole = uninterrupted
    out = tmp_path / "killed"
    process = begin(out)
    deadline = time.monotonic() + PATIENCE
    try:
        while len(list(out.glob("*.png"))) < 3:
            assert process.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == cli.INTERRUPTED
        assert "goes on from there" in said
    assert len(list(out.glob("*.png"))) < MANY, "nothing was left to resume"
    for path in out.glob("*.png"):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    assert 0 < ended(begin(out))["cloaked"] < MANY
    assert contents(out) == contents(whole)
    assert not list((out / ".cloak").glob("*.part"))


def test_the_manifest_can_be_read_with_any_sqlite(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(collection / "album", "--out", tmp_path / "out", capsys=capsys)
    with sqlite3.connect(tmp_path / "out" / ".cloak" / "manifest.sqlite") as database:
        assert database.execute("SELECT target, status FROM photos").fetchall() == [("same.png", "cloaked")]


def sources(folder: Path, photos: Path, *, linked: bool = False) -> Path:
    """One photo of a face in a folder; linked: as a symbolic link to another."""
    folder.mkdir()
    place = folder.parent / "elsewhere" if linked else folder
    place.mkdir(exist_ok=True)
    with Image.open(photos / "astronaut.png") as image:
        image.convert("RGB").save(place / "a.png")
    if linked:
        (folder / "a.png").symlink_to(place / "a.png")
    return folder


def test_what_failed_and_is_gone_or_elsewhere_now_is_no_failure_for_ever(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, out = sources(tmp_path / "one", photos), tmp_path / "two", tmp_path / "out"
    second.mkdir()
    for folder in (first, second):
        for name in ("bad.jpg", f"{folder.name}.jpg"):
            (folder / name).write_text(f"not a picture but {folder} {name}")
    assert call(first, "--out", out, capsys=capsys)[0] == cli.FAILED
    assert call(second, "--out", out, capsys=capsys)[0] == cli.FAILED
    assert {name for name, row in rows(out).items() if row[0] == "failed"} == {"bad.jpg", "one.jpg", "two.jpg"}
    (first / "one.jpg").unlink()
    call(first, "--out", out, capsys=capsys)
    failed = {name for name, row in rows(out).items() if row[0] == "failed"}
    assert failed == {"bad.jpg", "two.jpg"}, "what this call did not look at stays"
    (second / "two.jpg").unlink()
    call(first, second, "--out", out, capsys=capsys)
    failed = {name for name, row in rows(out).items() if row[0] == "failed"}
    assert failed == {"one/bad.jpg", "two/bad.jpg"}, "each has another place now"
    for folder in (first, second):
        (folder / "bad.jpg").unlink()
    assert call(first, second, "--out", out, capsys=capsys)[0] in (cli.OK, cli.NOTHING)
    assert cli.main(["status", str(out)]) == cli.OK
    capsys.readouterr()


@pytest.mark.parametrize("before", [("--shard", "0/2"), ("--shard", "1/2"), ()])
def test_whoever_notes_that_a_photo_is_gone_notes_it_in_all_manifests(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], before: tuple[str, ...]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    for number in range(6):
        (folder / f"{number}.jpg").write_text(f"no picture {number}")
    call(folder, "--out", out, *before, capsys=capsys)
    for path in folder.glob("?.jpg"):
        path.unlink()
    assert cli.main(["status", str(out)]) == cli.FAILED
    call(folder, "--out", out, *(() if before else ("--shard", "0/3")), capsys=capsys)
    capsys.readouterr()
    assert cli.main(["status", str(out), "--json"]) == cli.OK
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {
        "cloaked": 1, "no_face": 0, "skipped": 0, "failed": 0,
    }  # fmt: skip


def test_of_a_photo_that_was_damaged_and_is_gone_its_cloaked_file_is_left(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    before, files = rows(out), contents(out)
    (folder / "a.png").write_text("damaged")
    assert call(folder, "--out", out, capsys=capsys)[0] == cli.FAILED
    (folder / "a.png").unlink()
    call(folder, "--out", out, capsys=capsys)
    assert (rows(out), contents(out)) == (before, files)
    assert cli.main(["status", str(out)]) == cli.OK


def test_a_refused_photo_keeps_its_row(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("one", "no picture"), ("two", "none either")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_text(text)
    out, both = tmp_path / "out", (tmp_path / "one" / "x.jpg", tmp_path / "two" / "x.jpg")
    for _ in range(2):
        assert call(*both, "--out", out, capsys=capsys)[0] == cli.FAILED
        assert [status for status, *_ in rows(out).values()] == ["failed", "failed"]
    assert cli.main(["status", str(out), "--failed"]) == cli.FAILED
    assert str(both[1]) in capsys.readouterr().out


def test_paths_are_of_the_folder_in_which_a_call_was_made(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two folders have an `album` each; the calls differ in nothing but where they are made."""
    out, first, second = tmp_path / "out", tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        sources(folder / "album", photos)
    with Image.open(first / "album" / "a.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(second / "album" / "a.png")
    (first / "album" / "bad.jpg").write_text("not a picture")
    for folder in (first, second):
        monkeypatch.chdir(folder)
        call("album", "--out", out, capsys=capsys)
    with Manifest(out) as manifest:
        by_target = {row.target: row for row in manifest.rows()}
    assert by_target["bad.jpg"].status == "failed", "the second call did not look there"
    assert str(first / "album" / "a.png") in next(row for name, row in by_target.items() if " of " in name).reason
    assert by_target["a.png"].named == str(first / "album" / "a.png")
    assert article.notes(by_target["a.png"], out) == ()
    assert article.read(by_target["a.png"], out).change < 100, "beside its own original"
    assert cli.main(["status", str(out), "--failed"]) == cli.FAILED
    said = capsys.readouterr().out
    assert str(first / "album" / "bad.jpg") in said
    assert "FAILED album/a.png" in said
    monkeypatch.chdir(first)
    assert by_target["a.png"].named == str(Path("album", "a.png"))


def test_a_folder_that_can_be_read_again_is_no_failure_for_ever(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = sources(tmp_path / "one", photos), tmp_path / "out"
    sources(folder / "closed", photos)
    walk = os.walk

    def closed(root: Path, **options: object) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, names in walk(root, **options):  # type: ignore[call-overload]
            if "closed" in folders:
                folders.remove("closed")
                error = PermissionError(13, "Permission denied", os.path.join(place, "closed"))
                options["onerror"](error)  # type: ignore[operator]
            yield place, folders, names

    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", closed)
        assert call(folder, "--out", out, capsys=capsys)[0] == cli.FAILED
    assert rows(out)["closed"][0] == "failed"
    assert call(folder, "--out", out, capsys=capsys)[0] == cli.OK
    assert {name: row[0] for name, row in rows(out).items()} == {"a.png": "cloaked", "closed/a.png": "cloaked"}


def test_a_source_that_is_away_for_one_call_costs_no_good_output(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos, linked=True), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    first = contents(out)
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    for _ in range(2):
        code, _, said = call(folder, "--out", out, capsys=capsys)
        assert code == cli.FAILED
        assert "a.png" in said
        assert contents(out) == first
        status, reason, _ = rows(out)["a.png"]
        assert status == "failed"
        assert "earlier call is kept" in reason
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    _, summary, _ = call(folder, "--out", out, capsys=capsys)
    assert contents(out) == first
    assert summary["unprotected"] == 0
    assert rows(out)["a.png"][0] == "cloaked"


def pair_of(tmp_path: Path, photos: Path) -> Path:
    """A folder with me.png, other.png, and us.png of both."""
    album = tmp_path / "album"
    album.mkdir()
    both = Image.new("RGB", (600, 420), (128, 128, 128))
    for index, (source, name) in enumerate((("obama.jpg", "me.png"), ("biden.jpg", "other.png"))):
        with Image.open(photos / source) as image:
            small = image.convert("RGB").resize((300, 300 * image.height // image.width))
        small.save(album / name)
        both.paste(small, (300 * index, 0))
    both.save(album / "us.png")
    return album


def test_no_call_makes_a_face_clean_again_that_an_earlier_one_cloaked(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    album, out = pair_of(tmp_path, photos), tmp_path / "out"
    only = {name: ("--only", album / name) for name in ("me.png", "other.png")}
    assert call(album, "--out", out, capsys=capsys)[0] == cli.OK
    first = contents(out)
    assert len(rows(out)["us.png"][2]) == 2
    for dry in ((), ("--dry-run",)):
        code, summary, said = call(album, "--out", out, *only["me.png"], *dry, capsys=capsys)
        assert code == cli.FAILED
    assert (summary["again"], contents(out)["us.png"]) == (0, first["us.png"])
    status, reason, _ = rows(out)["us.png"]
    assert status == "failed"
    assert "A face that an earlier call cloaked would be clean again" in reason
    assert "The cloaked file of an earlier call is kept" in reason
    assert "us.png" in said, "it is named in every call"
    assert call(album, "--out", out, capsys=capsys)[0] == cli.OK
    assert (contents(out), rows(out)["us.png"][0]) == (first, "cloaked")
    assert call(album, "--out", out, *only["me.png"], "--restart", capsys=capsys)[0] == cli.OK
    assert len(rows(out)["us.png"][2]) == 1, "it was asked for"
    code, summary, _ = call(album, "--out", out, *only["other.png"], "--dry-run", capsys=capsys)
    assert (code, summary["counts"]["failed"]) == (cli.FAILED, 1), "the one face was another"
    assert call(album, "--out", out, *only["other.png"], capsys=capsys)[0] == cli.FAILED
    assert "would be clean again" in rows(out)["us.png"][1]


@pytest.mark.parametrize("change", ["the cloaked file", "killed before its row", "the photo's metadata", "gone"])
def test_what_changed_meanwhile_bares_no_face(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    album, out = pair_of(tmp_path, photos), tmp_path / "out"
    photo, file = album / "us.png", out / "us.png"
    only = ("--only", album / "me.png")
    call(album, "--out", out, capsys=capsys)
    if change == "the cloaked file":
        with Image.open(file) as image:
            image.save(file, compress_level=1)
    elif change == "killed before its row":
        killed_before_a_row(out, monkeypatch, lambda: call(photo, "--out", out, "--rho", "0.01", capsys=capsys))
    else:
        with Image.open(photo) as image:
            note = PngInfo()
            note.add_text("Rating", "5")
            image.save(photo, pnginfo=note if change == "the photo's metadata" else None)
    before = file.read_bytes()
    assert call(album, "--out", out, *only, "--dry-run", capsys=capsys)[0] == cli.FAILED
    assert call(album, "--out", out, *only, capsys=capsys)[0] == cli.FAILED
    assert BARED in rows(out)["us.png"][1]
    assert file.read_bytes() == before
    if change == "gone":
        file.unlink()
        assert call(album, "--out", out, *only, capsys=capsys)[0] == cli.OK, "nothing is bared any more"
        assert len(rows(out)["us.png"][2]) == 1
    else:
        assert call(album, "--out", out, capsys=capsys)[0] == cli.OK
        assert (rows(out)["us.png"][0], len(rows(out)["us.png"][2])) == ("cloaked", 2)


def test_an_edit_during_the_run_and_a_long_name_are_kept_too(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out, name = sources(tmp_path / "photos", photos), tmp_path / "out", f"{'x' * 240}.png"
    (folder / "a.png").rename(folder / name)
    call(folder, "--out", out, capsys=capsys)
    encode = Encoder.__call__

    def edited(self: Encoder, pixels: np.ndarray) -> bytes:
        (out / name).write_bytes(b"an edit of the last hour")
        return encode(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "__call__", edited)
        assert call(folder, "--out", out, "--restart", capsys=capsys)[0] == cli.OK
    (kept,) = (out / ".cloak" / "replaced").iterdir()
    assert kept.read_bytes() == b"an edit of the last hour"
    assert ASIDE in rows(out)[name][1]
    assert not list((out / ".cloak").rglob("*.part"))


def killed_before_a_row(out: Path, patch: pytest.MonkeyPatch, calls: Callable[[], object]) -> None:
    """Leave the output folder as a call leaves it that is killed when its first file is in place."""
    copy = out.with_name("killed")

    def ends(*_: object, **__: object) -> None:
        shutil.copytree(out, copy)
        raise RunError("the end")

    with patch.context() as during:
        during.setattr(runner, "_record", ends)
        calls()
    shutil.rmtree(out)
    copy.rename(out)


@pytest.mark.parametrize("before", ["nothing", "a whole file"])
def test_a_file_whose_row_was_never_written_is_as_good_as_recorded(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    before: str,
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    earlier: dict[str, bytes] = {}
    if before == "a whole file":
        call(folder, "--out", out, capsys=capsys)
        earlier = contents(out)
    killed_before_a_row(out, monkeypatch, lambda: call(folder, "--out", out, "--seed", "1", capsys=capsys))
    unrecorded = contents(out)
    assert unrecorded
    assert unrecorded != earlier
    assert list((out / ".cloak").glob(f"*{outputs.NOTE}"))
    code, summary, _ = call(folder, "--out", out, "--seed", "1", "--dry-run", capsys=capsys)
    assert (summary["counts"]["cloaked"], summary["earlier"]["cloaked"]) == (0, 1)
    code, summary, _ = call(folder, "--out", out, "--seed", "2", capsys=capsys)
    assert (code, summary["again"]) == (cli.OK, 1)
    assert contents(out) != unrecorded, "the file was replaced"
    assert not (out / ".cloak" / "replaced").exists(), "it was nobody's work"
    assert not list((out / ".cloak").glob(f"*{outputs.NOTE}"))
    assert not any(ASIDE in reason for _, reason, *_ in rows(out).values())


@pytest.mark.parametrize("then", [("--only",), ("--min-size", "2000"), ("--shard", "0/1"), ("--shard", "0/3")])
def test_what_a_killed_call_has_written_stays_the_photos_whatever_comes_next(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    then: tuple[str, ...],
) -> None:
    """The next call may find nothing to cloak, have another shard or a damaged photo."""
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    killed_before_a_row(out, monkeypatch, lambda: call(folder, "--out", out, "--shard", "0/1", capsys=capsys))
    written = contents(out)
    if then == ("--only",):
        shutil.copy(photos / "obama.jpg", tmp_path / "nobody.jpg")
        then = ("--only", str(tmp_path / "nobody.jpg"))
    call(folder, "--out", out, *then, capsys=capsys)
    assert contents(out) == written
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_text("damaged")
    assert call(folder, "--out", out, capsys=capsys)[0] == cli.FAILED
    assert contents(out) == written
    (folder / "a.png").write_bytes(whole)
    assert call(folder, "--out", out, capsys=capsys)[0] in (cli.OK, cli.NOTHING)
    assert contents(out) == written
    assert [row[0] for row in rows(out).values()] == ["cloaked"]


def test_what_shares_of_another_number_left_half_done_is_taken_up(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    for share in ("0/2", "1/2"):
        if not contents(out):
            run_share = partial(call, folder, "--out", out, "--shard", share, capsys=capsys)
            with suppress(FileNotFoundError):  # it has no photo of this share
                killed_before_a_row(out, monkeypatch, run_share)
    written = contents(out)
    assert written
    (out / ".cloak" / f"0-of-2-{'0' * 32}.part").write_bytes(b"half")
    (out / ".cloak" / f"1-of-2-{'0' * 32}.next").write_bytes(b"half")
    code, summary, _ = call(folder, "--out", out, capsys=capsys)
    assert (code, summary["counts"]["cloaked"], contents(out)) == (cli.NOTHING, 0, written)
    assert not [path for path in (out / ".cloak").iterdir() if path.suffix in (".part", ".next")]


@pytest.mark.parametrize("meanwhile", ["edited", "moved away and back"])
def test_the_faces_of_an_unrecorded_file_are_not_forgotten(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: str,
) -> None:
    album, out = pair_of(tmp_path, photos), tmp_path / "out"
    photo, file, only = album / "us.png", out / "us.png", ("--only", album / "me.png")
    call(photo, "--out", out, *only, capsys=capsys)
    assert len(rows(out)["us.png"][2]) == 1
    killed_before_a_row(out, monkeypatch, lambda: call(photo, "--out", out, capsys=capsys))
    if meanwhile == "edited":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        file.rename(tmp_path / "away.png")
        call(album / "me.png", "--out", out, capsys=capsys)
        (tmp_path / "away.png").rename(file)
    before = file.read_bytes()
    assert call(photo, "--out", out, *only, "--dry-run", capsys=capsys)[0] == cli.FAILED
    assert call(photo, "--out", out, *only, capsys=capsys)[0] == cli.FAILED
    assert BARED in rows(out)["us.png"][1]
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", ["pipe", "nested", "endless", "folder", "half", "outside"])
def test_whatever_bears_the_name_of_a_note_ends_no_call_and_leads_nowhere(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    files, known = contents(out), rows(out)
    outside = tmp_path / "outside.png"
    shutil.copy(folder / "a.png", outside)
    name = hashlib.sha256(b"../outside.png").hexdigest()[:32]
    for note in (out / ".cloak" / f"0-of-1-{name}.next", out / ".cloak" / f"0-of-1-{name}.part"):
        if kind == "pipe":
            os.mkfifo(note)
        elif kind == "endless":
            note.symlink_to("/dev/zero")
        elif kind == "folder":
            note.mkdir()
        elif kind == "nested":
            note.write_bytes(b"[" * 200_000)
        elif kind == "half":
            note.write_bytes(b'{"target": "a.p')
        else:
            with Manifest(out) as manifest:
                (row,) = manifest.rows()
            data = outside.read_bytes()
            row = replace(row, target="../outside.png", written=len(data), output=hashlib.sha256(data).hexdigest())
            note.write_text(json.dumps(row.as_dict() | {"faces": json.dumps(row.faces)}))
    for more in (("--dry-run",), ()):
        code, summary, _ = call(folder, "--out", out, *more, capsys=capsys)
        assert (code, summary["earlier"]["cloaked"]) == (cli.NOTHING, 1)
    assert (contents(out), rows(out), outside.exists()) == (files, known, True)


def test_rows_are_forgotten_in_this_folders_own_manifests_alone(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, other = sources(tmp_path / "photos", photos), tmp_path / "out", tmp_path / "other"
    (folder / "bad.jpg").write_text("no picture")
    for place in (out, other):
        call(folder, "--out", place, capsys=capsys)
    own = out / ".cloak"
    shutil.copy(own / "manifest.sqlite", own / "manifest-backup.sqlite")
    (own / "manifest-0-of-9.sqlite").symlink_to(other / ".cloak" / "manifest.sqlite")
    (folder / "bad.jpg").unlink()
    call(folder, "--out", out, "--shard", "0/2", capsys=capsys)
    for manifest in (other / ".cloak" / "manifest.sqlite", own / "manifest-backup.sqlite"):
        with closing(sqlite3.connect(manifest)) as database:
            assert database.execute("SELECT count(*) FROM photos WHERE target = 'bad.jpg'").fetchone() == (1,)


def test_what_a_worker_that_died_wrote_in_this_call_is_nobodys_work(tmp_path: Path) -> None:
    (tmp_path / ".cloak").mkdir()
    row = Row("a.png", "a.png", 1, 1, "0" * 64, "key", "cloaked")
    outputs.write(tmp_path, row, b"rounded one way", tmp_path / "source.png", shard=(0, 1))
    assert outputs.set_aside(tmp_path, "a.png", b"rounded otherwise", stamp="", shard=(0, 1)) == ""
    (tmp_path / "a.png").write_bytes(b"an edit")
    kept = outputs.set_aside(tmp_path, "a.png", b"rounded otherwise", stamp="", shard=(0, 1))
    assert (tmp_path / kept).read_bytes() == b"an edit"


def test_a_call_that_is_interrupted_records_what_it_has_written(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"

    def ends(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_record", ends)
        arguments = [str(folder), "--out", str(out), *SETTINGS]
        assert cli.main(["run", *arguments]) == cli.INTERRUPTED
    assert [row[0] for row in rows(out).values()] == ["cloaked"]
    assert cli.main(["status", str(out)]) == cli.OK


def test_a_file_of_an_earlier_state_of_a_photo_is_kept(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    first = contents(out)
    with Image.open(folder / "a.png") as image:
        image.crop((0, 3, *image.size)).save(folder / "a.png")
    call(folder, "--out", out, "--only", photos / "obama.jpg", capsys=capsys)
    assert contents(out) == first, "who is not wanted is there all the same"
    assert "earlier state of this photo" in rows(out)["a.png"][1]
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(folder / "a.png")
    call(folder, "--out", out, capsys=capsys)
    (kept,) = (out / ".cloak" / "replaced").iterdir()
    assert ({}, first["a.png"]) == (contents(out), kept.read_bytes())
    assert f".cloak/replaced/{kept.name}" in rows(out)["a.png"][1]


def test_an_edit_of_a_file_whose_row_was_never_written_is_kept(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    killed_before_a_row(out, monkeypatch, lambda: call(folder, "--out", out, capsys=capsys))
    (edited,) = contents(out)
    (out / edited).write_bytes(b"an edit")
    call(folder, "--out", out, "--only", photos / "obama.jpg", capsys=capsys)
    assert contents(out) == {edited: b"an edit"}
    assert call(folder, "--out", out, capsys=capsys)[0] == cli.OK
    (kept,) = (out / ".cloak" / "replaced").iterdir()
    assert kept.read_bytes() == b"an edit"


def test_a_changed_file_is_the_photos_still_after_a_call_that_failed(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    whole = (folder / "a.png").read_bytes()
    (out / "a.png").write_bytes(b"an edit")
    (folder / "a.png").write_bytes(b"broken")
    assert call(folder, "--out", out, capsys=capsys)[0] == cli.FAILED
    assert (out / "a.png").read_bytes() == b"an edit"
    (folder / "a.png").write_bytes(whole)
    assert call(folder, "--out", out, capsys=capsys)[0] == cli.OK
    (kept,) = (out / ".cloak" / "replaced").iterdir()
    assert kept.read_bytes() == b"an edit"


def test_a_cloaked_file_that_somebody_changed_is_kept_beside(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    first = contents(out)
    (out / "a.png").write_bytes(b"my own notes")
    code, _, said = call(folder, "--out", out, capsys=capsys)
    assert (code, contents(out)) == (cli.OK, first)
    (kept,) = (out / ".cloak" / "replaced").iterdir()
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (b"my own notes", 0o600)
    assert f"{ASIDE} .cloak/replaced/{kept.name}." in rows(out)["a.png"][1]
    assert kept.name in said
    for blank in (b"", b"\0" * 5000):
        (out / "a.png").write_bytes(blank)
        assert call(folder, "--out", out, capsys=capsys)[0] == cli.OK
        assert contents(out) == first
    assert [path.name for path in (out / ".cloak" / "replaced").iterdir()] == [kept.name], "nobody's work"


def test_a_failure_under_other_settings_keeps_what_was_made_under_the_old_ones(
    tmp_path: Path,
    photos: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    call(folder, "--out", out, capsys=capsys)
    first = contents(out)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outputs, "write", full)
        code, _, said = call(folder, "--out", out, "--mode", "high", capsys=capsys)
    assert code == cli.FAILED
    assert "full" in said
    assert contents(out) == first
    assert "made with earlier settings" in rows(out)["a.png"][1]
    (folder / "a.png").write_bytes(b"broken")
    call(folder, "--out", out, "--mode", "high", capsys=capsys)
    assert contents(out) == first
    assert "earlier state of this photo" in rows(out)["a.png"][1]


ERRORS = [
    RecursionError("too deep"),
    OverflowError("too large"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"),
    MemoryError(),
    OSError(errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize("stage", ["selected", "jobs", "fit", "describe", "prepare", "write"])
def test_whatever_one_photo_raises_is_its_row(
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    whose = outputs if stage == "write" else runner if stage == "prepare" else Cloaker
    real = getattr(whose, stage)
    raised: list[Exception] = []
    lock = threading.Lock()  # photos are prepared and finished in several threads, of which one alone shall fail

    def fail(*arguments: object, **named: object) -> object:
        # The pass that tells who is who selects, too, before any photo is cloaked.
        with lock:
            if not raised and "look" not in [frame.name for frame in traceback.extract_stack()]:
                raised.append(ERRORS[len(stage) % len(ERRORS)])
                raise raised[-1]
        return real(*arguments, **named)

    monkeypatch.setattr(whose, stage, fail)
    album = collection / "album"
    shutil.copy(collection / "grey.png", album / "grey.png")
    code, summary, _ = call(album, "--out", tmp_path / "out", capsys=capsys)
    assert raised
    assert code == cli.FAILED
    assert summary["counts"] == {"cloaked": 1, "no_face": 0, "skipped": 0, "failed": 1}
    (reason,) = (reason for status, reason, _ in rows(tmp_path / "out").values() if status == "failed")
    log = tmp_path / "out" / ".cloak" / "errors.log"
    if isinstance(raised[0], (MemoryError, OSError)):
        assert not log.exists()
    else:
        assert type(raised[0]).__name__ in reason
        assert str(log) in reason
        assert "Traceback" in log.read_text()
        assert log.stat().st_mode & 0o077 == 0
    monkeypatch.undo()
    code, summary, _ = call(album, "--out", tmp_path / "out", capsys=capsys)
    assert (code, summary["counts"]["cloaked"]) == (cli.OK, 1), "it was not tried again"


def test_a_row_that_cannot_be_stored_is_that_photos_failure(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = Cloaker.describe

    def odd(*arguments: object) -> tuple:
        return tuple(replace(face, shift={"tiny": np.float32(1)}) for face in describe(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(Cloaker, "describe", odd)
    code, summary, _ = call(collection / "album", "--out", tmp_path / "out", capsys=capsys)
    assert (code, summary["counts"]["failed"]) == (cli.FAILED, 1)
    assert "TypeError" in rows(tmp_path / "out")["same.png"][1]


def test_a_device_without_memory_ends_the_run_with_one_sentence_and_it_resumes(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(Lane, "advance", exhausted)
        code, summary, said = call(collection / "album", "--out", tmp_path / "out", capsys=capsys)
    assert code == cli.FAILED
    assert "smaller --batch" in summary["error"]
    assert "goes on from there" in said
    assert "Traceback" not in said
    code, _, _ = call(collection / "album", "--out", tmp_path / "out", capsys=capsys)
    assert code == cli.OK


def a_file(out: Path) -> None:
    out.write_text("not a folder")


def below_a_file(out: Path) -> None:
    out.parent.rmdir()
    out.parent.write_text("not a folder")


def own_folder_a_file(out: Path) -> None:
    out.mkdir()
    (out / ".cloak").write_text("")


def own_folder_a_link(out: Path) -> None:
    out.mkdir()
    (out / ".cloak").symlink_to(out.parent, target_is_directory=True)


def damaged(out: Path) -> None:
    (out / ".cloak").mkdir(parents=True)
    (out / ".cloak" / "manifest.sqlite").write_bytes(b"no database " * 1000)


def emptied(out: Path) -> None:
    with Manifest(out):
        pass
    (out / ".cloak" / "manifest.sqlite").write_bytes(b"")


def damaged_inside(out: Path) -> None:
    with Manifest(out) as manifest:
        manifest.put(*(Row(f"{i}.png", "x" * 300, 0, 0, "", "", "failed") for i in range(500)))
    with open(out / ".cloak" / "manifest.sqlite", "r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 30000)


def newer(out: Path) -> None:
    with Manifest(out):
        pass
    with closing(sqlite3.connect(out / ".cloak" / "manifest.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")


def other_columns(out: Path) -> None:
    (out / ".cloak").mkdir(parents=True)
    with closing(sqlite3.connect(out / ".cloak" / "manifest.sqlite")) as database:
        database.execute("CREATE TABLE photos (name TEXT)")


@pytest.mark.parametrize(
    "trouble",
    [
        a_file,
        below_a_file,
        own_folder_a_file,
        own_folder_a_link,
        damaged,
        emptied,
        damaged_inside,
        newer,
        other_columns,
    ],
)
def test_an_out_that_cannot_be_used_is_one_sentence_and_exit_2(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trouble: Callable[[Path], None]
) -> None:
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    trouble(out)
    code, summary, said = call(collection / "album", "--out", out, capsys=capsys)
    assert code == cli.USAGE
    assert str(out.parent) in summary["error"]
    assert [line for line in said.splitlines() if line.startswith("cloak: ")] == [f"cloak: {summary['error']}"]
    assert "Traceback" not in said


def test_a_disk_without_locks_serves_all_the_same(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    settings = [*SETTINGS, "--json"]
    assert cli.main(["run", str(collection / "album"), "--out", str(tmp_path / "out"), *settings]) == cli.OK
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["report"], "no report without locks"
    assert rows(tmp_path / "out")["same.png"][0] == "cloaked"
    assert not list((tmp_path / "out" / ".cloak").glob("*.held"))
    with Manifest(tmp_path / "out"), pytest.raises(BusyError, match=f"process {os.getpid()} on"):
        Manifest(tmp_path / "out")


@pytest.mark.parametrize("lies", ["a link to the originals", "a file"])
def test_what_comes_to_lie_where_a_folder_has_to_be_is_that_photos_row(
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    lies: str,
) -> None:
    out, before = tmp_path / "out", contents(collection)
    write = outputs.write

    def plant(*arguments: object, **named: object) -> Row:
        if not os.path.lexists(out / "album"):
            if lies == "a file":
                (out / "album").write_text("mine")
            else:
                (out / "album").symlink_to(collection / "album", target_is_directory=True)
        return write(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write", plant)
    code, summary, _ = call(collection, "--out", out, capsys=capsys)
    assert code == cli.FAILED
    assert summary["counts"]["cloaked"] == 2
    assert contents(collection) == before, "an original was overwritten"
    assert lies.removesuffix(" to the originals").split()[-1] in rows(out)["album/same.png"][1]
    assert not list(out.rglob("*.part"))


def test_a_copy_has_the_permissions_and_the_time_of_its_photo(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    shutil.copy(folder / "a.png", folder / "b.png")
    (folder / "a.png").chmod(0o600)
    (folder / "b.png").chmod(0o644)
    (folder / "private").mkdir()
    shutil.copy(folder / "b.png", folder / "private" / "c.png")
    (folder / "private").chmod(0o710)
    folder.chmod(0o755)
    os.utime(folder / "a.png", ns=(10**18, 10**18))
    call(folder, "--out", out, capsys=capsys)
    modes = {name: (out / name).stat().st_mode & 0o777 for name in ("a.png", "b.png", "private/c.png")}
    assert modes == {"a.png": 0o600, "b.png": 0o644, "private/c.png": 0o640}
    assert (out / "a.png").stat().st_mtime_ns == 10**18
    assert (out / ".cloak").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (out / ".cloak").iterdir())


def test_a_photo_of_the_year_2300_and_one_that_is_a_pipe_stop_nobody(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = sources(tmp_path / "photos", photos), tmp_path / "out"
    os.utime(folder / "a.png", (10413792000, 10413792000))
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    code, summary, _ = call(folder, "--out", out, capsys=capsys)
    assert code == cli.FAILED
    assert summary["counts"] == {"cloaked": 1, "no_face": 0, "skipped": 0, "failed": 2}
    code, summary, said = call(folder, "--out", out, capsys=capsys)
    assert (code, summary["earlier"].get("cloaked")) == (cli.FAILED, 1)
    assert "pipe.jpg" in said
    assert "device.jpg" in said
    assert cli.main(["run", str(folder), "--out", str(out), "--only", str(folder / "pipe.jpg"), *SETTINGS]) == cli.USAGE


def test_names_cannot_steer_the_terminal_and_progress_is_told_without_one(
    tmp_path: Path, photos: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sources(tmp_path / "photos", photos)
    (folder / "\x1b[31mred\nline\u202e.jpg").write_bytes(b"broken")
    out = tmp_path / "out\x1b[2J"
    assert cli.main(["run", str(folder), "--out", str(out), *SETTINGS]) == cli.FAILED
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert r"\x1b[31mred\nline\u202e.jpg" in said.err
    assert "0 of 2 photos" in said.err
    assert "2 of 2 photos" in said.err
    assert cli.main(["run", str(folder), "--out", str(out), *SETTINGS, "--quiet", "--restart"]) == cli.FAILED
    quiet = capsys.readouterr().err
    assert "of 2 photos" not in quiet
    assert "FAILED" in quiet
