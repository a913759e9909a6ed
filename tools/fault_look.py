"""What tools/faults.py looks at after a disturbed call: the output folder, its manifests, and what the call said."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fault_runs import Ended
from fault_shim import KILLS, Fault, Kinds

from engine.bulk.sightings import NAME

PROPERTIES = {
    "originals": "an original was touched",
    "lost": "an output that was good before is gone or damaged",
    "half": "a file that is neither the old nor the new one, or was left behind",
    "rows": "an input has no row, or a row says what is not so",
    "resumed": "the next call did not end as an undisturbed one",
    "said": "it ended without a word, with a traceback, or as if all was well",
    "hung": "it did not end",
}
OK, FAILED, USAGE, NOTHING = 0, 1, 2, 3
MADE_AGAIN = {f".cloak/{NAME}"}
"""What a run only keeps to save time, and the next one that has work to do makes again."""


class Row(NamedTuple):
    """What of a manifest's row must be the same however often a run was disturbed."""

    status: str
    reason: str
    written: int
    faces: str
    sha256: str
    key: str


@dataclass(frozen=True)
class State:
    """An output folder: its files, those of the tool's own folder by name, and the rows of its manifests."""

    files: dict[str, bytes]
    own: frozenset[str]
    rows: dict[str, Row]
    unreadable: str = ""


@dataclass(frozen=True)
class Reference:
    """An undisturbed call. inputs: how many files the folder has."""

    state: State
    code: int | None
    summary: dict[str, Any]


def state_of(out: Path, copy: Path) -> State:
    """The state of an output folder. copy: where its manifests are read, since to open one is to change it."""
    files, internal = {}, set()
    for path in _walk(out):
        name = str(path.relative_to(out))
        if name.startswith(".cloak/"):
            internal.add(name)
        else:
            files[name] = path.read_bytes()
    rows: dict[str, Row] = {}
    unreadable = ""
    if (out / ".cloak").is_dir():
        replaced(out / ".cloak", copy)
        for path in sorted(copy.glob("manifest*.sqlite")):
            try:
                rows.update(_rows(path))
            except (sqlite3.Error, KeyError) as error:
                unreadable = f"{path.name}: {error}"
    return State(files, frozenset(internal), rows, unreadable)


def fingerprint(folder: Path) -> dict[str, object]:
    """All that must not change below a folder."""
    prints: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        prints[str(path)] = (status.st_mode, status.st_size * (not path.is_dir()), status.st_mtime_ns, data)
    return prints


