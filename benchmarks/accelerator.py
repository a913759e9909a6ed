"""An accelerator's first hour: what to run on a machine with a GPU and no network, in slices that can be stopped.

    python benchmarks/accelerator.py prepare FACES --bring DIR [--wheels]           here, before
    python benchmarks/accelerator.py check|bench|train|recipes|pipeline --bring DIR --work DIR --out DIR    there
    python benchmarks/accelerator.py judge DIR... --bring DIR                       here, afterwards

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
from accelerator_parts import DRY, FULL, Places, Sizes  # noqa: E402

from engine.dataset import photos_of  # noqa: E402
from engine.robust.data import names_in  # noqa: E402

LEAST = 20
"""Seconds that a part needs before it has done anything: Python, JAX, the device."""


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
            Part("tests", sizes.tests, 240),
        ],
        "bench": [*bench, Part("profile", str(sizes.batches[-1]), 90)],
        "train": [Part("train", name, sizes.training) for name in sizes.trained],
        "recipes": [Part("recipe", recipe, 40) for recipe in sizes.recipes],
        "pipeline": [Part("pipeline", speed, 90) for speed in sizes.speeds],
    }


def prepare(
    faces: Path, people: Path, bring: Path, sizes: Sizes, *, most: int | None = None, cache: Path | None = None
) -> None:
    """Write the reference, with cloaks made here, and the canvases of everybody who may be trained on.

    faces: a folder of photos for each person. people: a list as lfw-people.json; the reference has faces of its users,
    and nobody in it is trained on. If none of them are here, the first people are taken. most: photos for training, all
    of a person's or none.
    """
    bring.mkdir(parents=True, exist_ok=True)
    everybody = photos_of(faces)
    listed = [name for name in json.loads(people.read_text(encoding="utf-8"))["users"] if name in everybody]
    users = [name for name in listed or everybody if len(everybody[name]) >= sizes.photos][: sizes.people]
    cloaks.reference(bring / carried.REFERENCE, [everybody[name][: sizes.photos] for name in users], sizes)
    kept = {*users, *names_in(people)}
    trained: dict[str, list[Path]] = {}
    count = 0
    for name, photos in everybody.items():
        if name not in kept and (most is None or count + len(photos) <= most):
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


def run(name: str, places: Places, *, minutes: float, dry: bool, again: bool) -> bool:
    """As many parts of a slice as there is time for; True if none is left."""
    for folder in (places.work, places.out):
        folder.mkdir(parents=True, exist_ok=True)
    results, end = Results(places), time.monotonic() + 60 * minutes
    listed = slices(DRY if dry else FULL)[name]
    todo = [part for part in listed if again or part.name not in results.ended()]
    for index, part in enumerate(todo):
        left = end - time.monotonic()
        needed = 0 if dry else 3 * LEAST if part.kind == "train" else part.seconds
        if left <= needed:
            print(f"{len(todo) - index} parts are left, the next is {part.name}: run the same call again", flush=True)
            return False
        begun = time.monotonic()
        status, found = _here(part, places, left) if dry else _apart(part, places, left)
        row = {
            "slice": name,
            "part": part.name,
            "status": status,
            "seconds": round(time.monotonic() - begun, 1),
            **found,
        }
        results.add(row)
        print(json.dumps(row), flush=True)
    return not any(row["status"] == "cut" for row in _last(results, listed))


def _last(results: Results, listed: list[Part]) -> list[dict[str, Any]]:
    """The newest row of each part."""
    newest = {row["part"]: row for row in results.rows()}
    return [newest[part.name] for part in listed if part.name in newest]


def _here(part: Part, places: Places, left: float) -> tuple[str, dict[str, Any]]:
    """In this process: for tiny sizes, of which most of the time would go into starting Python."""
    return "done", parts.KINDS[part.kind](part.about, places, DRY, left)


def _apart(part: Part, places: Places, left: float) -> tuple[str, dict[str, Any]]:
    """In a process of its own, which is ended with all that it has started if it is not done in time."""
    folders = [f"--{field}={getattr(places, field)}" for field in Places._fields]
    call = [
        sys.executable,
        str(HERE),
        "part",
        part.kind,
        part.about,
        *folders,
        f"--minutes={max(left - LEAST, 1) / 60}",
    ]
    log = places.work / "log.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_COMPILATION_CACHE_DIR": str(places.work / "jax"),
    }
    with log.open("ab") as errors:
        process = subprocess.Popen(
            call, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, start_new_session=True
        )
        try:
            said, _ = process.communicate(timeout=max(left, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "cut", {}
    lines = said.strip().splitlines()
    if process.returncode or not lines:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        return "failed", {"code": process.returncode, "said": "\n".join(tail)[-2000:]}
    found = json.loads(lines[-1])
    return ("cut" if found.pop("unfinished", False) else "done"), found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["prepare", *slices(FULL), "part", "judge"])
    parser.add_argument("given", nargs="*", help="prepare: FACES. judge: folders that came back")
    parser.add_argument("--bring", type=Path, required=True, help="folder of what is brought along")
    parser.add_argument("--work", type=Path, default=Path("work"), help="folder that stays on the machine")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of what comes back")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--people", type=Path, default=HERE.parent / "lfw-people.json", help="whom nobody may train on")
    parser.add_argument("--cache", type=Path, help="prepare: a cache of `cloak train-robust`; default: none is kept")
    parser.add_argument("--most", type=int, help="prepare: so many photos for training; default: all")
    parser.add_argument("--wheels", action="store_true", help="prepare: also fetch the packages that are wanting there")
    parser.add_argument("--judges", help="judge: networks, with commas; default: all that are installed")
    parser.add_argument("--again", action="store_true", help="also parts that are done or failed")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, all in this process")
    options = parser.parse_args(arguments)
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
    if not (options.bring / carried.REFERENCE).exists():
        parser.error(f"{options.bring} has no {carried.REFERENCE}: run `prepare` first")
    if options.what == "judge":
        if not options.given:
            parser.error("judge takes the folders that came back")
        names = options.judges.split(",") if options.judges else None
        print(json.dumps(cloaks.judged([Path(folder) for folder in options.given], options.bring, names)))
        return 0
    if options.what == "part":
        kind, about = options.given
        try:
            found = parts.KINDS[kind](about, places, sizes, 60 * options.minutes)
        except carried.FullError as error:
            found = {"unfinished": True, "said": str(error)}
        print(json.dumps(found), flush=True)
        os._exit(0)  # a training that goes on in a thread must not hold the machine
    return 0 if run(options.what, places, minutes=options.minutes, dry=options.dry, again=options.again) else 3


if __name__ == "__main__":
    sys.exit(main())
