"""`cloak status` on manifests of known rows: what it says, in which form, and that it leaves no trace."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import weakref
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY

from engine import cli
from engine.bulk import manifest, status
from engine.bulk.manifest import UNCLOAKED, Manifest, Row, Survey
from engine.bulk.records import Records
from engine.bulk.untouched import reading

FACE = {"box": [0, 0, 9, 9], "dssim": 0.0061}
NOTE = "Left out of the file: a thumbnail."
HOSTILE = "album/\x1b[2Jb\u202egpj.jpg"


def row(target: str, kind: manifest.Status = "cloaked", reason: str = "", *, faces: int = 1, **more: object) -> Row:
    cloaked = kind == "cloaked"
    entries = [dict(FACE) for _ in range(faces)] if cloaked else []
    return Row(target, f"album/{target}", 1, 1, "s", "k", kind, reason, 4 if cloaked else 0, entries, **more)  # type: ignore[arg-type]


def fill(out: Path, *rows: Row, shard: str = "") -> None:
    """Rows in a manifest, each cloaked one with its file."""
    with Manifest(out, shard=shard) as opened:
        opened.put(*rows)
    for entry in rows:
        if entry.status == "cloaked":
            (out / entry.target).write_bytes(b"file")


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["status", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def trace(out: Path) -> dict[str, tuple[int, bytes]]:
    """All files below a folder, with their times and contents."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    fill(
        tmp_path / "out",
        row("a.jpg", reason=NOTE, faces=2),
        row("b.jpg", "failed", "The file is damaged."),
        row("c.jpg", reason=f"{UNCLOAKED} a face of 9 pixels."),
        row("d.jpg", "no_face", "No face was found."),
        row("e.txt", "skipped", "not a photo: .txt"),
        row("f.dng", "skipped", "looks like a photo but is not read (.dng): export it"),
        row("g.mp4", "skipped", "a film, whose faces stay as they are: .mp4"),
        row("gone.jpg"),
    )
    (tmp_path / "out" / "gone.jpg").unlink()
    return tmp_path / "out"


