"""Disturb `cloak run` at every write, and see that nothing is lost.

Every call that writes fails in turn (ENOSPC, EIO, EACCES, EROFS, ENOLCK; once, or from then on), the disk fills up, the
process is killed after every write and in the middle of it, photos vanish, are replaced or cut while they are read.
After each: originals untouched, no good output lost, no half file, every input in the manifest, and the next call ends
with the bytes of an undisturbed one. Prints what it counted; exit code 1 if something did not hold.

The networks are a stand-in, so that a trial takes a quarter of a second; --real N has N trials with the command itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import fault_shim
from fault_look import PROPERTIES
from fault_runs import Command, Forked
from fault_shim import Kinds
from fault_trials import SCENARIOS, Ground, Result, Trial, faults

HERE = Path(__file__).resolve()
REAL_OPTIONS = ("--steps", "1", "--no-report", "--extractors", "mobileface")
INSIDE = "FAULTS_STATE"
"""The variable of a process that was started with the library."""
EVERY = 20
"""Seconds between lines that say how far it is."""


def main(arguments: list[str] | None = None) -> int:
    options = _arguments(arguments)
    if reason := fault_shim.missing():
        print(f"faults.py: {reason}", file=sys.stderr)
        return 2
    if INSIDE in os.environ:
        _job(options)
        return 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        scratch = Path(folder).resolve()
        library = fault_shim.build(scratch)
        if options.real:
            place = scratch / "ground"
            place.mkdir()
            ground = Ground(place, Command(scratch, library), options=REAL_OPTIONS)
            options.trials = options.real
            results = _tried(options, ground)
        else:
            results = _spawned(options, scratch, library, sys.argv[1:] if arguments is None else arguments)
    return _reported(results, as_json=options.json)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, help="how many, drawn from all kinds in turn; default: all")
    parser.add_argument("--only", default="", help="a trial's name, or a regular expression that it begins with")
    parser.add_argument("--real", type=int, default=0, help="so many trials with the command itself instead")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial after so many")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS, metavar=("NUMBER", "FOLDER"))
    return parser.parse_args(arguments)


def _spawned(options: argparse.Namespace, scratch: Path, library: Path, arguments: Sequence[str]) -> list[Result]:
    """The results of jobs: only a process that was started with the library can be disturbed, or fork one that is."""
    children = []
    for number in range(options.jobs):
        folder = scratch / f"job {number}"
        folder.mkdir()
        fault_shim.Shim(folder / "state")
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            INSIDE: str(folder / "state"),
            "OPENBLAS_NUM_THREADS": "1",  # a process with threads cannot be forked
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE.parent.parent), os.environ.get("PYTHONPATH")))),
        }
        command = [sys.executable, str(HERE), *arguments, "--job", str(number), str(folder)]
        children.append(os.posix_spawn(sys.executable, command, environment))
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit(f"faults.py: a job ended with {max(codes, key=abs)}")
    results = []
    for number in range(options.jobs):
        records = json.loads((scratch / f"job {number}" / "results").read_text())
        results += [
            Result(Trial(*trial), call, [tuple(pair) for pair in problems]) for trial, call, problems in records
        ]
    return results


def _job(options: argparse.Namespace) -> None:
    number, folder = int(options.job[0]), Path(options.job[1])
    place = folder / "ground"
    place.mkdir()
    results = _tried(options, Ground(place, Forked(folder)), number)
    records = [(tuple(vars(result.trial).values()), result.what, result.problems) for result in results]
    (folder / "results").write_text(json.dumps(records))


def _tried(options: argparse.Namespace, ground: Ground, job: int = 0) -> list[Result]:
    """The results of this job's share of the trials."""
    begun = time.monotonic()
    named = [scenario for scenario in SCENARIOS if options.only.startswith(f"{scenario.name}:")]
    scenarios = {scenario.name: scenario for scenario in named or SCENARIOS}
    trials = [
        Trial(name, kind, nth)
        for name, scenario in scenarios.items()
        for kind, count in ground.counts(scenario).items()
        for nth in range(1, count + 1)
        if not options.real or Kinds.LOOK not in faults()[kind].kinds  # who is who depends on all photos that are read
    ]
    wanted = [trial for trial in trials if str(trial) == options.only] or [
        trial for trial in trials if re.match(options.only, str(trial))
    ]
    chosen = _drawn(wanted, random.Random(options.seed))[: options.trials]
    print(f"faults.py: {len(chosen)} of {len(trials)} trials", file=sys.stderr)
    results, said = [], begun
    for trial in chosen[job :: options.jobs]:
        time_now = time.monotonic()
        if time_now - begun > options.seconds:
            break
        if time_now - said > EVERY:
            said = time_now
            bad = sum(bool(result.problems) for result in results)
            print(f"faults.py: {len(results)} trials, {bad} with a problem, {time_now - begun:.0f} s", file=sys.stderr)
        results.append(ground.trial(scenarios[trial.scenario], trial))
    return results


def _drawn(trials: Sequence[Trial], draw: random.Random) -> list[Trial]:
    """In no order, but kind by kind in turn: those for which there is time are of all kinds."""
    seen: Counter[str] = Counter()
    rounds = []
    for trial in draw.sample(trials, len(trials)):
        seen[trial.kind] += 1
        rounds.append((seen[trial.kind], trial))
    return [trial for _, trial in sorted(rounds, key=lambda ranked: ranked[0])]


def _reported(results: Sequence[Result], *, as_json: bool) -> int:
    """Print the counts; the exit code."""
    kinds: Counter[str] = Counter(result.trial.kind for result in results)
    reached: Counter[str] = Counter(result.trial.kind for result in results if result.what)
    violations: Counter[str] = Counter(dict.fromkeys(PROPERTIES, 0))
    causes: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        violations.update({name for name, _ in result.problems})
        for name, details in result.problems:
            causes[name, details].append(result)
    print(f"{'fault':<42} {'trials':>7} {'took place':>10}")
    for kind, count in kinds.items():
        print(f"{kind:<42} {count:>7} {reached[kind]:>10}")
    print(f"{'all':<42} {len(results):>7} {sum(reached.values()):>10}\n")
    for name, count in violations.items():
        print(f"{count:>5} violations of {name!r}: {PROPERTIES[name]}")
    for (name, details), some in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"\n{name}: {details}\n    {len(some)} trials, e.g.")
        for result in some[:3]:
            print(f"    {result.trial}    at: {result.what}")
    if as_json:
        print(json.dumps({"trials": len(results), "kinds": kinds, "took_place": reached, "violations": violations}))
    return int(any(violations.values()))


if __name__ == "__main__":
    sys.exit(main())
