"""What a call has to do: whose a name in the output folder is, what is done already, what cannot be done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from engine.bulk import manifest, places
from engine.bulk import plan as planner
from engine.bulk.inputs import collect
from engine.bulk.manifest import INTERRUPTED, BusyError, Manifest, Row, Survey, finished
from engine.bulk.places import Disk
from engine.bulk.plan import Options, Plan, announce, fingerprint, plan
from engine.bulk.records import Records
from engine.bulk.run import _gone
from engine.bulk.untouched import reading
from engine.config import Detection, Output, Recipe

JPEG = b"\xff\xd8\xff"


@dataclass
class Album:
    """A folder with photos and one with what came of them; `call` does what `cloak run` does, with bytes for cloaks."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    def photo(self, name: str, content: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG + (content or name).encode())
        return path

    def plan(self, *names: str, settings: str = "s", format: str = "keep", out: Path | None = None, **more) -> Plan:
        out = out or self.out
        items = collect([self.root / name for name in names], out=out, format=format)  # type: ignore[arg-type]
        return plan(items, out, settings, Options(Output(format), **more))  # type: ignore[arg-type]

    def call(self, *names: str, faces: bool = True, out: Path | None = None, **more) -> Plan:
        """Plans, and does it; a photo whose name has "bad" in it fails."""
        out = out or self.out
        index, count = more.get("shard", (0, 1))
        with Manifest(out, shard="" if count == 1 else f"{index}-of-{count}") as manifest:
            planned = self.plan(*names, out=out, **more)
            manifest.put(*planned.renewed)
            manifest.put(*planned.passed)
            for task in planned.tasks:
                if "bad" in task.item.source.name or not task.size:
                    manifest.put(task.row("failed", "Damaged."))
                    continue
                if not faces:
                    manifest.put(task.row("no_face", "No face was found."))
                    continue
                announce(manifest, [task])
                data = b"cloaked " + task.item.source.read_bytes() + more.get("settings", "s").encode()
                (out / task.item.target).parent.mkdir(parents=True, exist_ok=True)
                (out / task.item.target).write_bytes(data)
                manifest.put(finished(task.row("cloaked", "", faces=[{"box": [0, 0, 9, 9], "dssim": 0.1}]), out, data))
        return planned

    def written(self) -> dict[str, bytes]:
        files = (path for path in self.out.rglob("*") if path.is_file() and ".cloak" not in path.parts)
        return {str(path.relative_to(self.out)): path.read_bytes() for path in files}


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album(tmp_path)


def said(planned: Plan) -> dict[str, str]:
    return {Path(row.source).name: row.reason for row in (*planned.passed, *planned.left)}


def tasks(planned: Plan) -> list[str]:
    return [task.item.target for task in planned.tasks]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_name_stays_the_photos_whose_cloak_lies_there(album: Album, shards: int) -> None:
    album.photo("2019/a.jpg"), album.photo("2020/a.jpg"), album.photo("2020/b.jpg")
    for index in range(shards):
        album.call("2019", shard=(index, shards))
    first = album.written()
    planned = album.call("2020")
    assert tasks(planned) == ["b.jpg"]
    (row,) = planned.passed
    assert row.status == "failed"
    assert str(album.root / "2019/a.jpg") in row.reason
    assert "another --out" in row.reason.lower()
    assert row.source == str(album.root / "2020/a.jpg")
    assert first.items() < album.written().items()
    again = album.call("2020")
    assert (tasks(again), again.passed, len(again.left)) == ([], [], 1), "it is said in every call"
    back = album.call("2019")
    assert (tasks(back), back.passed, back.earlier["cloaked"]) == ([], [], 1), "the row of the first was replaced"
    (album.out / "a.jpg").unlink()
    assert tasks(album.call("2020")) == ["a.jpg"], "a name that is free again"