Problems = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Look:
    """What is looked at after a disturbed call. whole: an undisturbed one; then: the one that the next must be like."""

    fault: Fault
    ended: Ended
    state: State
    before: State
    whole: Reference
    then: Reference
    moved: bool

    @property
    def known(self) -> tuple[State, ...]:
        """All that an output may be."""
        return (self.before, self.whole.state, self.then.state)

    @property
    def killed(self) -> bool:
        """Whether the fault was the end of it."""
        return self.fault.action in KILLS and bool(self.ended.found.done)

    def ending(self) -> Problems:
        """How it ended."""
        code, err = self.ended.code, self.ended.err
        if self.ended.found.trespasses:
            yield "originals", f"a call would have changed it: {self.ended.found.trespass}"
        if code is None:
            yield "hung", "no end"
        elif code < 0 and not self.killed:
            yield "said", f"killed by signal {-code}"
        elif code >= 0 and "Traceback" in err:
            yield "said", "traceback: " + _last(err)
        elif code >= 0 and code not in (OK, FAILED, USAGE, NOTHING):
            yield "said", f"exit code {code}: {_last(err)}"
        elif code == USAGE and "error" not in summary_of(self.ended):
            yield "said", "exit code 2 without a word"

    def folder(self) -> Problems:
        """Its files."""
        for name, data in self.state.files.items():
            if not any(state.files.get(name) == data for state in self.known):
                known = any(name in state.files for state in self.known)
                yield "half", f"{name}: {'neither the old nor the new bytes' if known else 'no such output'}"
        for name in self.before.files:
            if name not in self.state.files and all(name in state.files for state in self.known):
                yield "lost", f"{name} is gone"
        if self._tidies():
            yield from (
                ("half", f"left behind: {_plain(internal)}")
                for internal in self.state.own
                if internal.endswith(".part")
            )

    def _tidies(self) -> bool:
        """Whether it could have taken its half-written files away."""
        if self.killed or self.ended.code is None or self.ended.code < 0:
            return False
        return not (self.fault.kinds & Kinds.REMOVE and (self.fault.stays or "unlink" in self.ended.found.what))

    def rows(self) -> Problems:
        """What its manifest says of its files; one of earlier settings may be behind, and is seen to be."""
        if self.state.unreadable:
            yield "rows", f"the manifest cannot be read: {self.state.unreadable}"
        for name, row in self.state.rows.items():
            if row.status != "cloaked":
                continue
            if name not in self.state.files:
                if not self.killed:
                    yield "rows", f"{name}: its row says cloaked, there is no file"
                continue
            for state in (self.whole.state, self.then.state)[: 1 + self.moved]:
                if _same(state.rows.get(name), row) and self.state.files[name] != state.files[name]:
                    yield "rows", f"{name}: its row is not that of the file"
                    break

    def claims(self) -> Problems:
        """What it said of itself."""
        code, summary, whole = self.ended.code, summary_of(self.ended), self.whole
        if code not in (OK, FAILED, NOTHING) or "error" in summary or self.moved:
            return
        new = sorted(set(self.state.rows) - set(whole.state.rows))
        if new:  # a folder that could not be read is one row for all that is in it
            row = self.state.rows[new[0]]
            if code != FAILED or row.status != "failed" or "cannot be read" not in row.reason:
                yield "said", f"exit code {code}, and a row for {new[0]}, which is no input: {_told(row)}"
            return
        missing = sorted(set(whole.state.rows) - set(self.state.rows))
        if missing:
            yield "rows", f"{missing[0]} has no row" + (f", nor have {len(missing) - 1} more" if missing[1:] else "")
        counted, expected = _counted(summary), _counted(whole.summary)
        if counted != expected:
            yield "said", f"{counted} inputs counted, there are {expected}"
        if code in (OK, NOTHING):
            if self.state.files != whole.state.files:
                yield "said", f"exit code {code}, but not all outputs are there"
            elif {n: r[:4] for n, r in self.state.rows.items()} != {n: r[:4] for n, r in whole.state.rows.items()}:
                yield "said", f"exit code {code}, but the manifest is not complete"

    def next(self, again: Ended, state: State) -> Problems:
        """How the next call ended, and what it left."""
        then = self.then
        if again.code not in {OK, NOTHING, then.code}:
            yield "resumed", f"exit code {again.code}: {_last(again.err)}"
        if again.found.trespasses:
            yield "originals", f"a call would have changed it: {again.found.trespass}"
        if state.unreadable:
            yield "resumed", f"the manifest cannot be read: {state.unreadable}"
        for name in sorted({*then.state.files, *state.files}):
            if (
                state.files.get(name) != then.state.files.get(name)
                and not self._gone(name)
                and not self._kept(name, state)
            ):
                how = "other bytes" if name in then.state.files else "not wanted"
                how = how if name in state.files else "missing"
                yield "resumed", f"{name}: {how} ({state.rows[name].reason if name in state.rows else ''})"
        for name, row in then.state.rows.items():
            if state.rows.get(name) != row and not self._gone(name) and not self._kept(name, state):
                yield "resumed", f"{name}: row {_told(state.rows.get(name))} instead of {_told(row)}"
        if not self.moved and (extra := state.own - then.state.own - self.before.own):
            yield "half", f"left for good: {_plain(min(extra))}"
        if not self.moved and (less := then.state.own - state.own - MADE_AGAIN):
            yield "resumed", f"no {_plain(min(less))}"

    def _kept(self, name: str, state: State) -> bool:
        """Whether its photo is damaged now, and what was made of it before is still there; the row says so."""
        damaged = self.then.state.rows[name].status == "failed" if name in self.then.state.rows else False
        known = [earlier.files[name] for earlier in (self.before, self.whole.state) if name in earlier.files]
        says = name in state.rows and state.rows[name].status == "failed"
        return self.moved and damaged and says and state.files.get(name) in known

    def _gone(self, name: str) -> bool:
        """Whether its photo is one that vanished: what became of it depends on when."""
        gone = self.fault.to == Path("gone") and str(self.fault.source)
        return bool(gone) and (name == gone or name.startswith(f"{gone}/"))


def _same(expected: Row | None, row: Row) -> bool:
    return (
        expected is not None
        and expected.status == "cloaked"
        and (expected.sha256, expected.key) == (row.sha256, row.key)
    )


def _counted(summary: dict[str, Any]) -> int:
    return sum(sum(summary[part].values()) for part in ("counts", "earlier"))


def _told(row: Row | None) -> str:
    return "none" if row is None else f"{row.status} {row.reason!r} {row.written} {row.sha256[:8]} {row.key[:8]}"


def summary_of(ended: Ended) -> dict[str, Any]:
    try:
        return json.loads(ended.out.splitlines()[-1])
    except (IndexError, ValueError):
        return {}


def _last(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _plain(name: str) -> str:
    """Without what differs from call to call."""
    stem, dot, suffix = name.rpartition(".")
    head, dash, tail = stem.rpartition("-")
    return f"{head}-*{dot}{suffix}" if len(tail) == 32 and dash else name


def _rows(path: Path) -> dict[str, Row]:
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'photos'").fetchall()
        records = database.execute("SELECT * FROM photos").fetchall() if tables else []
    database.close()
    return {_name(record["target"]): Row(*(record[field] for field in Row._fields)) for record in records}


def _name(target: str | bytes) -> str:
    return os.fsdecode(target) if isinstance(target, bytes) else target


def _walk(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in names)


def replaced(source: Path, target: Path) -> None:
    """Make a folder the copy of another, which may be missing."""
    if target.exists():
        shutil.rmtree(target)
    if source.exists():
        shutil.copytree(source, target, symlinks=True, copy_function=_copied)


def _copied(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
        shutil.copystat(source, target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
