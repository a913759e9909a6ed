"""An accelerator's first hour: what to run on a machine with a GPU and no network, in slices that can be stopped.

    python benchmarks/accelerator.py prepare FACES --bring DIR [--wheels]           here, before
    python benchmarks/accelerator.py SLICES --bring DIR --work DIR --out DIR        there
    python benchmarks/accelerator.py judge DIR... --bring DIR                       here, afterwards

SLICES: some of check, bench, train, recipes, pipeline, tests, with commas, done in the order given; or all.
benchmarks/ACCELERATOR.md says what to bring, in what order, and what each slice costs. A slice is a list of parts.
Every part is a process of its own and ends in a row of results.jsonl, so one that fails, hangs or takes all memory ends
alone. A slice begins no part for which there is no time left, and the next call goes on behind the last row. --dry has
tiny sizes, for a CPU. FACES is a folder with a folder of photos for each person.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

import accelerator_cloaks as cloaks  # noqa: E402
import accelerator_files as carried  # noqa: E402
import accelerator_parts as parts  # noqa: E402
import jax  # noqa: E402
from accelerator_parts import DRY, FULL, Places, Sizes, is_installed  # noqa: E402

from engine.dataset import photos_of  # noqa: E402
from engine.robust.data import names_in  # noqa: E402

LEAST = 20
"""Seconds that a part needs before it has done anything: Python, JAX, the device."""
PATIENCE = 4
"""A part that takes so many times what it is expected to take hangs; it must not take the whole call with it."""
LOG = 200_000
"""Bytes of the log's end that come back."""


class Part(NamedTuple):
    """kind: of `parts.KINDS`. about: what it is given. seconds: what it is expected to take at most on an H100, a guess
    until one was seen; a training takes all there are.
    """

    kind: str
    about: str = ""
    seconds: int = 60

    @property
    def name(self) -> str:
        return f"{self.kind} {self.about}".strip()


