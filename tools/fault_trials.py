"""Trials of tools/faults.py: a scenario, one fault, the call that it disturbs, the next call, and what must hold."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import fault_folder
from fault_runs import Caller, Ended
from fault_shim import CHANGES, KILLS, Action, Fault, Kinds

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
COMMON = ["--json", "--workers", "2", "--batch", "4"]


@dataclass(frozen=True)
class Scenario:
    """What there is before the disturbed call, and what that is called with.

    before: calls that came earlier, each with its fault. foreign: the user's own file in the output folder. then: what
    the next call is called with, if something else.
    """

    name: str
    folder: Callable[[Path], Path] = fault_folder.good
    arguments: tuple[str, ...] = ()
    before: tuple[tuple[tuple[str, ...], Fault], ...] = ()
    foreign: str = ""
    then: tuple[str, ...] | None = None

    @property
    def next(self) -> tuple[str, ...]:
        """Arguments of the call after the disturbed one."""
        return self.arguments if self.then is None else self.then


NONE = Fault()
SCENARIOS = (
    Scenario("fresh"),
    Scenario("troubles", fault_folder.troubles, foreign="wall.png"),
    Scenario("other settings", arguments=("--seed", "1"), before=(((), NONE),)),
    Scenario("changed mind", arguments=("--seed", "1"), before=(((), NONE),), then=()),
    Scenario("resumed", fault_folder.troubles, before=(((), Fault(Action.KILL_AFTER, CHANGES, nth=60)),)),
    Scenario("restart", arguments=("--restart", "--no-report"), before=(((), NONE),)),
    Scenario("done", fault_folder.troubles, before=(((), NONE),)),
    Scenario("shard", arguments=("--shard", "1/2"), before=((("--shard", "0/2"), NONE),)),
)

ERRORS = {
    errno.ENOSPC: Kinds.MAKE | Kinds.DATA | Kinds.MOVE | Kinds.SYNC,
    errno.EIO: CHANGES | Kinds.LOCK,
    errno.EACCES: Kinds.MAKE | Kinds.MOVE | Kinds.REMOVE | Kinds.ATTRIBUTE,
    errno.EROFS: Kinds.MAKE | Kinds.DATA | Kinds.MOVE | Kinds.REMOVE | Kinds.ATTRIBUTE,
    errno.ENOLCK: Kinds.LOCK,
}
"""Which calls give which error."""
VICTIMS = ("album/obama.jpg", "album/summer/astronaut.png")


def faults() -> dict[str, Fault]:
    """All kinds of faults, without their n."""
    found = {}
    for error, kinds in ERRORS.items():
        for stays in (False, True):
            name = f"{errno.errorcode[error]} {'stays' if stays else 'once'}"
            found[name] = Fault(Action.FAIL, kinds, error=error, stays=stays)
    found["disk full"] = Fault(Action.FILL, Kinds.DATA, error=errno.ENOSPC, stays=True)
    found["kill -9"] = Fault(Action.KILL_AFTER, CHANGES)
    found["kill -9 in a write"] = Fault(Action.TEAR, Kinds.DATA)
    found["kill -9 without locks"] = Fault(Action.KILL_AFTER, CHANGES, locks=False)
    for victim in VICTIMS:
        found[f"{victim} vanishes"] = Fault(Action.RENAME, Kinds.LOOK, source=Path(victim), to=Path("gone"))
        found[f"{victim} replaced"] = Fault(Action.RENAME, Kinds.LOOK, source=Path("other"), to=Path(victim))
        found[f"{victim} cut"] = Fault(Action.TRUNCATE, Kinds.LOOK, source=Path(victim))
    found["a photo cannot be read"] = Fault(Action.FAIL, Kinds.LOOK, error=errno.EIO)
    found["album vanishes"] = Fault(Action.RENAME, Kinds.LOOK, source=Path("album"), to=Path("gone"))
    return found


def changes_photos(fault: Fault) -> bool:
    """Whether it befalls the photos and not the output folder."""
    return fault.action in (Action.RENAME, Action.TRUNCATE)


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


@dataclass(frozen=True)
class Trial:
    """One fault in one scenario. kind: a name of `faults`. The name of a trial can be given to tools/faults.py."""

    scenario: str
    kind: str
    nth: int

    def __str__(self) -> str:
        return f"{self.scenario}:{self.kind}:{self.nth}"


@dataclass(frozen=True)
class Result:
    """What a trial showed. what: the call that was disturbed, "" if it came to none. problems: (property, details)."""

    trial: Trial
    what: str
    problems: list[tuple[str, str]] = field(default_factory=list)


class Ground:
    """A folder in which trials take place one after the other; photos and out have the same path in all of them."""

    def __init__(self, folder: Path, call: Caller, *, options: tuple[str, ...] = ()) -> None:
        """folder: empty, absolute. options: of every call of `cloak run`."""
        self.folder, self._call, self._options = folder, call, options
        self.photos, self.out, self._copy = folder / "photos", folder / "out", folder / "copy"
        self._pristine: dict[Callable[[Path], Path], Path] = {}
        self._snapshots: dict[str, Path] = {}
        self._references: dict[tuple[str, tuple[str, ...], str], Reference] = {}
        self._kind: Callable[[Path], Path] | None = None

    def counts(self, scenario: Scenario) -> dict[str, int]:
        """By kind of fault, how many calls it could befall."""
        found: dict[Kinds, int] = {}
        for kinds in (CHANGES | Kinds.LOCK, Kinds.LOOK):
            self._set(scenario)
            counts = self.run(scenario, Fault(kinds=kinds)).found.counts
            found.update((kind, counts[kind]) for kind in kinds)
        return {
            name: sum(found[kind] for kind in fault.kinds)
            for name, fault in faults().items()
            if not (changes_photos(fault) and scenario.then is not None)
        }

    def run(self, scenario: Scenario, fault: Fault = NONE) -> Ended:
        """One call of `cloak run`."""
        return self._called(scenario.arguments, fault)

    def trial(self, scenario: Scenario, trial: Trial) -> Result:
        """Disturb the call, look, call again, and look again."""
        kind = faults()[trial.kind]
        moved = changes_photos(kind)
        before = self._set(scenario)
        whole = self._reference(scenario, scenario.arguments)
        then = self._reference(scenario, scenario.next, trial.kind if moved else "")
        self._set(scenario)
        fault = self._placed(replace(kind, nth=trial.nth))
        originals = fingerprint(self.photos)
        ended = self.run(scenario, fault)
        state = self._state()
        look = Look(kind, ended, state, before, whole, then, moved=moved)
        problems = [*look.ending(), *look.folder(), *look.rows(), *look.claims()]
        if not moved and fingerprint(self.photos) != originals:
            problems.append(("originals", "the folder has changed"))
        if moved and not ended.found.done:
            look = replace(look, then=whole)
        problems += look.next(self._called(scenario.next, Fault(locks=fault.locks)), self._state())
        if moved:
            self._kind = None
        return Result(trial, ended.found.what.replace(str(self.folder) + "/", ""), problems)

    def _called(self, arguments: tuple[str, ...], fault: Fault) -> Ended:
        given = ["run", str(self.photos), "--out", str(self.out), *COMMON, *self._options, *arguments]
        looks = fault.kinds == Kinds.LOOK
        return self._call(given, fault, watched=self.photos if looks else self.out, guarded=self.photos)

    def _set(self, scenario: Scenario) -> State:
        """Photos and output folder as the scenario has them before the call; the state of the latter."""
        if self._kind is not scenario.folder:
            if scenario.folder not in self._pristine:
                made = self.folder / f"pristine {len(self._pristine)}"
                self._pristine[scenario.folder] = scenario.folder(made)
            _replaced(self._pristine[scenario.folder], self.photos)
            self._kind = scenario.folder
        if scenario.name not in self._snapshots:
            shutil.rmtree(self.out, ignore_errors=True)
            if scenario.foreign:
                self.out.mkdir()
                (self.out / scenario.foreign).write_bytes(b"precious")
            for arguments, fault in scenario.before:
                self._called(arguments, fault)
            self._snapshots[scenario.name] = self.folder / f"before {scenario.name}"
            _replaced(self.out, self._snapshots[scenario.name])
        _replaced(self._snapshots[scenario.name], self.out)
        return self._state()

    def _reference(self, scenario: Scenario, arguments: tuple[str, ...], change: str = "") -> Reference:
        """The undisturbed call; change: the kind of fault that befell the photos before it."""
        key = (scenario.name, arguments, change)
        if key not in self._references:
            self._set(scenario)
            if change:
                _apply(self._placed(faults()[change]))
                self._kind = None
            ended = self._called(arguments, NONE)
            self._references[key] = Reference(self._state(), ended.code, _summary(ended))
            if ended.code not in (OK, FAILED, NOTHING):
                raise RuntimeError(f"the undisturbed call ended with {ended.code}: {ended.err}{ended.out}")
        return self._references[key]

    def _placed(self, fault: Fault) -> Fault:
        """The fault with its paths where they are: "gone" and "other", which it makes, beside the photos."""
        gone, other = self.folder / "gone", self.folder / f"other{(fault.to or Path()).suffix}"
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
        if fault.source == Path("other"):
            fault_folder.other(other)
        outside = {Path("gone"): gone, Path("other"): other}

        def place(path: Path | None) -> Path | None:
            return None if path is None else outside.get(path, self.photos / path)

        return replace(fault, source=place(fault.source), to=place(fault.to))

    def _state(self) -> State:
        """Of the output folder. Manifests are read in a copy: to open one is to change it."""
        files, own = {}, set()
        for path in _walk(self.out):
            name = str(path.relative_to(self.out))
            if name.startswith(".cloak/"):
                own.add(name)
            else:
                files[name] = path.read_bytes()
        rows: dict[str, Row] = {}
        unreadable = ""
        if (self.out / ".cloak").is_dir():
            _replaced(self.out / ".cloak", self._copy)
            for path in sorted(self._copy.glob("manifest*.sqlite")):
                try:
                    rows.update(_rows(path))
                except (sqlite3.Error, KeyError) as error:
                    unreadable = f"{path.name}: {error}"
        return State(files, frozenset(own), rows, unreadable)


def fingerprint(folder: Path) -> dict[str, object]:
    """All that must not change below a folder."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_mode, status.st_size * (not path.is_dir()), status.st_mtime_ns, data)
    return found


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
        elif code == USAGE and "error" not in _summary(self.ended):
            yield "said", "exit code 2 without a word"

    def folder(self) -> Problems:
        """Its files."""
        for name, data in self.state.files.items():
            if not any(one.files.get(name) == data for one in self.known):
                known = any(name in one.files for one in self.known)
                yield "half", f"{name}: {'neither the old nor the new bytes' if known else 'no such output'}"
        for name in self.before.files:
            if name not in self.state.files and all(name in one.files for one in self.known):
                yield "lost", f"{name} is gone"
        if self._tidies():
            yield from (("half", f"left behind: {_plain(one)}") for one in self.state.own if one.endswith(".part"))

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
            for one in (self.whole.state, self.then.state)[: 1 + self.moved]:
                if _same(one.rows.get(name), row) and self.state.files[name] != one.files[name]:
                    yield "rows", f"{name}: its row is not that of the file"
                    break

    def claims(self) -> Problems:
        """What it said of itself."""
        code, summary, whole = self.ended.code, _summary(self.ended), self.whole
        if code not in (OK, FAILED, NOTHING) or "error" in summary or self.moved:
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
        if not self.moved and (less := then.state.own - state.own):
            yield "resumed", f"no {_plain(min(less))}"

    def _kept(self, name: str, state: State) -> bool:
        """Whether its photo is damaged now, and what was made of it before is still there; the row says so."""
        damaged = self.then.state.rows[name].status == "failed" if name in self.then.state.rows else False
        known = [one.files[name] for one in (self.before, self.whole.state) if name in one.files]
        says = name in state.rows and state.rows[name].status == "failed"
        return self.moved and damaged and says and state.files.get(name) in known

    def _gone(self, name: str) -> bool:
        """Whether its photo is one that vanished: what became of it depends on when."""
        gone = self.fault.to == Path("gone") and str(self.fault.source)
        return bool(gone) and (name == gone or name.startswith(f"{gone}/"))


def _apply(fault: Fault) -> None:
    """Do to the photos what the library does."""
    assert fault.source is not None
    if fault.action == Action.TRUNCATE:
        os.truncate(fault.source, fault.source.stat().st_size // 2)
    else:
        assert fault.to is not None
        fault.source.rename(fault.to)


def _same(one: Row | None, row: Row) -> bool:
    return one is not None and one.status == "cloaked" and (one.sha256, one.key) == (row.sha256, row.key)


def _counted(summary: dict[str, Any]) -> int:
    return sum(sum(summary[part].values()) for part in ("counts", "earlier"))


def _told(row: Row | None) -> str:
    return "none" if row is None else f"{row.status} {row.reason!r} {row.written} {row.sha256[:8]} {row.key[:8]}"


def _summary(ended: Ended) -> dict[str, Any]:
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
        found = database.execute("SELECT * FROM photos").fetchall() if tables else []
    database.close()
    return {_name(one["target"]): Row(*(one[field] for field in Row._fields)) for one in found}


def _name(target: str | bytes) -> str:
    return os.fsdecode(target) if isinstance(target, bytes) else target


def _walk(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in names)


def _replaced(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    if source.exists():
        shutil.copytree(source, target, symlinks=True)
