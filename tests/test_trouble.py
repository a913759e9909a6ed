"""What is said and noted of exceptions that nobody foresaw."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine import faults
from engine.bulk import trouble
from engine.bulk.inputs import Item
from engine.bulk.plan import Task
from engine.types import PhotoError


def raised(text: str, *, deep: bool = False) -> Exception:
    """An exception with a traceback, of one of two lines."""
    try:
        try:
            raise ZeroDivisionError("the cause")
        except ZeroDivisionError as cause:
            if deep:
                raise KeyError(text) from cause
            raise KeyError(text) from cause
    except KeyError as error:
        return error


def in_engine() -> Exception:
    with pytest.raises(AttributeError) as caught:
        trouble.ends_run(None)  # type: ignore[arg-type]
    return caught.value


def test_the_log_has_the_whole_traceback_with_its_causes_and_the_photo(tmp_path: Path) -> None:
    assert faults.noted(raised("x"), tmp_path, about="album/a.jpg") == tmp_path / faults.LOG
    text = (tmp_path / faults.LOG).read_text()
    for part in (
        "album/a.jpg",
        "Traceback",
        "ZeroDivisionError: the cause",
        "direct cause",
        "KeyError: 'x'",
        "Python 3",
    ):
        assert part in text
    assert str(Path(__file__)) in text


def test_what_repeats_itself_takes_a_line_and_never_hides_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        faults.noted(raised(f"x{number}"), tmp_path, about=f"{number}.jpg")
    text = (tmp_path / faults.LOG).read_text()
    assert text.count("ZeroDivisionError: the cause") == 1
    assert all(f"{number}.jpg" in text and f"x{number}" in text for number in range(50))
    monkeypatch.setattr(faults, "LOG_LIMIT", 1)
    faults.noted(raised("full"), tmp_path)
    assert (tmp_path / faults.LOG).read_text() == text
    faults.noted(raised("new", deep=True), tmp_path)
    assert "KeyError: 'new'" in (tmp_path / faults.LOG).read_text()
    (tmp_path / faults.LOG).unlink()
    faults.noted(raised("again"), tmp_path)
    assert "ZeroDivisionError" in (tmp_path / faults.LOG).read_text(), "a log that was taken away begins anew"


def test_a_folder_that_takes_nothing_is_made_up_for(tmp_path: Path) -> None:
    path = faults.noted(raised("x"), tmp_path / "nowhere")
    assert path is not None
    assert path.parent != tmp_path / "nowhere"
    assert "Traceback" in path.read_text()
    path.unlink()


def test_the_reason_says_where_it_arose_and_where_that_is_written(tmp_path: Path) -> None:
    (tmp_path / ".cloak").mkdir()
    task = Task(Item(Path("album/a.jpg"), "a.jpg"), 1, 1, "s", "k")
    row = trouble.row(task, in_engine(), out=tmp_path)
    line = faults.place(in_engine())
    assert line.startswith("engine/")
    assert line.rpartition(":")[2].isdecimal()
    assert row.reason.startswith(f"Unexpected AttributeError at {line}: ")
    assert f"report it with {tmp_path / '.cloak' / faults.LOG}" in row.reason
    assert "album/a.jpg" in (tmp_path / ".cloak" / faults.LOG).read_text()
    assert (row.status, row.key) == ("failed", "")
    assert faults.place(KeyError("of nobody")) == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PhotoError("The file is empty."), "The file is empty."),
        (OSError(errno.EIO, os.strerror(errno.EIO), "a.jpg"), "cannot be read"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_what_was_foreseen_is_no_mistake_in_the_program(error: Exception, said: str, tmp_path: Path) -> None:
    (tmp_path / ".cloak").mkdir()
    row = trouble.row(Task(Item(Path("a.jpg"), "a.jpg"), 1, 1, "s", "k"), error, out=tmp_path)
    assert said in row.reason
    assert not (tmp_path / ".cloak" / faults.LOG).exists()