def test_every_photo_has_a_line(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(out, capsys=capsys)
    assert code == cli.FAILED
    assert said.splitlines() == [
        f"cloaked album/a.jpg: 2 faces, DSSIM 0.00610. {NOTE}",
        "FAILED album/b.jpg: The file is damaged.",
        f"PROTECTED IN PART album/c.jpg: 1 face, DSSIM 0.00610. {UNCLOAKED} a face of 9 pixels.",
        "NOT PROTECTED album/d.jpg: No face was found.",
        "skipped album/e.txt: not a photo: .txt",
        "NOT READ album/f.dng: looks like a photo but is not read (.dng): export it",
        "NOT READ album/g.mp4: a film, whose faces stay as they are: .mp4",
        f"FAILED album/gone.jpg: 1 face, DSSIM 0.00610. {status.GONE}",
        "2 cloaked (3 faces), 1 without a face, 2 failed, 3 skipped. Not protected: 3 failed or with a face that is "
        "not protected, 1 without a face, 2 not read.",
    ]


@pytest.mark.parametrize("form", ["", "--json", "--csv"])
def test_failed_names_every_photo_that_is_not_protected(
    form: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, _ = call(out, "--failed", *filter(None, [form]), capsys=capsys)
    assert re.findall(r"album/([a-z.0-9]+)", said) == ["b.jpg", "c.jpg", "d.jpg", "f.dng", "g.mp4", "gone.jpg"]


def test_a_photo_without_a_face_is_named_and_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, row("a.jpg"), row("d.jpg", "no_face", "No face was found."))
    code, said, _ = call(tmp_path, "--failed", capsys=capsys)
    assert (code, said.splitlines()) == (
        cli.OK,
        [
            "NOT PROTECTED album/d.jpg: No face was found.",
            "1 cloaked (1 face), 1 without a face, 0 failed, 0 skipped. Not protected: 1 without a face.",
        ],
    )


def test_an_output_is_named_where_the_photo_does_not_tell_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A photo with two rows, also by two shards, one whose format was changed, and one of a name that is no UTF-8."""
    (tmp_path / "a").mkdir()
    odd = os.fsdecode(b"/x/\xff.jpg")
    twice = row("one.png", place="/x/one.png")
    fill(tmp_path, twice, row("b.jpg", place="/x/b.jpg"), shard="0-of-2")
    fill(
        tmp_path,
        replace(twice, target="a/one.png"),
        replace(row("c.png"), source="album/c.jpg"),
        replace(row("d.png", place=odd), source=odd),
        replace(row("e.png", "failed", "why", place=odd), source=odd),
        shard="1-of-2",
    )
    _, said, _ = call(tmp_path, capsys=capsys)
    assert {line.split(":")[0] for line in said.splitlines()[:-1]} == {
        "cloaked /x/one.png -> one.png",
        "cloaked /x/one.png -> a/one.png",
        "cloaked /x/b.jpg",
        "cloaked album/c.jpg -> c.png",
        r"cloaked /x/\xff.jpg -> d.png",
        r"FAILED /x/\xff.jpg",
    }


def test_json_is_an_object_a_line_and_the_totals(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = call(out, "--json", capsys=capsys)
    *rows, totals = map(json.loads, said.splitlines())
    assert code == cli.FAILED
    assert [record["source"] for record in rows if record["unprotected"]] == [
        "album/b.jpg",
        "album/c.jpg",
        "album/gone.jpg",
    ]
    assert rows[0] == {
        "source": "album/a.jpg",
        "output": "a.jpg",
        "status": "cloaked",
        "unprotected": False,
        "faces": 2,
        "dssim": 0.0061,
        "bytes": 4,
        "reason": NOTE,
    }
    assert totals == {
        "counts": {"cloaked": 2, "no_face": 1, "skipped": 3, "failed": 2},
        "faces": 3,
        "dssim_max": 0.0061,
        "unprotected": 3,
        "faceless": 1,
        "unread": 2,
    }


def test_a_table_is_safe_in_a_spreadsheet_and_in_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", 'q"u,o', os.fsdecode(b"\xff.jpg"), "two\nlines", "ok.jpg"]
    fill(tmp_path, *(Row(f"{n}.jpg", name, 1, 1, "s", "k", "no_face", "r") for n, name in enumerate(names)))
    fill(tmp_path, Row("9.jpg", HOSTILE, 1, 1, "s", "k", "failed", "\x1b]0;title\x07"))
    code, said, err = call(tmp_path, "--csv", capsys=capsys)
    head, *rows = csv.reader(io.StringIO(said))
    assert code == cli.FAILED
    assert tuple(head) == status.Record._fields
    assert [record[0] for record in rows] == [
        "'=cmd|' /C calc'!A0",
        "'+1",
        "'-1",
        "'@x",
        'q"u,o',
        r"\xff.jpg",
        r"two\nlines",
        "ok.jpg",
        r"album/\x1b[2Jb\u202egpj.jpg",
    ]
    assert not {"\x1b", "\x07", "\u202e"} & set(said + err)
    assert "1 failed" in err
    for form in ((), ("--json",)):
        _, said, err = call(tmp_path, *form, capsys=capsys)
        assert not {"\x1b", "\x07", "\u202e"} & set(said + err)
        assert len(said.splitlines()) == len(names) + 2


def test_the_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(tmp_path, capsys=capsys)
    assert (code, "no `cloak run` has written there" in err) == (cli.USAGE, True)
    code, said, _ = call(tmp_path / "nowhere", "--json", capsys=capsys)
    assert (code, "nowhere" in json.loads(said)["error"]) == (cli.USAGE, True)
    fill(tmp_path)
    assert call(tmp_path, "--csv", capsys=capsys)[:2] == (cli.NOTHING, ",".join(status.Record._fields) + "\n")
    fill(tmp_path, row("e.txt", "skipped", "not a photo"))
    assert call(tmp_path, capsys=capsys)[0] == cli.NOTHING
    fill(tmp_path, row("a.jpg"), row("d.jpg", "no_face", "No face."))
    assert call(tmp_path, capsys=capsys)[0] == cli.OK
    assert call(tmp_path, "--json", "--csv", capsys=capsys)[0] == cli.USAGE
    (tmp_path / ".cloak" / "manifest.sqlite").write_bytes(b"no database at all, but long enough" * 100)
    code, _, err = call(tmp_path, capsys=capsys)
    assert (code, "cannot be read" in err) == (cli.USAGE, True)


@pytest.mark.parametrize("damage", ["empty", "leads nowhere", "junk"])
def test_a_manifest_that_is_no_use_is_named(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, row("a.jpg"), shard="0-of-2")
    path = tmp_path / ".cloak" / "manifest-0-of-2.sqlite"
    path.unlink()
    if damage == "leads nowhere":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(b"" if damage == "empty" else b"junk" * 100)
    code, _, err = call(tmp_path, capsys=capsys)
    assert (code, path.name in err) == (cli.USAGE, True)


def test_of_two_manifests_the_last_one_is_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, row("a.jpg", "failed", "once"), row("b.jpg"), shard="0-of-2")
    fill(tmp_path, row("a.jpg"), row(os.fsdecode(b"\xff.jpg"), "no_face", "x"), row("z.jpg"), shard="1-of-2")
    for age, shard in enumerate(("0-of-2", "1-of-2")):  # whichever file was touched last
        os.utime(tmp_path / ".cloak" / f"manifest-{shard}.sqlite", (1000 - age, 1000 - age))
    code, said, _ = call(tmp_path, capsys=capsys)
    assert [line.split(":")[0] for line in said.splitlines()[:-1]] == [
        "cloaked album/a.jpg",
        "cloaked album/b.jpg",
        "cloaked album/z.jpg",
        r"NOT PROTECTED album/\xff.jpg",
    ]
    assert code == cli.OK


def test_a_row_of_another_photo_makes_no_older_row_newer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, row("a.jpg"), row("b.jpg"))
    monkeypatch.setattr("engine.bulk.manifest.time.time_ns", lambda: 5)  # a clock that was put back
    fill(tmp_path, row("a.jpg", "failed", "It is damaged."), shard="0-of-2")
    fill(tmp_path, row("other.jpg"))
    code, said, _ = call(tmp_path, capsys=capsys)
    assert "FAILED album/a.jpg: It is damaged." in said
    assert code == cli.FAILED
    with Survey(tmp_path) as survey:
        assert {row.target: row.status for row in survey.rows()} == {
            "a.jpg": "failed", "b.jpg": "cloaked", "other.jpg": "cloaked",
        }  # fmt: skip
    assert Records(tmp_path).known("a.jpg").last.status == "failed"  # type: ignore[union-attr]


def test_a_damaged_turn_in_another_manifest_is_told_by_who_reads_it(tmp_path: Path) -> None:
    fill(tmp_path, row("a.jpg"), shard="0-of-2")
    with closing(sqlite3.connect(tmp_path / ".cloak" / "manifest-0-of-2.sqlite")) as database, database:
        database.execute("UPDATE photos SET turn = 'x'")
    fill(tmp_path, row("b.jpg"), shard="1-of-2")
    with pytest.raises(sqlite3.DatabaseError, match="its turn is 'x'"):
        Records(tmp_path)
    with Survey(tmp_path) as survey, pytest.raises(sqlite3.DatabaseError, match="its turn is 'x'"):
        list(survey.rows())


@pytest.mark.parametrize(
    "faces",
    [
        "[1]",
        '[{"dssim": 0.1}]',
        '[{"box": [0, 0, 9, 9]}]',
        '[{"box": [0, 0, 9], "dssim": 0.1}]',
        "[[]]",
        "{",
        '[{"box": [0, 0, 9, 1e999], "dssim": 0.1}]',
        '[{"box": [0, 0, 9, 9], "dssim": NaN}]',
        '[{"box": [0, 0, 9, 9], "dssim": 1%s}]' % ("0" * 400),
        '[{"box": [0, 0, 9, 9], "dssim": 0.1, "shift": [1]}]',
        '[{"box": [0, 0, 9, 9], "dssim": 0.1, "shift": {"a": "b"}}]',
    ],
)
def test_a_row_whose_faces_are_not_faces_is_told_by_who_reads_it(
    tmp_path: Path, faces: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, row("a.jpg"))
    with closing(sqlite3.connect(tmp_path / ".cloak" / "manifest.sqlite")) as database, database:
        database.execute("UPDATE photos SET faces = ?", (faces,))
    code, out, err = call(tmp_path, capsys=capsys)
    assert (code, out) == (cli.USAGE, "")
    assert "a row is damaged: its faces" in err
    assert "manifest.sqlite" in err
    with Survey(tmp_path) as survey, pytest.raises(sqlite3.DatabaseError, match="its faces"):
        list(survey.rows())


def test_nothing_is_written_while_a_run_writes_and_after_it_was_killed(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from engine.bulk.manifest import Manifest, Row\n"
        "opened = Manifest(Path(sys.argv[1]))\n"
        "opened.put(Row('late.jpg', 'album/late.jpg', 1, 1, 's', 'k', 'failed', 'late'))\n"
        "print('written', flush=True); time.sleep(100)\n"
    )
    before = trace(out)
    call(out, capsys=capsys)
    assert trace(out) == before
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    try:
        for _ in range(2):
            before = trace(out)
            assert any(name.endswith("-wal") for name in before)
            assert "FAILED album/late.jpg: late" in call(out, capsys=capsys)[1]
            assert trace(out) == before
            process.send_signal(signal.SIGKILL)
            process.wait()
    finally:
        process.kill()
        process.communicate()
    (out / ".cloak" / "manifest.sqlite-shm").unlink()  # as in a copy of the folder
    before = trace(out)
    assert "FAILED album/late.jpg: late" in call(out, capsys=capsys)[1]
    assert trace(out) == before


def test_a_row_is_let_go_before_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(row(f"{n:04}.jpg", "no_face", "x") for n in range(500)), shard="0-of-2")
    fill(tmp_path, *(row(f"{n:04}.jpg", "no_face", "x") for n in range(250, 750)), shard="1-of-2")
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    read = status.read_row

    def counted(columns: dict) -> Row:
        made = read(columns)
        seen.append(made.target)
        alive.add(made)
        return made

    seen: list[str] = []
    monkeypatch.setattr(Row, "__hash__", object.__hash__)
    monkeypatch.setattr(status, "read_row", counted)
    most, count = 0, 0
    for _ in status.rows(tmp_path):
        count += 1
        most = max(most, len(alive))
    assert (len(seen), count) == (1000, 750)
    assert most <= 6


def test_rows_are_read_in_the_order_of_an_index(out: Path) -> None:
    with reading(out / ".cloak" / "manifest.sqlite") as database:
        plan = database.execute("EXPLAIN QUERY PLAN SELECT * FROM photos ORDER BY target").fetchall()
    assert not any("TEMP B-TREE" in step[-1] for step in plan), "SQLite would sort all rows before the first"


def test_an_interrupt_is_a_sentence(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(out: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "rows", broken)
    code, _, err = call(out, capsys=capsys)
    assert (code, err) == (cli.INTERRUPTED, "Interrupted. Nothing was changed.\n")


def test_a_manifest_that_breaks_on_the_way_is_said(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(columns: dict) -> Row:
        raise sqlite3.DatabaseError("a row is damaged")

    monkeypatch.setattr(status, "read_row", broken)
    code, _, err = call(out, capsys=capsys)
    assert (code, "a row is damaged" in err) == (cli.USAGE, True)
