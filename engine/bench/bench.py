"""The sections of `cloak bench`, one after the other, and all that they found as one object for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from engine import sharding
from engine.bench import ceiling, collection, compiling, machine, solving, stepping, tables
from engine.bench.plan import Plan, Settings


class Section(NamedTuple):
    """rows: as they are measured. about: what is measured, and what the figures are not."""

    rows: Callable[[Plan], Iterator[dict[str, Any]]]
    about: str


SECTIONS: dict[str, Section] = {
    "peak": Section(ceiling.rows, "the ceiling of what follows: jitted JAX on one device"),
    "compile": Section(
        compiling.rows,
        "tracing and compiling what one face needs; cold: empty cache, warm: from it. In no other figure",
    ),
    "step": Section(stepping.rows, f"milliseconds per face of a solver step and a forward pass: {stepping.NO_QUALITY}"),
    "solve": Section(
        solving.rows,
        "whole cloaks, all faces there at the start; away from the face's own embedding; DSSIM of canvases",
    ),
    "goal": Section(solving.goals, "the same, each face until its mean shift is enough, looked at every 10 steps"),
    "photos": Section(collection.rows, "files in, files out; prepare and finish are summed over their threads"),
}
"""Sections in the order in which they are measured."""


def settings(
    *, only: Sequence[str] | None = None, batches: Sequence[str] = (), devices: Sequence[str] = (), **fields: Any
) -> tuple[Settings, tuple[str, ...]]:
    """Settings and sections of a command line. fields: of Settings. Raises ValueError for what makes no sense."""
    sharding.configure()
    sharding.devices_here()
    made = Settings(batches=_numbers("--batches", batches), devices=_numbers("--devices", devices), **fields)
    wrong = [name for name in only or () if name not in SECTIONS]
    if wrong or only == ():
        raise ValueError(f"--only must be some of {', '.join(SECTIONS)}; got {', '.join(wrong) or 'none'}")
    if only and "photos" in only and not made.photos:
        raise ValueError("the section photos needs photos: cloak bench PHOTOS")
    chosen = tuple(name for name in SECTIONS if (name in only if only else name != "photos" or made.photos))
    return made, chosen


def _numbers(option: str, texts: Sequence[str]) -> tuple[int, ...]:
    if not all(text.isdecimal() for text in texts):
        raise ValueError(f"{option} must be numbers, e.g. 1,4,8; got {','.join(texts)}")
    return tuple(dict.fromkeys(int(text) for text in texts))


def bench(made: Settings, sections: Sequence[str], *, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure. say: gets every line for people as it is known. Raises InputError for photos without a face."""
    about = machine.describe()
    say(f"{about['device']} ({about['platform']}), {about['cores']} cores {about['cpu']}, load {about['load']}")
    plan = Plan(made)
    say(f"Faces: {plan.samples.source}.")
    results: dict[str, list[dict[str, Any]]] = {}
    for name in sections:
        section = SECTIONS[name]
        say(f"\n{name}: {section.about}")
        results[name] = []
        for row in section.rows(plan):
            for line in tables.lines(name, row, first=not results[name]):
                say(line)
            results[name].append({**row, "load": machine.load()})
    return {
        "machine": about,
        "settings": {
            "recipe": asdict(made.recipe),
            "batches": plan.batches,
            "devices": plan.devices,
            "faces": made.faces,
            "repeats": made.repeats,
            "samples": plan.samples.source,
            "synthetic": not made.photos,
        },
        "sections": results,
        "max_rss_mb": machine.peak_rss(),
    }
