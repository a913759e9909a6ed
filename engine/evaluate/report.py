"""Output of `cloak evaluate`: a page for people, tables and figures for papers, results.json for programs.

    report.html            self-contained
    results.json           everything, unrounded
    tables/PRESET.csv, .md
    figures/PRESET.svg

The same findings give the same bytes: there is no date in them.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from engine import __version__, files, html
from engine.config import CLOAKS, CROPS
from engine.evaluate import figures, galleries, tables
from engine.evaluate.dataset import People, contents
from engine.evaluate.presets import Findings, Preset
from engine.evaluate.study import Study
from engine.extractors import registry

SCHEMA = 1
"""Version of results.json; raised when a field changes its meaning or goes away."""
PACKAGES = ("fawkes-engine", "jax", "flax", "optax", "numpy", "scipy", "opencv-python-headless", "pillow", "matplotlib")
HEADLINE = "protection"
"""The preset from whose rows the summary is computed."""
MOST = 0.5
"""A cloak protects where a tracker misses at least this share of a user's clean photos."""


class Section(NamedTuple):
    """One preset on the page. figure: an <svg> element, "" without one."""

    preset: Preset
    findings: Findings
    table: tables.Table | None
    figure: str


def about(study: Study) -> dict[str, Any]:
    """The grounds of a study's findings: settings, versions, weights and the people, as hashes if that is enough.

    The weights are those of the cloaks and of every recogniser that is one of the engine's extractors.
    """
    people = study.people
    names = {*study.recipe.names, *(name for recogniser in study.recognisers for name in recogniser.extractors)}
    return {
        "recipe": asdict(study.recipe),
        "output": asdict(study.output),
        "detection": asdict(study.detection),
        "seed": study.seed,
        "recognisers": [
            {"name": recogniser.name, "extractors": list(recogniser.extractors), "version": recogniser.version}
            for recogniser in study.recognisers
        ],
        "weights": {name: registry.find(name).sha256 for name in sorted(names)},
        "cloaks": CLOAKS,
        "crops": CROPS,
        "people": {
            **{kind: len(getattr(people, kind)) for kind in ("users", "others", "public")},
            "sha256": people_sha256(people),
            "further": _further(study),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def people_sha256(people: People) -> str:
    """The hash of the lists by names of folders and files, and by the contents of the files.

    It is the same wherever the photos lie, and another when one is exchanged, under the same name too. Raises OSError
    and PhotoError for a photo that cannot be read.
    """
    lists = {
        kind: {person.name: [contents(half) for half in (person.scraped, person.tests)] for person in members}
        for kind, members in (("users", people.users), ("others", people.others), ("public", people.public))
    }
    return hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()


def _further(study: Study) -> dict[str, Any]:
    """Other people in the folder that the people were chosen from: large galleries have them."""
    known = {person.name for kind in (study.people.users, study.people.others, study.people.public) for person in kind}
    people = galleries.further(study.faces, known) if study.faces is not None else {}
    photos = [(name, contents(photos)) for name, photos in people.items()]
    return {"count": len(people), "sha256": hashlib.sha256(json.dumps(photos).encode()).hexdigest()}


def write(findings: Mapping[Preset, Findings], about: Mapping[str, Any], out: Path) -> Path:
    """Write all of it under `out`, each file whole or not at all; the path of report.html.

    about: as the function of that name gives it; it stands in results.json beside the findings.
    """
    sections = []
    for preset, result in findings.items():
        drawn = figures.svg(result.figure) if isinstance(result.figure, Figure) else result.figure or ""
        if drawn:
            figures.checked(drawn)
        sections.append(Section(preset, result, tables.table(result.rows) if result.rows else None, drawn))
        if result.rows:
            _put(out / "tables" / f"{preset.name}.csv", tables.unrounded(result.rows))
            _put(out / "tables" / f"{preset.name}.md", tables.markdown(result.rows))
        if drawn:
            _put(out / "figures" / f"{preset.name}.svg", drawn)
    _put(out / "results.json", json.dumps(results(findings, about), indent=1, allow_nan=False) + "\n")
    rows = next((result.rows for preset, result in findings.items() if preset.name == HEADLINE), ())
    page = html.stream(
        "report.html.jinja",
        sections=[section._replace(figure=html.safe(section.figure)) for section in sections],
        summary=summary(rows),
        about=_plain(about),
        version=__version__,
    )
    return _put(out / "report.html", *page)


def results(findings: Mapping[Preset, Findings], about: Mapping[str, Any]) -> dict[str, Any]:
    """Contents of results.json; a figure that could not be measured is null."""
    return {
        "schema": SCHEMA,
        "engine": __version__,
        **_plain(about),
        "presets": {
            preset.name: {
                "title": preset.title,
                "source": preset.source,
                "question": preset.question,
                "sentences": list(result.sentences),
                "deviations": list(result.deviations),
                "rows": _plain(result.rows),
            }
            for preset, result in findings.items()
        },
    }


def summary(rows: tables.Rows) -> list[str]:
    """Protection by the cloaks, from the rows of the preset "protection"; empty without rows.

    Protected: the tracker misses most clean photos, and its interval lies above the floor's. In part: fewer, yet above
    the floor. Not: the intervals overlap, so it could be chance.
    """
    said = []
    for part, trackers in (
        ("in", "trackers on networks that the cloaks were made on"),
        ("held-out", "trackers on networks that took no part (held out)"),
    ):
        part_rows = [row for row in rows if row["part"] == part]
        for title, group in _verdicts(part_rows):
            listed = "; ".join(_listed(group))
            said.append(f"{title} {len(group)} of {len(part_rows)} {trackers}: {listed}.")
        if rows and not part_rows:
            said.append(f"There were no {trackers}: nothing is said about those.")
    named = [row for row in rows if math.isfinite(row["others"]) and math.isfinite(row["others_floor"])]
    if named:
        cloaked, clean = (float(np.mean([row[key] for row in named])) for key in ("others", "others_floor"))
        said.append(
            f"Everybody else is named rightly on {tables.percent(cloaked)} of their photos when users cloak, on "
            f"{tables.percent(clean)} when nobody does (mean over trackers)."
        )
    return said


def _verdicts(rows: tables.Rows) -> list[tuple[str, tables.Rows]]:
    def measured(row: Mapping[str, Any]) -> bool:
        return math.isfinite(row["protection_low"]) and math.isfinite(row["floor_high"])

    above = [row for row in rows if measured(row) and row["protection_low"] > row["floor_high"]]
    groups = (
        ("Protected against", [row for row in above if row["protection"] >= MOST]),
        ("Protected in part against", [row for row in above if row["protection"] < MOST]),
        ("Not protected against", [row for row in rows if measured(row) and row not in above]),
        ("Could not be measured:", [row for row in rows if not measured(row)]),
    )
    return [(title, group) for title, group in groups if group]


def _listed(rows: tables.Rows) -> list[str]:
    """Each tracker with its rates; those that differ in their last layer alone as one."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row.get("recogniser", row["tracker"]), []).append(row)
    said = []
    for name, group in groups.items():
        heads = f" ({', '.join(row['head'] for row in group)})" if "head" in group[0] else ""
        rates = dict.fromkeys(tables.percent(value) for value in sorted(row["protection"] for row in group))
        floor = tables.percent(max(row["floor"] for row in group))
        most = "at most " if len(group) > 1 else ""
        said.append(f"{name}{heads} {' to '.join([*rates][:: max(len(rates) - 1, 1)])}, floor {most}{floor}")
    return said


def _plain(value: Any) -> Any:
    """The value as JSON has it: NumPy's numbers as Python's, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _put(path: Path, *pieces: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, (piece.encode() for piece in pieces), mode=None)
    return path
