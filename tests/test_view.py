"""What a run says to a person: names, sums and phases, with rows that need no photos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from engine import view
from engine.bulk.manifest import Row, Status
from engine.bulk.people import OTHERS, UNLIKE
from engine.bulk.pipeline import Clock
from engine.bulk.summary import summarise
from engine.config import Recipe
from engine.view import COMPILING, SHOWN, View

EARLIER = "cloaked by an earlier call with other settings or weights"
FILM = "a film, whose faces stay as they are: .mp4"


def row(name: str, status: Status, reason: str = "", faces: int = 0) -> Row:
    return Row(name, f"in/{name}", 1, 1, "s", "k", status, reason, faces=[{"dssim": 0.005}] * faces)


def told(*rows: Row, left: tuple[Row, ...] = (), dry: bool = False, **choices: object) -> View:
    """The view after a run with these rows."""
    shown = View(quiet=True, dry=dry, **choices)  # type: ignore[arg-type]
    for entry in left:
        shown.left(entry)
    for entry in rows:
        shown.row(entry)
    earlier = Counter[str](entry.status for entry in left)
    shown.summary(summarise(rows, earlier, Clock(), 1.0, remaining=left, dry_run=dry), Path("out"), Recipe())
    return shown


def test_every_photo_that_is_not_protected_is_named_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    told(
        row("a.jpg", "cloaked", faces=1),
        row("b.jpg", "failed", "Damaged."),
        row("c.jpg", "no_face", "No face was found."),
        row("d.mp4", "skipped", FILM),
        row("e.txt", "skipped", "not a photo: .txt"),
        left=(row("f.mp4", "skipped", FILM),),
    )
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"NOT READ in/f.mp4: {FILM}",
        "FAILED in/b.jpg: Damaged.",
        "NOT PROTECTED in/c.jpg: No face was found.",
        f"NOT READ in/d.mp4: {FILM}",
    ]
    lines = said.out.splitlines()
    assert "1 cloaked (1 face), 1 without a face, 1 failed, 2 skipped, in 1.0 s." in lines
    assert lines[-1] == (
        "Not protected: 1 failed or with a face that is not protected, 1 without a face, 2 not read; named above."
    )


def test_more_photos_than_are_shown_are_said_to_be_in_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    told(*(row(f"{number}.jpg", "no_face", "No face.") for number in range(SHOWN + 1)))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Not protected: {SHOWN + 1} without a face; `cloak status out --failed` names all."


def test_a_file_that_was_asked_for_is_named_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    told(row("e.txt", "skipped", "not a photo: .txt"), asked=[Path("in/e.txt")])
    said = capsys.readouterr()
    assert said.err == "skipped in/e.txt: not a photo: .txt\n"
    assert said.out == "Nothing was done: 1 file was passed by; `cloak status out` says why.\n"


def test_nothing_was_found_is_said_only_if_it_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    told()
    assert capsys.readouterr().out == "Nothing to do: no photos were found.\n"
    told(dry=True)
    assert capsys.readouterr().out == "Nothing to do: no photos were found.\n"
    told(row("a.jpg", "skipped", UNLIKE), dry=True)
    said = capsys.readouterr().out
    assert "no photos were found" not in said
    assert "Would be: 0 cloaked (0 faces), 0 without a face, 0 failed, 1 skipped." in said


def test_of_what_was_passed_by_before_the_status_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a.jpg", "cloaked", faces=1), row("b.jpg", "skipped", UNLIKE)]
    earlier = Counter[str](entry.status for entry in rows)
    View(quiet=True).summary(summarise((), earlier, Clock(), 1.0), Path("out"), Recipe())
    assert capsys.readouterr().out == (
        "As earlier calls left them, nothing to do: 1 cloaked, 1 skipped; `cloak status out` says why.\n"
    )


def test_photos_of_others_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    others = (row("a.jpg", "skipped", f"{UNLIKE} Left out: a thumbnail."), row("b.jpg", "skipped", UNLIKE))
    told(*others)
    said = capsys.readouterr()
    assert said.err == ""
    assert (
        "Left as they are, since nobody in them is like the reference photo: 2; `cloak status out` names them."
        in said.out.splitlines()
    )
    shown = View(quiet=False, dry=True)
    shown.row(others[1])
    assert f"would stay as it is: in/b.jpg: {UNLIKE}" in capsys.readouterr().out


@pytest.mark.parametrize("dry", [False, True])
def test_each_phase_has_its_name(dry: bool) -> None:
    shown = View(quiet=True, dry=dry)

    def phase() -> str:
        return shown._progress.tasks[0].description

    shown.started(3)
    assert phase() == ("looking for faces" if dry else COMPILING)
    shown.grouping(2, 3)
    assert phase() == "who is who: 2 of 3"
    shown.grouping(3, 3)
    assert phase() == COMPILING
    shown.probing(2, 4)
    assert phase() == "which way faces go: 2 of 4"
    shown.solving(0, 0)
    assert phase() == COMPILING
    shown.solving(0, 2)
    assert phase() == "0 faces done, cloaking 2"
    shown.solving(1, 2)
    assert phase() == "1 face done, cloaking 2"


@pytest.mark.parametrize(
    ("dry", "again", "line"),
    [
        (False, 0, ""),
        (False, 1, f"1 photo was {EARLIER}: this call replaces the files of those it cloaks.\n"),
        (True, 2, f"2 photos were {EARLIER}: a run would replace the files of those it cloaks.\n"),
    ],
)
def test_of_files_that_will_be_replaced_there_is_a_word_first(
    capsys: pytest.CaptureFixture[str], dry: bool, again: int, line: str
) -> None:
    View(quiet=True, dry=dry).started(3, again=again)
    assert capsys.readouterr().err == line


def test_faces_of_others_are_counted_and_a_dry_run_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (row("a.jpg", "cloaked", f"{OTHERS} 2 faces.", faces=1), row("b.jpg", "cloaked", faces=1))
    told(*rows)
    said = capsys.readouterr()
    assert "Photos with faces of others, left as they are: 1; `cloak status out` names them.\n" in said.out
    assert said.err == "", "it was asked for"
    gif = Row("c.gif.png", "in/c.gif", 1, 1, "s", "k", "cloaked")
    shown = View(quiet=False, dry=True)
    for entry in (*rows, gif):
        shown.row(entry)
    lines = capsys.readouterr().out.splitlines()
    assert [line.replace(f"{Path.cwd()}/", "") for line in lines] == [
        "would be cloaked: in/a.jpg",
        "would be cloaked: in/b.jpg",
        "would be cloaked: in/c.gif -> c.gif.png",
    ]


def test_without_a_terminal_a_second_has_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(view.time, "monotonic", lambda: now)
    with View(quiet=False) as shown:
        shown.started(40)
        for done in range(41):
            shown.publishing(done, 40)
        now += 1.5
        for done in range(41):
            shown.publishing(done, 40)
    assert capsys.readouterr().err.splitlines() == [
        f"0 of 40 photos, {COMPILING}, 0 s",
        "4 of 40 photos, writing the report, 2 s",
        "40 of 40 photos, writing the report, 2 s",
    ]