def test_of_files_made_with_other_settings_it_is_known_that_they_will_be_replaced(album: Album) -> None:
    for name in ("a", "b", "bad", "gone", "edited"):
        album.photo(f"in/{name}.jpg")
    assert album.call("in").again == set()
    album.photo("in/new.jpg")
    assert album.plan("in").again == set()
    (album.out / "gone.jpg").unlink()
    album.photo("in/edited.jpg", "another")
    for dry in (False, True):
        planned = album.plan("in", settings="other", dry_run=dry)
        assert planned.again == {"a.jpg", "b.jpg"}
        assert len(planned.tasks) == 6
    assert album.plan("in", settings="other", restart=True).again == set(), "it was asked for"
    assert album.plan("in/b.jpg", settings="other").again == {"b.jpg"}


def test_one_photo_is_known_however_it_is_spelled(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    album.photo("in/a.jpg")
    album.call("in")
    monkeypatch.chdir(album.root)
    (album.root / "link").symlink_to("in")
    for spelled in ("in", "in/../in", "link", "in/a.jpg"):
        planned = plan(collect([Path(spelled)], out=Path("out")), Path("out"), "s", Options())
        assert (tasks(planned), planned.passed, planned.earlier["cloaked"]) == ([], [], 1), spelled
    album.photo("in/a.jpg", "edited")
    for spelled in ("in", "link"):
        assert tasks(plan(collect([Path(spelled)], out=Path("out")), Path("out"), "s", Options())) == ["a.jpg"], spelled


def test_a_relative_path_is_not_taken_for_that_of_another_folder(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    for year in ("2019", "2020"):
        album.photo(f"{year}/a.jpg")
        monkeypatch.chdir(album.root / year)
        planned = plan(collect([Path("a.jpg")], out=album.out), album.out, "s", Options())
        if year == "2019":
            monkeypatch.chdir(album.root / "2019")
            album.call("2019")
        else:
            assert tasks(planned) == []
            assert [row.status for row in planned.passed] == ["failed"]


def test_a_renamed_album_is_the_same_and_what_was_edited_in_it_is_not(album: Album) -> None:
    for name in "ab":
        album.photo(f"old/{name}.jpg")
    album.call("old")
    (album.root / "old").rename(album.root / "new")
    planned = album.call("new")
    assert (tasks(planned), planned.earlier["cloaked"]) == ([], 2)
    assert {row.place for row in planned.renewed} == {str(album.root / f"new/{name}.jpg") for name in "ab"}
    assert all(row.faces for row in planned.renewed), "renewed rows lost their faces"
    album.photo("new/a.jpg", "edited")
    planned = album.call("new")
    assert (tasks(planned), planned.renewed) == (["a.jpg"], [])
    (album.root / "new").rename(album.root / "newer")
    album.photo("newer/a.jpg", "edited again")
    assert [row.status for row in album.call("newer").passed] == ["failed"], "for all that is known it is another photo"


def test_of_photos_named_one_by_one_each_is_done_or_named(album: Album) -> None:
    album.photo("x/a.jpg"), album.photo("y/a.jpg"), album.photo("z/a.jpg", "x/a.jpg"), album.photo("y/b.jpg")
    planned = album.call("x/a.jpg", "y/a.jpg", "y/b.jpg", "z/a.jpg", "x/a.jpg")
    assert sorted(tasks(planned)) == ["a.jpg", "b.jpg"]
    failed, twin = sorted(planned.passed, key=lambda row: row.status)
    assert (failed.status, failed.source) == ("failed", str(album.root / "y/a.jpg"))
    assert str(album.root / "x/a.jpg") in failed.reason
    assert (twin.status, twin.source) == ("skipped", str(album.root / "z/a.jpg"))


@pytest.mark.parametrize("first", [True, False], ids=["the good one first", "the bad one first"])
def test_what_cannot_be_opened_keeps_its_row_beside_a_photo_of_its_name(album: Album, first: bool) -> None:
    album.photo("x/a.jpg"), album.photo("x/raw.dng", "II*"), album.photo("y/raw.dng", "II*")
    (album.root / "y" / "a.jpg").symlink_to("a.jpg")
    names = ["x/a.jpg", "y/a.jpg", "x/raw.dng", "y/raw.dng"]
    for _ in range(2):
        album.call(*(names if first else names[::-1]))
        with Survey(album.out) as survey:
            rows = {row.source: row.status for row in survey.rows()}
        assert {Path(name).relative_to(album.root).as_posix(): status for name, status in rows.items()} == {
            "x/a.jpg": "cloaked", "y/a.jpg": "failed", "x/raw.dng": "skipped", "y/raw.dng": "skipped",
        }  # fmt: skip


def test_rows_that_were_set_aside_are_neither_doubled_nor_kept_for_ever(album: Album) -> None:
    for year in ("a", "b"):
        album.photo(f"{year}/x.mov", "....ftypqt  ")
    one, both = ["a/x.mov"], ["a/x.mov", "b/x.mov"]
    for names, sources in ((one, ["a"]), (both, ["a", "b"]), (both, ["a", "b"]), (one, ["a", "b"])):
        planned = album.call(*names)
        with Manifest(album.out) as manifest:
            manifest.forget(_gone(planned.named, [album.root / name for name in names]))
            said = sorted(Path(row.source).parent.name for row in manifest.rows())
        assert said == sources, "each once"


def test_a_new_format_does_not_take_the_name_of_another_photo(album: Album) -> None:
    album.photo("in/a.jpg"), album.photo("else/a.jpg")
    album.call("in", format="png")
    planned = album.call("else", format="png")
    assert (tasks(planned), [row.status for row in planned.passed]) == ([], ["failed"])
    album.photo("many/a.png"), album.photo("many/a.jpg"), album.photo("many/a.jpg.png")
    planned = album.plan("many", format="png", out=album.root / "other")
    assert len(planned.tasks) == 2
    assert [row.status for row in planned.passed] == ["failed"]


@pytest.mark.parametrize(
    ("disk", "pairs"),
    [
        (Disk(), 4),
        (Disk(case=True), 3),
        (Disk(forms=True), 3),
        (Disk(case=True, forms=True), 2),
    ],
)
def test_names_that_are_one_on_the_output_disk(
    album: Album, monkeypatch: pytest.MonkeyPatch, disk: Disk, pairs: int
) -> None:
    monkeypatch.setattr(places, "probe", lambda out, *, write=True: disk)
    for name in ("A/IMG_1.JPG", "a/img_1.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg"):
        album.photo(f"in/{name}")
    planned = album.call("in")
    assert len(planned.tasks) == pairs
    assert len(planned.passed) == 4 - pairs
    assert all("rename one" in row.reason for row in planned.passed)
    again = album.call("in")
    assert (again.tasks, again.passed) == ([], [])
    assert len(again.left) == 4 - pairs
    if disk.case:  # one call after the other
        album.photo("later/a/IMG_1.jpg")
        assert [row.status for row in album.call("later").passed] == ["failed"]


def test_a_disk_is_asked_what_it_does(tmp_path: Path) -> None:
    (tmp_path / ".cloak").mkdir()
    assert places.probe(tmp_path) == places.probe(tmp_path, write=False) == Disk(), "this test's disk minds capitals"
    assert [path.name for path in (tmp_path / ".cloak").iterdir()] == [places.PROBE], "and nothing else is left"
    assert places.probe(tmp_path / "not" / "there", write=False) == Disk()
    assert not (tmp_path / "not").exists()
    fold = Disk(case=True, forms=True).fold
    assert fold("STRASSE/\u00c9.JPG") == fold("strasse/e\u0301.jpg")
    assert fold("stra\u00dfe") != fold("strasse"), "no disk takes these for one"


def test_shards_know_what_all_of_them_did(album: Album) -> None:
    for index in range(12):
        album.photo(f"in/{index}.jpg")
    done = [len(album.call("in", shard=(index, 2)).tasks) for index in range(2)]
    assert sum(done) == 12
    assert min(done) > 0
    for shard in ((0, 1), (1, 3)):
        planned = album.call("in", shard=shard)
        assert (planned.tasks, planned.passed) == ([], [])
    elsewhere = album.call("in", settings="other")
    assert (len(elsewhere.tasks), elsewhere.passed) == (12, [])
    assert album.call("in", shard=(0, 2), settings="other").tasks == [], "the newest row counts, whoever wrote it"


def test_shards_then_one_call_then_other_shards_make_each_photo_once(album: Album) -> None:
    for index in range(24):
        album.photo(f"in/{index}.jpg")
    album.photo("in/bad.jpg")
    done = [album.call("in", shard=(index, 3)) for index in range(3)]
    assert [len(made.passed) for made in done] == [0, 0, 0]
    assert sum(len(made.tasks) for made in done) == 25
    written = album.written()
    whole = album.call("in")
    assert (whole.tasks, whole.passed) == ([], [])
    assert [row.source for row in whole.left] == [str(album.root / "in/bad.jpg")]
    for index in range(2):
        assert album.call("in", shard=(index, 2)).tasks == []
    assert album.written() == written
    # A photo that has changed, and one that is new, are done by the one whose turn it is, whoever made the others.
    album.photo("in/3.jpg", "edited"), album.photo("in/new.jpg")
    done = [album.call("in", shard=(index, 2)) for index in range(2)]
    assert sorted(name for made in done for name in tasks(made)) == ["3.jpg", "new.jpg"]
    assert album.call("in").tasks == album.call("in", shard=(2, 3)).tasks == []
    with Survey(album.out) as survey:
        rows = list(survey.rows())
    assert Counter(row.status for row in rows) == Counter(cloaked=25, failed=1)
    assert len({row.target for row in rows}) == 26


def test_what_a_killed_shard_left_is_done_by_a_call_without(album: Album) -> None:
    for index in range(12):
        album.photo(f"in/{index}.jpg")
    album.call("in", shard=(0, 3))
    with Manifest(album.out, shard="1-of-3") as manifest:
        mine = album.plan("in", shard=(1, 3)).tasks
        announce(manifest, mine)
    album.out.joinpath(mine[0].item.target).write_bytes(b"whole, and without its row")
    album.out.joinpath(mine[1].item.target).write_bytes(b"")
    planned = album.call("in")
    assert {task.item.target for task in mine} <= set(tasks(planned))
    assert (planned.passed, album.call("in", shard=(1, 3)).tasks) == ([], [])
    assert len(album.written()) == 12


def test_runs_that_divide_the_photos_in_another_way_do_not_meet(album: Album) -> None:
    with Manifest(album.out, shard="0-of-3"), Manifest(album.out, shard="2-of-3"):
        for shard in ("", "0-of-2"):
            with pytest.raises(BusyError, match="with --shard I/3"), Manifest(album.out, shard=shard):
                pass
    with Manifest(album.out), pytest.raises(BusyError, match="without --shard"), Manifest(album.out, shard="0-of-3"):
        pass
    with Manifest(album.out, shard="0-of-2"):
        pass


def test_a_false_failure_of_an_earlier_version_is_set_right(album: Album) -> None:
    album.photo("in/a.jpg")
    for index in range(2):
        album.call("in", shard=(index, 2))
    with Manifest(album.out) as manifest:
        manifest.put(Row("a.jpg", "in/a.jpg", 1, 1, "0", "", "failed", "A file that is not this tool's lies there."))
    planned = album.call("in")
    assert planned.earlier == Counter(cloaked=1)
    with Manifest(album.out) as manifest:
        assert [(row.status, len(row.faces)) for row in manifest.rows()] == [("cloaked", 1)]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The photos that plans read, by name."""
    names: list[str] = []
    real = planner.digest
    monkeypatch.setattr(planner, "digest", lambda path: names.append(path.name) or real(path))
    return names


def test_what_has_not_changed_is_not_hashed_again_and_a_young_file_once(
    album: Album, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    album.photo("in/cloaked.jpg"), album.photo("in/bad.jpg")
    album.photo("in/twin/cloaked.jpg", "twin"), album.photo("twin/cloaked.jpg", "cloaked.jpg")
    names = ("in/cloaked.jpg", "in/bad.jpg", "twin/cloaked.jpg")
    album.call(*names)
    assert sorted(hashed) == ["bad.jpg", "cloaked.jpg", "cloaked.jpg"]
    hashed.clear()
    album.call(*names)
    assert len(hashed) == 3, "they were written a moment ago, and may have been written again in that moment"
    hashed.clear()
    monkeypatch.setattr(manifest, "YOUNG", 0)  # as if seconds had passed
    for expected in (3, 0, 0):
        assert album.call(*names).tasks == []
        assert len(hashed) == expected, "what was young is hashed once more"
        hashed.clear()
    # Whatever touches a photo has it hashed, once.
    (album.root / "in/cloaked.jpg").chmod(0o600)
    os.utime(album.root / "in/bad.jpg")
    os.utime(album.root / "twin/cloaked.jpg", (1, 1))
    for expected in (3, 0):
        assert album.call(*names).tasks == []
        assert len(hashed) == expected
        hashed.clear()


def test_an_edit_that_keeps_size_and_time_is_seen(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "YOUNG", 0)
    album.photo("in/a.jpg", "one"), album.photo("in/b.jpg", "two")
    album.call("in")
    for name, content in (("a", "eno"), ("b", "owt")):
        path = album.root / f"in/{name}.jpg"
        before = path.stat()
        if name == "b":  # another file in its place
            path.unlink()
        album.photo(f"in/{name}.jpg", content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tasks(album.call("in")) == ["a.jpg", "b.jpg"]
    assert album.call("in").tasks == []


def test_what_failed_or_has_no_face_is_named_in_every_call(album: Album) -> None:
    album.photo("in/bad.jpg"), album.photo("in/good.jpg")
    album.call("in")
    again = album.call("in")
    assert said(again) == {"bad.jpg": "Damaged."}
    album.photo("in/new.jpg")
    again = album.call("in", faces=False)
    assert (tasks(again), said(again)) == (["new.jpg"], {"bad.jpg": "Damaged."})
    assert set(said(album.call("in"))) == {"bad.jpg", "new.jpg"}


def test_a_film_and_a_file_that_was_asked_for_are_named_in_every_call(album: Album) -> None:
    for name in ("in/film.mp4", "in/notes.txt", "list.txt"):
        album.photo(name).write_bytes(b"nothing that is a picture")
    for _ in range(2):
        planned = album.call("in", "list.txt")
        assert said(planned)["film.mp4"] == "a film, whose faces stay as they are: .mp4"
        assert said(planned)["list.txt"] == "not a photo: .txt"
    assert [Path(row.source).name for row in planned.left] == ["film.mp4", "list.txt"]


@pytest.mark.parametrize("legacy", [False, True])
def test_an_output_that_is_no_longer_as_it_was_is_made_again(album: Album, legacy: bool) -> None:
    album.photo("in/a.jpg")
    album.call("in")
    if legacy:
        with Manifest(album.out) as manifest:
            manifest.put(*(replace(row, output="", stamp="") for row in manifest.rows()))
    file = album.out / "a.jpg"
    good, size = file.read_bytes(), file.stat().st_size
    file.write_bytes(bytes(size))
    assert tasks(album.plan("in")) == ["a.jpg"]
    file.write_bytes(good)
    assert tasks(album.plan("in")) == [], "touched, and still the same"
    file.unlink()
    assert tasks(album.plan("in")) == ["a.jpg"]
    file.symlink_to("nowhere")
    assert tasks(album.plan("in")) == ["a.jpg"]


def test_a_copied_output_folder_is_looked_at_once(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    album.photo("in/a.jpg")
    album.call("in")
    shutil.copytree(album.out, album.root / "copy")
    planned = album.call("in", out=album.root / "copy")
    assert (planned.tasks, len(planned.renewed)) == ([], 1)
    monkeypatch.setattr(Row, "_reads_as_written", lambda *_: pytest.fail("read again"))
    planned = album.call("in", out=album.root / "copy")
    assert (planned.tasks, planned.renewed) == ([], [])


def first_manifest(out: Path, *rows: tuple[object, ...]) -> None:
    """As version 0.1 made it. rows: target, source, size, modified, sha256, key, written."""
    (out / ".cloak").mkdir(parents=True)
    with closing(sqlite3.connect(out / ".cloak" / "manifest.sqlite")) as database, database:
        database.execute(
            "CREATE TABLE photos (target TEXT PRIMARY KEY, source TEXT, size INTEGER, modified INTEGER, sha256 TEXT,"
            " key TEXT, status TEXT, reason TEXT, written INTEGER, faces TEXT)"
        )
        database.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, 'cloaked', '', ?, '[]')", rows)


def test_what_version_0_1_did_is_taken_over(album: Album) -> None:
    source = album.photo("in/a.jpg")
    (task,) = album.plan("in").tasks
    first_manifest(album.out, ("a.jpg", "in/a.jpg", task.size, task.modified, task.sha256, task.key, 7))
    (album.out / "a.jpg").write_bytes(b"cloaked")
    assert album.plan("in").earlier == Counter(cloaked=1), "read as it is, by a dry run or a shard"
    planned = album.call("in")
    assert planned.earlier == Counter(cloaked=1)
    with Manifest(album.out) as manifest:
        (row,) = manifest.rows()
        assert (row.source, row.place) == (str(source), str(source))
    assert album.call("in").earlier == Counter(cloaked=1)


@pytest.mark.parametrize("called", ["in/{}", "{here}/in/{}"])
def test_what_version_0_1_did_with_other_settings_is_done_again(
    album: Album, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    monkeypatch.chdir(album.root)
    names = ("same.jpg", "edited.jpg", "deep/moved.jpg", "strange.jpg")
    for name in names:
        album.photo(f"in/{name}")
    before = {task.item.target: task for task in album.plan("in").tasks}
    album.photo("elsewhere/strange.jpg")
    rows = []
    for name in names:
        source = called.format(name, here=album.root).replace("in/strange", "elsewhere/strange")
        task = before[name]
        sha256 = "0" * 64 if name in ("edited.jpg", "strange.jpg") else task.sha256
        source = source.replace("moved", "earlier")
        rows.append((name, source, task.size + 1, task.modified, sha256, "old key", 7))
        (album.out / name).parent.mkdir(parents=True, exist_ok=True)
        (album.out / name).write_bytes(b"cloaked")
    first_manifest(album.out, *rows)
    for planned in (album.plan("in"), album.call("in")):
        assert sorted(tasks(planned)) == ["deep/moved.jpg", "edited.jpg", "same.jpg"]
        ((name, reason),) = ((row.target, row.reason) for row in planned.passed)
        assert "strange.jpg" in name
        assert "Another photo of that name" in reason
        assert set(planned.holders) == {"deep/moved.jpg", "edited.jpg", "same.jpg"}
    assert album.call("in").earlier["cloaked"] == 3


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("faces", "[" * 100_000), ("faces", "[1]"), ("faces", "{}"), ("faces", None), ("status", "done"),
        ("size", "large"), ("size", None), ("written", 0.5), ("place", None),
    ],
)  # fmt: skip
def test_a_damaged_row_is_named_and_raises_nothing_else(album: Album, column: str, value: object) -> None:
    album.photo("in/a.jpg"), album.photo("in/b.jpg")
    album.call("in")
    manifest = album.out / ".cloak" / "manifest.sqlite"
    with closing(sqlite3.connect(manifest)) as database, database:
        database.execute("CREATE TABLE one AS SELECT * FROM photos")  # without its constraints
        database.execute("DROP TABLE photos")
        database.execute("ALTER TABLE one RENAME TO photos")
        database.execute(f"UPDATE photos SET {column} = ? WHERE target = 'b.jpg'", (value,))
    with Survey(album.out) as survey, pytest.raises(sqlite3.Error, match=column):
        list(survey.rows())
    with Manifest(album.out) as opened, pytest.raises(sqlite3.Error, match=column):
        list(opened.rows())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what is open is listed in /proc")
def test_a_damaged_manifest_is_not_left_open(album: Album) -> None:
    album.photo("in/a.jpg")
    album.call("in")
    folder = album.out / ".cloak"
    with closing(sqlite3.connect(folder / "manifest.sqlite")) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    shutil.copy(folder / "manifest.sqlite", folder / "manifest-0-of-2.sqlite")
    damaged = folder / "manifest.sqlite"
    damaged.write_bytes(b"no database" * 400)
    for suffix in ("-wal", "-shm"):  # as beside a run at work
        damaged.with_name(damaged.name + suffix).write_bytes(b"")

    def still_open() -> set[str]:
        links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return {link for link in links if link.startswith(str(folder))}

    # The errors are kept, since a traceback keeps what its frames held.
    with pytest.raises(sqlite3.DatabaseError) as surveyed:
        Survey(album.out)
    assert not still_open(), surveyed
    with pytest.raises(sqlite3.DatabaseError) as read, reading(damaged):
        pass
    assert not still_open(), read


@pytest.mark.parametrize("inner", ["in/out", "in/deep/out"])
def test_an_output_folder_in_the_album_is_passed_over(album: Album, inner: str) -> None:
    album.photo("in/a.jpg")
    album.call("in", out=album.root / inner)
    planned = album.call("in", out=album.root / "in" / "second")
    assert tasks(planned) == ["a.jpg"]
    assert [(row.status, Path(row.source).name) for row in planned.passed] == [("skipped", "out")]
    assert "output folder" in planned.passed[0].reason


def test_what_a_manifest_knows_as_an_output_is_no_input(album: Album) -> None:
    original = album.photo("in/2019/a.jpg")
    album.call("in")
    album.photo("out/2019/own.jpg")
    (album.root / "copied").mkdir()
    shutil.copy(album.out / "2019/a.jpg", album.root / "copied/b.jpg")
    for named, status in (("out", "skipped"), ("out/2019", "skipped"), ("out/2019/a.jpg", "failed")):
        planned = album.plan(named, out=album.root / "second")
        (row,) = planned.passed
        assert (row.status, str(original) in row.reason) == (status, True), named
        assert [task.item.source.name for task in planned.tasks] == (["own.jpg"] if status == "skipped" else [])
    assert said(album.plan("copied"))["b.jpg"] == f"It is the cloaked version of {original}: name the original instead."


def test_a_dry_plan_writes_nothing_and_says_what_would_fail(album: Album) -> None:
    album.photo("2019/a.jpg"), album.photo("2020/a.jpg"), album.photo("2020/b.jpg"), album.photo("2020/c.jpg")
    album.plan("2019", dry_run=True)
    assert not album.out.exists()
    album.call("2019")
    (album.out / "b.jpg").write_bytes(b"mine")
    with Manifest(album.out) as manifest:  # a run that goes on: its log is not empty
        manifest.put(*manifest.rows())
        before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in album.out.rglob("*")}
        assert album.plan("2019", dry_run=True).earlier == Counter(cloaked=1)
        planned = album.plan("2020", dry_run=True)
        assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in album.out.rglob("*")} == before
    assert tasks(planned) == ["c.jpg"]
    assert set(said(planned)) == {"a.jpg", "b.jpg"}
    folder = album.out / ".cloak"
    listed = {path.name for path in folder.iterdir()}
    album.plan("2020", dry_run=True)
    assert {path.name for path in folder.iterdir()} == listed


def test_a_time_that_no_database_holds_is_no_reason_to_fail(album: Album) -> None:
    for name, year in (("a", 2300), ("b", 9999), ("c", 1600)):
        seconds = (year - 1970) * 31556952
        path = album.photo(f"in/{name}.jpg")
        os.utime(path, (seconds, seconds))
    assert len(album.call("in").tasks) == 3
    assert album.call("in").earlier == Counter(cloaked=3)


def test_whatever_is_wrong_with_one_photo_is_its_row(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    album.photo("in/a.jpg"), album.photo("in/b.jpg")
    (album.root / "in" / ("\u00e9" * 125 + ".jpeg")).write_bytes(JPEG)
    planned = album.plan("in", format="webp")
    assert len(planned.tasks) == 3
    claim = places.Places.claim

    def wrong(self: places.Places, item, sha256: str) -> places.Place:
        if item.source.name == "a.jpg":
            raise RuntimeError("odd")
        return claim(self, item, sha256)

    monkeypatch.setattr(places.Places, "claim", wrong)
    planned = album.plan("in")
    assert len(planned.tasks) == 2
    assert "odd" in said(planned)["a.jpg"]


def test_a_name_that_is_too_long_for_the_output_is_a_row(album: Album) -> None:
    album.photo(f"in/{'x' * 251}.jpg"), album.photo(f"in/{'x' * 251}.png"), album.photo("in/a.jpg")
    album.out.mkdir()
    planned = album.plan("in", format="webp")
    assert tasks(planned) == ["a.jpg.webp"]
    assert len(planned.passed) == 2
    assert all("too long" in row.reason for row in planned.passed)


def test_an_original_is_never_written_over(album: Album) -> None:
    album.photo("in/sub/a.jpg"), album.photo("in/other/a.jpg")
    album.call("in")
    shutil.rmtree(album.out / "sub")
    (album.out / "sub").symlink_to(album.root / "in" / "other", target_is_directory=True)
    planned = album.call("in", settings="new")
    assert tasks(planned) == ["other/a.jpg"]
    assert "original" in said(planned)["a.jpg"]
    assert (album.root / "in/other/a.jpg").read_bytes() == JPEG + b"in/other/a.jpg"


def test_an_interrupted_photo_is_done_again_over_its_own_file(album: Album) -> None:
    album.photo("in/a.jpg"), album.photo("else/a.jpg")
    with Manifest(album.out) as manifest:
        announce(manifest, album.plan("in").tasks)
        assert [row.reason for row in manifest.rows()] == [INTERRUPTED]
    assert tasks(album.plan("else")) == ["a.jpg"], "nothing was written: the name is free"
    (album.out / "a.jpg").write_bytes(b"cloaked")
    assert tasks(album.plan("in")) == ["a.jpg"]
    assert tasks(album.plan("else")) == []


def test_a_row_of_no_photo_does_not_replace_that_of_a_photo(album: Album) -> None:
    album.photo("2019/a"), album.photo("2020/b.jpg")
    (album.root / "2020" / "a").write_text("text")
    album.call("2019")
    album.call("2020")
    assert album.call("2019").earlier == Counter(cloaked=1)


def test_planning_is_linear(album: Album) -> None:
    def seconds(count: int) -> float:
        folder = album.root / str(count)
        folder.mkdir()
        for index in range(count):
            (folder / f"{index}.jpg").write_bytes(b"%d" % index)
        (folder / "0.png").write_bytes(b"one stem twice")
        begun = time.process_time()
        assert len(album.plan(str(count), format="webp").tasks) == count + 1
        return time.process_time() - begun

    seconds(10)
    few = min(seconds(count) for count in (249, 250, 251))
    assert seconds(4000) < 16 * 6 * few, "a quadratic one takes 256 times as long"


def test_records_of_a_folder_without_any(tmp_path: Path) -> None:
    assert len(Records(tmp_path / "nowhere")) == 0


def test_reference_photos_are_named_by_their_contents_in_any_order(tmp_path: Path) -> None:
    """Keys of earlier calls hold: without a reference photo there is none, and one is its hash alone."""
    first, second = tmp_path / "1.jpg", tmp_path / "2.jpg"
    first.write_bytes(b"1"), second.write_bytes(b"2")

    def named(*only: Path) -> object:
        return json.loads(fingerprint(Recipe(), Detection(), Output(), only))["only"]

    assert named() is None
    assert named(first) == named(first, first) == hashlib.sha256(b"1").hexdigest()
    assert named(second, first) == named(first, second) == sorted(map(str, map(named, (first, second))))
