"""Files are opened only if they are files, written whole or not at all, through no link, and locked."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from engine import files, private


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def bind(path: Path) -> None:
    """A socket, whose address must be short."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), bind])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.jpg")
    with pytest.raises(files.NotAFileError, match="not a file"):
        files.opened(tmp_path / "x.jpg")


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    with files.opened(tmp_path / "x") as file:
        assert file.read() == b"abc"


def test_a_write_replaces_makes_folders_and_sets_mode_and_time(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a" / "b.jpg"
    files.write(path, b"one", root=tmp_path / "out")
    assert path.stat().st_mode & 0o777 == 0o600
    files.write(path, iter([b"tw", b"o"]), root=tmp_path / "out", mode=0o640, modified=10**18)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_mtime_ns == 10**18
    before = os.umask(0o027)
    try:
        files.write(path, b"three", mode=None)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"three", 0o640)
    assert names_in(tmp_path) == ["b.jpg"]


def test_a_private_folder_is_made_and_closed_and_no_link(tmp_path: Path) -> None:
    for name in ("new", "open"):
        (tmp_path / "open").mkdir(mode=0o755, exist_ok=True)
        assert private.made(tmp_path / name).stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to("open")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(files.NotAFileError):
            private.made(tmp_path / name)


def opened_in(folder: Path) -> list[str]:
    """What this process holds open in a folder, which no other thread's files can be."""
    held = []
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):  # that of the listing itself
            held.append(os.readlink(f"/dev/fd/{number}"))
    return [path for path in held if path.startswith(f"{folder.resolve()}/")]


def test_any_number_of_drafts_can_wait_and_none_is_left(tmp_path: Path) -> None:
    out, parts = tmp_path / "out", tmp_path / "parts"
    parts.mkdir()
    drafts = [
        files.Draft(out / "a" / str(index), root=out, parts=parts, mode=0o640).write(f"{index}".encode()).rest()
        for index in range(30)
    ]
    assert opened_in(tmp_path) == [], "each holds files open"
    assert len(names_in(parts)) == 30
    assert names_in(out) == []
    for draft in drafts[:10]:
        draft.place()
        draft.discard()
    assert {path.name: path.read_text() for path in (out / "a").iterdir()} == {str(n): str(n) for n in range(10)}
    assert (out / "a" / "3").stat().st_mode & 0o777 == 0o640
    drafts[10].discard()
    drafts[10].discard()
    assert len(names_in(parts)) == 19
    files.abandon()
    assert names_in(parts) == []
    assert opened_in(tmp_path) == []


@pytest.mark.parametrize("fails", ["write", "fsync", "rename"])
@pytest.mark.parametrize("cleaning", [True, False])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, cleaning: bool
) -> None:
    """cleaning: closing the unfinished file fails, too."""
    path = tmp_path / "a"
    files.write(path, b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    draft = files.Draft(path)
    if fails != "write":
        monkeypatch.setattr(os, fails, full)
        draft.write(b"new")
    if cleaning:
        os.close(draft._file.fileno())  # type: ignore[union-attr]
    with pytest.raises(OSError, match=r".") as raised:
        draft.write(iter(lambda: full(), None)) if fails == "write" else draft.place()
    draft.discard()
    assert cleaning or raised.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_an_abandoned_process_leaves_nothing_half_written(tmp_path: Path) -> None:
    draft = files.Draft(tmp_path / "a").write(b"half")
    assert names_in(tmp_path) != []
    files.abandon()
    draft.discard()
    assert names_in(tmp_path) == []


def test_no_link_below_the_root_is_followed(tmp_path: Path) -> None:
    originals, out = tmp_path / "photos", tmp_path / "out"
    (originals / "sub").mkdir(parents=True)
    (originals / "sub" / "a.jpg").write_bytes(b"precious")
    out.mkdir()
    (out / "sub").symlink_to(originals / "sub", target_is_directory=True)
    with pytest.raises(files.NotAFileError, match=r"a symbolic link lies where the folder sub has to be"):
        files.write(out / "sub" / "a.jpg", b"cloaked", root=out)
    with pytest.raises(files.NotAFileError):
        files.remove(out / "sub" / "a.jpg", root=out)
    assert (originals / "sub" / "a.jpg").read_bytes() == b"precious"
    (out / "file").write_bytes(b"mine")
    with pytest.raises(files.NotAFileError, match="a file lies where the folder file has to be"):
        files.write(out / "file" / "a.jpg", b"cloaked", root=out)
    (out / "a.jpg").symlink_to(originals / "sub" / "a.jpg")
    files.write(out / "a.jpg", b"cloaked", root=out)
    assert not (out / "a.jpg").is_symlink()
    assert (originals / "sub" / "a.jpg").read_bytes() == b"precious"
    (tmp_path / "link").symlink_to(out, target_is_directory=True)  # the root itself may be one
    files.write(tmp_path / "link" / "new" / "b.jpg", b"b", root=tmp_path / "link")
    assert (out / "new" / "b.jpg").read_bytes() == b"b"


def test_a_place_on_another_disk_gets_its_file_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename
    tried = []

    def across(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        tried.append(source)
        if src_dir_fd != dst_dir_fd:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", across)
    (tmp_path / "parts").mkdir()
    files.write(tmp_path / "out" / "a", b"abc" * 10**6, parts=tmp_path / "parts", mode=0o644, modified=10**18)
    assert len(tried) == 2
    assert (tmp_path / "out" / "a").read_bytes() == b"abc" * 10**6
    assert (tmp_path / "out" / "a").stat().st_mtime_ns == 10**18
    assert names_in(tmp_path) == ["a"]


def test_a_time_beyond_databases_is_held_to_64_bits(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", ns=(10**18, 10**18))
    assert files.modified((tmp_path / "a").stat()) == 10**18
    try:
        os.utime(tmp_path / "a", (10413792000, 10413792000))  # the year 2300
    except OSError:
        pytest.skip("this file system does not know the year 2300")
    assert files.modified((tmp_path / "a").stat()) <= 2**63 - 1


def held(path: Path) -> str:
    try:
        with files.locked(path):
            return "free"
    except files.HeldError as error:
        return f"held {error.by}"


def in_another_process(path: Path) -> str:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(held, (path,))


def test_a_lock_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock") as real:
        assert real
        assert in_another_process(tmp_path / "lock").startswith("held")
        assert held(tmp_path / "lock").startswith("held")
    assert held(tmp_path / "lock") == "free"
    with files.locked(tmp_path / "lock", shared=True), files.locked(tmp_path / "lock", shared=True):
        assert held(tmp_path / "lock").startswith("held")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_file_names_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with files.locked(tmp_path / "lock") as real:
        assert not real
        said = held(tmp_path / "lock")
        assert f"process {os.getpid()} on {socket.gethostname()}" in said
        assert "lock.held" in said
    assert held(tmp_path / "lock") == "free"
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "since": "then"}
    (tmp_path / "lock.held").write_text(json.dumps(dead))
    assert held(tmp_path / "lock") == "free", "a process that has ended holds it still"
    (tmp_path / "lock.held").write_text(json.dumps({**dead, "host": "elsewhere"}))
    assert "on elsewhere" in held(tmp_path / "lock")
    (tmp_path / "lock.held").write_text("nonsense")
    assert held(tmp_path / "lock").startswith("held")


def test_other_trouble_with_a_lock_is_not_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"):
        held(tmp_path / "lock")
