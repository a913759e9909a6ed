"""Preset "transfer": every extractor's cloaks against every recogniser, clean and robust."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from engine.bulk import people as population
from engine.checkpoint import CheckpointError
from engine.evaluate import figures
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.budget import users
from engine.evaluate.presets.common import MAIN_HEADS, by_set, photos_cloaked, rates, setting, where
from engine.evaluate.study import CloakSet, Study
from engine.evaluate.tables import percent
from engine.extractors import registry

NO_CLOAK = "no cloak"


def extractors(study: Study) -> tuple[str, ...]:
    """Extractors a user can make cloaks on: all of the registry, under objective target those with centroids."""
    names = registry.available()
    return names if study.recipe.objective != "target" else tuple(name for name in names if _has_centroids(name))


def sets(study: Study) -> dict[str, CloakSet]:
    """Cloaks made on each extractor alone, by its name."""
    return {name: study.wanted(users(study), extractors=(name,)) for name in extractors(study)}


def run(study: Study) -> Findings:
    """A row for every user's extractor and tracker; a heat map for every head."""
    people = users(study)
    made = by_set(study, sets(study), people)
    rows: list[dict[str, Value]] = []
    for user, (_, set_rows) in made.items():
        about: dict[str, Value] = {"user": user, "robust": "yes" if _robust(user) else "no"}
        rows += [{**about, **row} for row in set_rows]
    sentences = [
        f"Cloaks made on {user}{' (robust)' if _robust(user) else ''} alone: against itself "
        f"{rates(where(rows, user=user, part='in'))}; against the others "
        f"{rates(where(rows, user=user, part='held-out'))}."
        for user in dict.fromkeys(str(row["user"]) for row in rows)
    ]
    best = max(
        where(rows, part="held-out"), key=lambda row: float(row["protection"]) - float(row["floor"]), default=None
    )
    if best is not None:
        sentences.append(
            f"What carries over best: made on {best['user']}, against {best['tracker']}: "
            f"{percent(float(best['protection']))}, floor {percent(float(best['floor']))}."
        )
    if not any(_robust(user) for user in extractors(study)):
        sentences.append("No robust extractor is installed: that half of the paper's table is missing.")
    left_out = sorted(set(registry.available()) - set(extractors(study)))
    deviations = [
        *setting(study, [*made.values()][-1][0]),
        f"Only the first {len(people)} users take part.",
        "The extractors are those installed, not the paper's four; installed recognisers are trackers beside them.",
        *(
            [f"Without centroids for objective target, no cloaks were made on {', '.join(left_out)}."]
            if left_out
            else []
        ),
    ]
    return Findings(rows, _figure(rows), sentences, deviations)


def _has_centroids(name: str) -> bool:
    try:
        population.bank((name,))
    except CheckpointError:
        return False
    return True


def _robust(name: str) -> bool:
    return bool(registry.about(name).get("robust"))


def _figure(rows: Sequence[dict[str, Value]]) -> Figure:
    made = list(dict.fromkeys(str(row["user"]) for row in rows))
    trackers = list(dict.fromkeys(str(row["recogniser"]) for row in rows))
    figure = figures.new(height=1.2 + 2 * (0.9 + 0.34 * (len(made) + 1)))
    for axes, head in zip(figure.subplots(len(MAIN_HEADS), 1, sharex=True), MAIN_HEADS, strict=True):
        head_rows = where(rows, head=head)
        table = np.full((len(made) + 1, len(trackers)), np.nan)
        for row in head_rows:
            column = trackers.index(str(row["recogniser"]))
            table[made.index(str(row["user"])), column] = float(row["protection"])
            table[-1, column] = float(row["floor"])
        _heat(axes, table, rows=[*made, NO_CLOAK], columns=trackers)
        for row in where(head_rows, part="in"):
            corner = trackers.index(str(row["recogniser"])) - 0.5, made.index(str(row["user"])) - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec=figures.COLOURS[4], lw=3, clip_on=False))
        axes.set_title(f"{head}: protection (framed: the tracker's network made the cloaks)", fontsize="medium")
        axes.set_ylabel("cloaks made on")
    axes.set_xlabel("tracker's recogniser")
    return figure


def _heat(axes: Axes, table: np.ndarray, *, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(table):
        text = "" if np.isnan(value) else f"{100 * value:.0f} %"
        axes.text(x, y, text, ha="center", va="center", color="black" if value > 0.55 else "white")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)


PRESET = Preset(
    name="transfer",
    title="User's extractor and tracker's",
    source="Fawkes (Shan et al., USENIX Security 2020), table 3",
    question="Do cloaks made on one network hold against another?",
    cloaks=lambda study: list(sets(study).values()),
    embeddings=lambda study: len(sets(study)) * photos_cloaked(users(study)),
    seconds=lambda study: 3.0 * len(study.recognisers) * (1 + len(sets(study))),
    run=run,
)
