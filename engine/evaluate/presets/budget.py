"""Preset "budget": protection against rho, of cloaks made on one extractor."""

from __future__ import annotations

from engine.evaluate.dataset import Person
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import by_set, photos_cloaked, rates, setting, where
from engine.evaluate.presets.plots import curves
from engine.evaluate.study import CloakSet, Study

RHOS = (0.003, 0.007, 0.017)
"""Besides the study's own budget: below the paper's, the paper's, and that of mode high."""
USERS = 10
"""The first of the study's users: a cloak costs more than all else. Preset "transfer" takes the same."""


def users(study: Study) -> tuple[Person, ...]:
    """People who take part."""
    return study.people.users[:USERS]


def sets(study: Study) -> dict[float, CloakSet]:
    """Cloaks of the recipe's first extractor alone, by rho, as in the paper."""
    first = study.recipe.names[:1]
    return {rho: study.wanted(users(study), extractors=first, rho=rho) for rho in sorted({*RHOS, study.recipe.rho})}


def run(study: Study) -> Findings:
    """A row for every budget and tracker."""
    people = users(study)
    made = by_set(study, sets(study), people)
    rows: list[dict[str, Value]] = [{"rho": rho, **row} for rho, (_, set_rows) in made.items() for row in set_rows]
    sentences = [
        f"At rho {rho:g} (mean DSSIM {where(rows, rho=rho)[0]['dssim_mean']:.4f} measured): on the network that made "
        f"the cloaks {rates(where(rows, rho=rho, part='in'))}; on held-out ones "
        f"{rates(where(rows, rho=rho, part='held-out'))}."
        for rho in sorted({float(row["rho"]) for row in rows})
    ]
    deviations = [
        *setting(study, [*made.values()][-1][0]),
        f"Only the first {len(people)} users take part, and {len(RHOS)} budgets besides the study's own.",
        "The paper's figure has one tracker, of the extractor that made the cloaks; the held-out ones are added.",
    ]
    figure = curves(rows, x="rho", line="recogniser", panel="head", label="budget rho (DSSIM)")
    return Findings(rows, figure, sentences, deviations)


PRESET = Preset(
    name="budget",
    title="Protection against the budget",
    source="Fawkes (Shan et al., USENIX Security 2020), figure 4",
    question="How much must a photo change before a tracker is misled?",
    cloaks=lambda study: list(sets(study).values()),
    embeddings=lambda study: len(sets(study)) * photos_cloaked(users(study)),
    seconds=lambda study: 3.0 * len(study.recognisers) * (1 + len(sets(study))),
    run=run,
)
