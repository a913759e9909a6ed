"""Preset "sybil": photos of the user have leaked, and an account under another name posts somebody's photos that are
cloaked to look like the user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.bulk import people as population
from engine.bulk import run as bulk
from engine.bulk.cloaker import Cloaker, Target
from engine.bulk.manifest import Manifest
from engine.bulk.prepare import prepare
from engine.bulk.watch import Counting
from engine.config import Recipe
from engine.evaluate.dataset import Person
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import (
    MAIN_HEADS,
    central_face,
    each_tracker,
    few,
    leaked,
    pooled,
    rates,
    setting,
    unpublished,
    where,
)
from engine.evaluate.presets.plots import curves
from engine.evaluate.protocol import classify, judged
from engine.evaluate.study import BATCH, CloakSet, Study, linked
from engine.evaluate.tables import percent
from engine.types import PhotoError

USERS = 5
PHOTOS = 4
"""Photos of each fake account."""
LEAKED = (0.0, 0.25, 0.5, 1.0)
DRAWS = 3
NONE, CLEAN, CLOAKED = "none", "somebody's photos as they are", "somebody's photos cloaked to look like the user"
"""Photos that the fake account posts. The middle one tells whether it is the cloaks that help, or one more label."""


@dataclass(frozen=True)
class Decoy:
    """A fake account for one user. photos: of a person of the public. files: by photo its cloaked one, if it has a
    face. dssim: of the central face's region.
    """

    user: Person
    photos: tuple[Path, ...]
    files: Mapping[Path, Path]
    dssim: Mapping[Path, float]

    def account(self, posts: str) -> list[Person]:
        """The fake account as one more person for the tracker to learn: nobody's test is shown under its name."""
        if posts == NONE:
            return []
        photos = self.files.values() if posts == CLOAKED else self.files
        return [Person(f"fake account for {self.user.name}", tuple(photos), ())]


def recipe(study: Study) -> Recipe:
    """The recipe of the fake accounts' cloaks: the study's own, but towards a goal."""
    return replace(study.recipe, objective="target")


def chosen(study: Study) -> list[tuple[Person, tuple[Path, ...]]]:
    """The first users, each with the photos of a person of the public. Raises ValueError if there is no public."""
    users, public = study.people.users[:USERS], study.people.public
    if len(public) < len(users):
        raise ValueError(
            f"the photos of {len(users)} fake accounts are taken from as many people of the public; there are "
            f"{len(public)}: ask for more, or leave preset sybil out"
        )
    return [(user, (*person.scraped, *person.tests)[:PHOTOS]) for user, person in zip(users, public, strict=False)]


def folder(study: Study, user: Person, photos: Sequence[Path]) -> Path:
    """Folder of a user's fake account with these photos."""
    return study.out / "sybil" / CloakSet(recipe(study), (Person(user.name, tuple(photos), ()),), study.output).label


def decoys(study: Study) -> list[Decoy]:
    """All fake accounts; photos that are not there yet are cloaked now. Raises RuntimeError if any fails."""
    wanted = chosen(study)
    goals = clean_means(study, [user for user, _ in wanted])
    made = []
    for (user, photos), goal in zip(wanted, goals, strict=True):
        files = _cloaked(study, folder(study, user, photos), user, photos, goal)
        if not files:
            raise RuntimeError(
                f"no face was found in {', '.join(map(str, photos))}: no fake account can be made of them"
            )
        made.append(Decoy(user, photos, files, {photo: study.dssim(photo, file) for photo, file in files.items()}))
    return made


def clean_means(study: Study, users: Sequence[Person]) -> list[Target]:
    """The mean clean embedding of each user's scraped photos in every extractor of the recipe."""
    batcher = Cloaker(recipe=replace(study.recipe, objective="away"), detection=study.detection, batch=BATCH).batcher
    means = []
    for user in users:
        prepared = [cut_photo for photo in user.scraped if (cut_photo := prepare(photo, study.detector)).cuts]
        if not prepared:
            raise RuntimeError(f"no face was found in any of the scraped photos of {user.name}")
        means.append(
            population.mean_embedding(batcher.embed([photo.cuts[central_face(photo)].canvas for photo in prepared]))
        )
    return means


