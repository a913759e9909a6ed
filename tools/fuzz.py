"""Hostile files by the thousand: `python tools/fuzz.py photo --inputs 20000`. A finding is exit 1.

Targets: photo (mutated photos), leak (a second picture in every place of a file), convert (weights), cards, manifest.
Properties: only PhotoError or the reader's own error, no warning, under 10 s of processor time and 1 GB beyond the
picture's own size, and nothing of a planted picture in what is written. Every input is made of its number and --seed
alone: `--replay NUMBER` tries one in this process, `--save FILE` keeps it.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from fuzzing import pool, targets  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--inputs", type=int, default=1000, help="how many")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so long")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bundled", action="store_true", help="leave ../shared out (photo)")
    parser.add_argument("--replay", type=int, help="try one input in this process")
    parser.add_argument("--save", type=Path, help="file for the input of --replay, or folder for those with findings")
    options = parser.parse_args(arguments)
    settings = {"seed": options.seed} | ({"shared": not options.bundled} if options.target in ("photo", "leak") else {})
    target = targets.TARGETS[options.target](**settings)
    if options.replay is not None:
        case = target.make(options.replay)
        if options.save:
            options.save.write_bytes(case.data)
        outcome = pool.examine(target, options.replay)
        print(f"{outcome.verdict}: {outcome.detail} ({outcome.seconds:.2f} s, {outcome.megabytes:.0f} MB)")
        return int(outcome.finding)
    start = time.monotonic()
    summary = Summary()
    numbers = range(options.first, options.first + options.inputs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcomes = pool.run(options.target, numbers, settings, workers=options.workers)
        _try_all(options, target, outcomes, summary, start)
    except KeyboardInterrupt:
        print("interrupted")
    print(summary.text(time.monotonic() - start))
    return int(bool(summary.findings))


def _try_all(
    options: argparse.Namespace, target: Any, outcomes: Iterator[pool.Outcome], summary: Summary, start: float
) -> None:
    for outcome in outcomes:
        summary.add(outcome)
        if outcome.finding:
            print(
                f"FINDING seed {options.seed} input {outcome.number}: {outcome.verdict}: {outcome.detail}", flush=True
            )
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                name = f"{options.target}-{options.seed}-{outcome.number}"
                (options.save / name).write_bytes(target.make(outcome.number).data)
        if time.monotonic() - start > options.seconds:
            return


class Summary:
    """Counts of what came of all inputs."""

    def __init__(self) -> None:
        self.containers: collections.Counter[str] = collections.Counter()
        self.verdicts: collections.Counter[str] = collections.Counter()
        self.findings: list[pool.Outcome] = []
        self.slowest = self.largest = pool.Outcome(-1, "none")

    def add(self, outcome: pool.Outcome) -> None:
        """Counts one."""
        self.containers[outcome.container or "?"] += 1
        self.verdicts[outcome.verdict] += 1
        self.slowest = max(self.slowest, outcome, key=lambda tried: tried.seconds)
        self.largest = max(self.largest, outcome, key=lambda tried: tried.megabytes)
        self.findings += [outcome] if outcome.finding else []

    def text(self, seconds: float) -> str:
        """For people."""
        count = sum(self.verdicts.values())
        slow, large = self.slowest, self.largest
        return (
            f"{count} inputs in {seconds:.0f} s: {len(self.findings)} findings\n"
            f"containers: {dict(self.containers.most_common())}\n"
            f"outcomes: {dict(self.verdicts.most_common())}\n"
            f"slowest: {slow.seconds:.2f} s, input {slow.number}, {slow.detail}\n"
            f"largest: {large.megabytes:.0f} MB, input {large.number}, {large.detail}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
