"""Trials of tools/faults.py: a scenario, one fault, the call that it disturbs, the next call, and what must hold."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import fault_folder
from fault_look import FAILED, NOTHING, OK, Look, Reference, State, fingerprint, replaced, state_of, summary_of
from fault_runs import Caller, Ended
from fault_shim import CHANGES, Action, Fault, Kinds

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
    faults_by_name = {}
    for error, kinds in ERRORS.items():
        for stays in (False, True):
            name = f"{errno.errorcode[error]} {'stays' if stays else 'once'}"
            faults_by_name[name] = Fault(Action.FAIL, kinds, error=error, stays=stays)
    faults_by_name["disk full"] = Fault(Action.FILL, Kinds.DATA, error=errno.ENOSPC, stays=True)
    faults_by_name["kill -9"] = Fault(Action.KILL_AFTER, CHANGES)
    faults_by_name["kill -9 in a write"] = Fault(Action.TEAR, Kinds.DATA)
    faults_by_name["kill -9 without locks"] = Fault(Action.KILL_AFTER, CHANGES, locks=False)
    for victim in VICTIMS:
        faults_by_name[f"{victim} vanishes"] = Fault(Action.RENAME, Kinds.LOOK, source=Path(victim), to=Path("gone"))
        faults_by_name[f"{victim} replaced"] = Fault(Action.RENAME, Kinds.LOOK, source=Path("other"), to=Path(victim))
        faults_by_name[f"{victim} cut"] = Fault(Action.TRUNCATE, Kinds.LOOK, source=Path(victim))
    faults_by_name["a photo cannot be read"] = Fault(Action.FAIL, Kinds.LOOK, error=errno.EIO)
    faults_by_name["album vanishes"] = Fault(Action.RENAME, Kinds.LOOK, source=Path("album"), to=Path("gone"))
    return faults_by_name


def changes_photos(fault: Fault) -> bool:
    """Whether it befalls the photos and not the output folder."""
    return fault.action in (Action.RENAME, Action.TRUNCATE)


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
        highest: dict[Kinds, int] = {}
        for kinds in (CHANGES | Kinds.LOCK, Kinds.LOOK):
            self._set(scenario)
            counts = self.run(scenario, Fault(kinds=kinds)).found.counts
            highest.update((kind, counts[kind]) for kind in kinds)
        return {
            name: sum(highest[kind] for kind in fault.kinds)
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
        state = state_of(self.out, self._copy)
        look = Look(kind, ended, state, before, whole, then, moved=moved)
        problems = [*look.ending(), *look.folder(), *look.rows(), *look.claims()]
        if not moved and fingerprint(self.photos) != originals:
            problems.append(("originals", "the folder has changed"))
        if moved and not ended.found.done:
            look = replace(look, then=whole)
        problems += look.next(self._called(scenario.next, Fault(locks=fault.locks)), state_of(self.out, self._copy))
        if moved:
            self._kind = None
        return Result(trial, ended.found.what.replace(str(self.folder) + "/", ""), problems)

    def _called(self, arguments: tuple[str, ...], fault: Fault) -> Ended:
        command = ["run", str(self.photos), "--out", str(self.out), *COMMON, *self._options, *arguments]
        looks = fault.kinds == Kinds.LOOK
        return self._call(command, fault, watched=self.photos if looks else self.out, guarded=self.photos)

    def _set(self, scenario: Scenario) -> State:
        """Photos and output folder as the scenario has them before the call; the state of the latter."""
        if self._kind is not scenario.folder:
            if scenario.folder not in self._pristine:
                made = self.folder / f"pristine {len(self._pristine)}"
                self._pristine[scenario.folder] = scenario.folder(made)
            replaced(self._pristine[scenario.folder], self.photos)
            self._kind = scenario.folder
        if scenario.name not in self._snapshots:
            shutil.rmtree(self.out, ignore_errors=True)
            if scenario.foreign:
                self.out.mkdir()
                (self.out / scenario.foreign).write_bytes(b"precious")
            for arguments, fault in scenario.before:
                self._called(arguments, fault)
            self._snapshots[scenario.name] = self.folder / f"before {scenario.name}"
            replaced(self.out, self._snapshots[scenario.name])
        replaced(self._snapshots[scenario.name], self.out)
        return state_of(self.out, self._copy)

    def _reference(self, scenario: Scenario, arguments: tuple[str, ...], change: str = "") -> Reference:
        """The undisturbed call; change: the kind of fault that befell the photos before it."""
        key = (scenario.name, arguments, change)
        if key not in self._references:
            self._set(scenario)
            if change:
                _apply(self._placed(faults()[change]))
                self._kind = None
            ended = self._called(arguments, NONE)
            self._references[key] = Reference(state_of(self.out, self._copy), ended.code, summary_of(ended))
            if ended.code not in (OK, FAILED, NOTHING):
                raise RuntimeError(f"the undisturbed call ended with {ended.code}: {ended.err}{ended.out}")
        return self._references[key]

    def _placed(self, fault: Fault) -> Fault:
        """The fault with its paths where they are: "gone" and "other", which it makes, beside the photos."""
        gone, stand_in = self.folder / "gone", self.folder / f"other{(fault.to or Path()).suffix}"
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
        if fault.source == Path("other"):
            fault_folder.another_photo(stand_in)
        outside = {Path("gone"): gone, Path("other"): stand_in}

        def place(path: Path | None) -> Path | None:
            return None if path is None else outside.get(path, self.photos / path)

        return replace(fault, source=place(fault.source), to=place(fault.to))


def _apply(fault: Fault) -> None:
    """Do to the photos what the library does."""
    assert fault.source is not None
    if fault.action == Action.TRUNCATE:
        os.truncate(fault.source, fault.source.stat().st_size // 2)
    else:
        assert fault.to is not None
        fault.source.rename(fault.to)