def run(study: Study) -> Findings:
    """A row for what the fake account posts, every share of leaked photos and tracker."""
    cloaks = study.cloaks(study.wanted())
    fakes = decoys(study)
    users, others = [fake.user for fake in fakes], study.people.others
    published = [photo for user in users for photo in user.scraped if cloaks.files[photo] is not None]
    dssim = [value for fake in fakes for value in fake.dssim.values()]
    spent = {"fake_dssim_mean": float(np.mean(dssim)), "fake_dssim_max": float(np.max(dssim))}
    rows: list[dict[str, Value]] = []
    for columns, tracker in each_tracker(few(study.recognisers, cloaks.made_with), MAIN_HEADS):
        floor = classify(tracker, users, others, shown=unpublished(cloaks))
        for share in LEAKED:
            random = np.random.default_rng((study.seed, round(1000 * share)))
            shown = [leaked(users, cloaks.files, share, random) for _ in range(DRAWS if 0 < share < 1 else 1)]
            for posts in (NONE, CLEAN, CLOAKED):
                accounts = [account for fake in fakes for account in fake.account(posts)]
                measured = judged(
                    tracker,
                    cloaks.made_with,
                    with_cloaks=pooled([classify(tracker, users, [*others, *accounts], shown=some) for some in shown]),
                    without=floor,
                    users=users,
                    scraped=len(published),
                    other_people=len(others),
                )
                told = {"leaked": share, "fake account": posts, "fake_photos": sum(len(a.scraped) for a in accounts)}
                rows.append({**told, **columns, **measured.row(), **cloaks.quality(), **spent})
        study.say(f"{tracker.name}: fake accounts tried")
    sentences = [
        f"With {percent(share)} of the user's scraped photos clean, the fake account posting {posts}: recognisers that "
        f"took part {rates(where(share_rows, part='in'))}; held-out {rates(where(share_rows, part='held-out'))}."
        for share in LEAKED
        for posts in (NONE, CLEAN, CLOAKED)
        if (share_rows := where(rows, leaked=share, **{"fake account": posts}))
    ]
    deviations = [
        *setting(study, cloaks),
        f"Only the first {len(users)} users, with one fake account of at most {PHOTOS} photos each, of a person that "
        "the tracker does not know otherwise; the paper varies the number of accounts and of their photos.",
        f"The fake accounts' cloaks keep the budget of the users' own (rho {study.recipe.rho:g}) and go to the mean "
        "clean embedding of the user.",
    ]
    shown_rows = [{**row, "panel": f"{row['recogniser']} ({row['part']})"} for row in where(rows, head=MAIN_HEADS[0])]
    figure = curves(
        shown_rows, x="leaked", line="fake account", panel="panel", label="clean among the user's photos", percent=True
    )
    return Findings(rows, figure, sentences, deviations)


def _cloaked(study: Study, place: Path, user: Person, photos: Sequence[Path], goal: Target) -> dict[Path, Path]:
    """Cloaked files by photo, of those in which a face was found; resumes as `bulk.run` does."""
    (place / "scraped").mkdir(parents=True, exist_ok=True)
    for photo in photos:
        linked(place / "scraped" / photo.name, photo)
    settings = bulk.fingerprint(recipe(study), study.detection, study.output)
    goal_hash = hashlib.sha256(b"".join(embedding.tobytes() for embedding in goal)).hexdigest()
    bulk.run(
        lambda count: Cloaker(recipe=recipe(study), detection=study.detection, goal=goal, batch=min(BATCH, PHOTOS)),
        [place / "scraped"],
        place / "cloaked",
        settings=f"{settings} {goal_hash}",
        options=bulk.Options(study.output),
        watch=Counting(lambda done: study.progress(f"fake account for {user.name}", done, len(photos))),
    )
    with Manifest(place / "cloaked") as manifest:
        rows = {Path(row.source).name: row for row in manifest.rows()}
    failed = [photo for photo in photos if photo.name in rows and rows[photo.name].status == "failed"]
    for photo in failed:
        reason = rows[photo.name].reason
        raise PhotoError(f"{len(failed)} photos could not be cloaked, the first {photo}: {reason}")
    return {
        photo: place / "cloaked" / rows[photo.name].target
        for photo in photos
        if photo.name in rows and rows[photo.name].status == "cloaked"
    }


PRESET = Preset(
    name="sybil",
    title="A fake account against leaked photos",
    source="Fawkes (Shan et al., USENIX Security 2020), section 7: Sybil accounts",
    question="Can photos of somebody else, cloaked to look like the user, draw a tracker off clean ones that leaked?",
    cloaks=lambda study: [study.wanted()],
    embeddings=lambda study: 2 * PHOTOS * min(USERS, len(study.people.users)),
    seconds=lambda study: 12.0 * PHOTOS * min(USERS, len(study.people.users)) + 200.0,
    run=run,
)
