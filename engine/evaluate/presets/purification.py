"""Preset "purification": the tracker washes every photo it has before it learns and before it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.evaluate.dataset import Person
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import MAIN_HEADS, each_tracker, few, mean, rates, setting, where
from engine.evaluate.presets.plots import dots
from engine.evaluate.protocol import measure
from engine.evaluate.purification import PURIFICATIONS, purified
from engine.evaluate.study import Study
from engine.evaluate.tables import percent

USERS = 10
OTHERS = 20
OTHERS_PHOTOS = 3
"""Photos of each of the others, besides a test: every photo is embedded anew for every purification."""
NOTHING = "nothing"


def people(study: Study) -> tuple[tuple[Person, ...], tuple[Person, ...]]:
    """Users and others who take part."""
    others = study.people.others[:OTHERS]
    fewer = tuple(replace(person, scraped=person.scraped[:OTHERS_PHOTOS], tests=person.tests[:1]) for person in others)
    return study.people.users[:USERS], fewer


def run(study: Study) -> Findings:
    """A row for every purification and tracker, first without any."""
    cloaks = study.cloaks(study.wanted())
    users, others = people(study)
    scraped = [photo for user in users for photo in user.scraped]
    cloaked = {photo: cloaks.files[photo] for photo in scraped}
    chosen = few(study.recognisers, cloaks.made_with)
    rows: list[dict[str, Value]] = []
    for how in (NOTHING, *PURIFICATIONS):
        clean, washed = _washed(study, how, users, others, cloaked)
        for columns, tracker in each_tracker(chosen, MAIN_HEADS):
            measured = measure(tracker, users, others, cloaked=washed, made_with=cloaks.made_with, clean=clean)
            rows.append({"purification": how, **columns, **measured.row(), **cloaks.quality()})
        study.say(f"{how}: {rates(where(rows, purification=how))}")
    sentences = [f"With cloaks and no purification: {_both(where(rows, purification=NOTHING))}."]
    for how in PURIFICATIONS:
        after, before = where(rows, purification=how), where(rows, purification=NOTHING)
        sentences.append(
            f"{how[0].upper()}{how[1:]}: {_both(after)}; the tracker names {percent(mean(after, 'others'))} of the "
            f"other people's photos rightly, {percent(mean(before, 'others'))} without purification."
        )
    deviations = [
        *setting(study, cloaks),
        f"Only the first {len(users)} users and {len(others)} others, with at most {OTHERS_PHOTOS} photos to learn "
        "from each, and at most two recognisers that took part in the cloaks and one held-out: all is embedded anew.",
        "The tracker treats all it has alike, what it scraped and what it is shown. DSSIM is of the files before.",
        "The paper tries blur, compression and noise as countermeasures; resizing, median, grey and screenshots are "
        "added, noise is left out.",
    ]
    heads = where(rows, head=MAIN_HEADS[0])
    figure = dots(heads, by="purification", colour="recogniser", note=MAIN_HEADS[0])
    return Findings(rows, figure, sentences, deviations)


def _washed(
    study: Study, how: str, users: Sequence[Person], others: Sequence[Person], cloaked: dict[Path, Path | None]
) -> tuple[dict[Path, Path], dict[Path, Path | None]]:
    """Stand-ins for every clean photo, and for every scraped one with cloaks."""
    if how == NOTHING:
        return {}, cloaked
    photos = [photo for person in (*users, *others) for photo in (*person.scraped, *person.tests)]
    published = [file for file in cloaked.values() if file is not None]
    copies = purified(
        [*photos, *published],
        how,
        study.out / "copies",
        progress=lambda done, all: study.progress(f"purified: {how}", done, all),
    )
    return (
        {photo: copies[photo] for photo in photos},
        {photo: None if file is None else copies[file] for photo, file in cloaked.items()},
    )


def _both(rows: Sequence[dict[str, Value]]) -> str:
    return f"took part {rates(where(rows, part='in'))}, held out {rates(where(rows, part='held-out'))}"


def _copies(study: Study) -> int:
    users, others = people(study)
    clean = sum(len(person.scraped) + len(person.tests) for person in (*users, *others))
    return len(PURIFICATIONS) * (clean + sum(len(user.scraped) for user in users))


def _embeddings(study: Study) -> int:
    """Photos to embed, as if each recogniser saw as many. Only a few recognisers see the copies."""
    share = len(few(study.recognisers, study.recipe.names)) / max(len(study.recognisers), 1)
    return round(_copies(study) * share)


PRESET = Preset(
    name="purification",
    title="When the tracker washes its photos",
    source="Fawkes (Shan et al., USENIX Security 2020), section 8; Radiya-Dixit, Hong, Carlini and Tramèr (ICLR 2022)",
    question="Do compression, resizing or blur take cloaks off, and what do they cost the tracker?",
    cloaks=lambda study: [study.wanted()],
    embeddings=_embeddings,
    seconds=lambda study: 0.02 * _copies(study) + 6.0 * len(MAIN_HEADS) * 3 * (1 + len(PURIFICATIONS)),
    run=run,
    default=True,
)