def slices(sizes: Sizes) -> dict[str, list[Part]]:
    """The parts of every slice, those first that the others need."""
    bench = [Part("bench", f"{batch} {name}") for batch in sizes.batches for name in sizes.precisions[1:]]
    return {
        "check": [
            Part("machine", seconds=30),
            *(Part("parity", precision, 90) for precision in sizes.precisions),
        ],
        # Not the largest batch: if that one does not fit, its profile would be lost with it.
        "bench": [*bench, Part("profile", str(sizes.batches[len(sizes.batches) // 2]), 90)],
        "train": [Part("train", name, sizes.training) for name in sizes.trained if is_installed(name)],
        "recipes": [Part("recipe", recipe, 40) for recipe in sizes.recipes],
        "pipeline": [Part("pipeline", speed, 90) for speed in sizes.speeds],
        "tests": [Part("tests", sizes.tests, 120)],
    }


def prepare(
    faces: Path, people: Path, bring: Path, sizes: Sizes, *, most: int | None = None, cache: Path | None = None
) -> None:
    """Write the reference, with cloaks made here, and the canvases of everybody who may be trained on.

    The reference is left out where no network of the default recipe is: such a tree is for training alone.

    faces: a folder of photos for each person. people: a list as lfw-people.json; the reference has faces of its users,
    and nobody in it is trained on. If none of them are here, the first people are taken. most: photos for training, all
    of a person's or none.
    """
    bring.mkdir(parents=True, exist_ok=True)
    everybody = photos_of(faces)
    listed = [name for name in json.loads(people.read_text(encoding="utf-8"))["users"] if name in everybody]
    users = [name for name in listed or everybody if len(everybody[name]) >= sizes.photos][: sizes.people]
    if sizes.installed:
        cloaks.reference(bring / carried.REFERENCE, [everybody[name][: sizes.photos] for name in users], sizes)
    wanted = {*users, *names_in(people)}
    trained: dict[str, list[Path]] = {}
    count = 0
    for name, photos in everybody.items():
        if name not in wanted and (most is None or count + len(photos) <= most):
            trained[name] = photos
            count += len(photos)
    carried.pack(trained, bring / carried.TRAINING, cache=cache)


@dataclass
class Results:
    """Rows, in `work` and in `out` as soon as they are known; `bring` may have those of an earlier machine."""

    places: Places

    @property
    def _files(self) -> list[Path]:
        return [self.places.bring / "results.jsonl", self.places.work / "results.jsonl"]

    def rows(self) -> Iterator[dict[str, Any]]:
        for path in self._files:
            if path.exists():
                yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())

    def ended(self) -> set[str]:
        """The parts that need not be tried again: those that are done, and those that failed."""
        return {row["part"] for row in self.rows() if row["status"] != "cut"}

    def add(self, row: dict[str, Any]) -> None:
        for folder in (self.places.work, self.places.out):
            with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def run(names: list[str], places: Places, *, minutes: float, dry: bool, again: bool) -> bool:
    """As many parts of these slices as there is time for; True if none is left."""
    for folder in (places.work, places.out):
        folder.mkdir(parents=True, exist_ok=True)
    results, end = Results(places), time.monotonic() + 60 * minutes
    everything = slices(DRY if dry else FULL)
    listed = [(name, part) for name in names for part in everything[name]]
    todo = [(name, part) for name, part in listed if again or part.name not in results.ended()]
    for index, (name, part) in enumerate(todo):
        seconds_left = end - time.monotonic()
        needed = 0 if dry else 3 * LEAST if part.kind == "train" else part.seconds
        if seconds_left <= needed:
            print(f"{len(todo) - index} parts are left, the next is {part.name}: run the same call again", flush=True)
            return False
        begun = time.monotonic()
        status, outcome = (_here if dry else _apart)(part, places, seconds_left)
        row = {
            "slice": name,
            "part": part.name,
            "status": status,
            "seconds": round(time.monotonic() - begun, 1),
            **outcome,
        }
        results.add(row)
        print(json.dumps(row), flush=True)
    return all(part.name in results.ended() for _, part in listed)


def _here(part: Part, places: Places, seconds_left: float) -> tuple[str, dict[str, Any]]:
    """In this process: for tiny sizes, of which most of the time would go into starting Python."""
    return _told(parts.KINDS[part.kind](part.about, places, DRY, seconds_left))


def _told(outcome: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return ("cut" if outcome.pop("unfinished", False) else "done"), outcome


def _apart(part: Part, places: Places, seconds_left: float) -> tuple[str, dict[str, Any]]:
    """In a process of its own, which is ended with all that it has started if it is not done in time.

    Only one has the device at a time, so each may take all of its memory, as JAX does.
    """
    patience = seconds_left if part.kind == "train" else min(seconds_left, PATIENCE * part.seconds)
    folders = [f"--{field}={getattr(places, field)}" for field in Places._fields]
    minutes = f"--minutes={max(patience - LEAST, 1) / 60}"
    call = [sys.executable, str(HERE), "part", part.kind, part.about, *folders, minutes]
    paths_before = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(HERE.parents[1]), *map(os.path.abspath, paths_before)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_COMPILATION_CACHE_DIR": str(places.work.resolve() / "jax"),
    }
    log = places.work / "log.txt"
    with log.open("ab") as errors:
        begun = errors.tell()
        # A group, not a session, of its own: who ends all that a command left running finds it.
        process = subprocess.Popen(
            call, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, process_group=0
        )
        try:
            said, _ = process.communicate(timeout=max(patience, 1))
        except subprocess.TimeoutExpired:
            return ("cut" if patience == seconds_left else "hung"), {"said": _tail(log, begun, places)}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    lines, tail = said.strip().splitlines(), _tail(log, begun, places)
    if process.returncode or not lines:
        return "failed", {"code": process.returncode, "said": tail}
    return _told(json.loads(lines[-1]))


def _tail(log: Path, begun: int, places: Places) -> str:
    """The end of what a part has said since its begin. The end of the whole log comes back as a file."""
    content = log.read_bytes()
    (places.out / "log.txt").write_bytes(content[-LOG:])
    return "\n".join(content[begun:].decode(errors="replace").splitlines()[-30:])[-3000:]


def _provide(home: Path) -> None:
    """The tiny network of the tests, of which a dry run is: any other one takes minutes to compile."""
    sys.path.append(str(HERE.parents[1] / "tests"))
    import tiny_robust

    tiny_robust.provide(home)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", help="prepare, judge, all, or some of " + ", ".join(slices(FULL)) + ", with commas")
    parser.add_argument("given", nargs="*", help="prepare: FACES. judge: folders that came back")
    parser.add_argument("--bring", type=Path, required=True, help="folder of what is brought along")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder that stays on the machine")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of what comes back")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--people", type=Path, default=HERE.parent / "lfw-people.json", help="whom nobody may train on")
    parser.add_argument("--cache", type=Path, help="prepare: a cache of `cloak train-robust`; default: none is kept")
    parser.add_argument("--most", type=int, help="prepare: so many photos for training; default: all")
    parser.add_argument("--wheels", action="store_true", help="prepare: also fetch the packages that are wanting there")
    parser.add_argument("--judges", help="judge: networks, with commas; default: all that are installed, if dry one")
    parser.add_argument("--again", action="store_true", help="also parts that are done or failed")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, all in this process")
    options = parser.parse_args(arguments)
    if options.dry:
        jax.config.update("jax_disable_most_optimizations", True)  # a third of the time to compile
        _provide(options.bring / "home")
    sizes = DRY if options.dry else FULL
    places = Places(options.bring, options.work, options.out)
    if options.what == "prepare":
        if len(options.given) != 1:
            parser.error("prepare takes FACES, a folder with a folder of photos for each person")
        prepare(Path(options.given[0]), options.people, options.bring, sizes, most=options.most, cache=options.cache)
        if options.wheels:
            carried.fetch(options.bring / "wheels")
        print(carried.weighed(options.bring, HERE.parents[1]))
        return 0
    if options.what in ("part", "judge"):
        names = []
    else:
        names = list(slices(sizes)) if options.what == "all" else options.what.split(",")
    if unknown := [name for name in names if name not in slices(sizes)]:
        parser.error(f"slices are {', '.join(slices(sizes))}; got {', '.join(unknown)}")
    for file in [carried.TRAINING if name == "train" else carried.REFERENCE for name in names]:
        if not (options.bring / file).exists():
            parser.error(f"{options.bring} has no {file}: run `prepare` first")
    if options.what == "judge":
        if not options.given:
            parser.error("judge takes the folders that came back")
        judges = list(sizes.installed) if options.dry else None
        judges = options.judges.split(",") if options.judges else judges
        print(json.dumps(cloaks.judged([Path(folder) for folder in options.given], options.bring, judges)))
        return 0
    if options.what == "part":
        kind, about = options.given
        try:
            outcome = parts.KINDS[kind](about, places, sizes, 60 * options.minutes)
        except carried.FullError as error:
            outcome = {"unfinished": True, "said": str(error)}
        print(json.dumps(outcome), flush=True)
        os._exit(0)  # a training that goes on in a thread must not hold the machine
    if not options.dry:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part at work is ended, too
    return 0 if run(names, places, minutes=options.minutes, dry=options.dry, again=options.again) else 3


if __name__ == "__main__":
    sys.exit(main())
