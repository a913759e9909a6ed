"""Preset "gallery": is a user's clean photo found among hundreds, thousands, a million other people?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from engine.evaluate import extremes, figures, galleries
from engine.evaluate.presets import Findings, Preset, Value
from engine.evaluate.presets.common import mean, setting, where
from engine.evaluate.protocol import Rate, part, rate
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Cloaks, Study
from engine.evaluate.tables import percent

SIZES = (100, 1_000, 5_000)
"""Other people in the gallery; the last as many as there are."""
FAR = 1_000_000
GUESSES = (1, 10, 50)
DRAWS = 200
"""Draws of the bootstrap of an extrapolation."""
GREY = "#767676"


@dataclass(frozen=True)
class Search:
    """Ranking by one tracker: m tests against the users' and n strangers' photos. Similarities; larger is more similar.

    user: whom each test shows, 0 to the number of users - 1. users: to each user. strangers: to each stranger.
    """

    user: Int[np.ndarray, "m"]
    users: Float[np.ndarray, "m u"]
    strangers: Float[np.ndarray, "m n"]

    @cached_property
    def own(self) -> Float[np.ndarray, "m"]:
        """Similarity to the user whom the test shows."""
        return self.users[np.arange(len(self.user)), self.user]

    def ahead(self, size: int) -> Int[np.ndarray, "m"]:
        """How many people of a gallery of the users and the first `size` strangers come before the user."""
        return galleries.nearer(-np.concatenate([self.users, self.strangers[:, :size]], axis=1), self.user)

    def by_user(self, values: np.ndarray) -> list[np.ndarray]:
        """Values of the tests, as an array for each user."""
        return [values[self.user == user] for user in range(self.users.shape[1])]


def measured(search: Search, size: int) -> dict[int, Rate]:
    """Share of tests whose user is among the guesses, by their number, mean over users, in a gallery at hand."""
    ahead = search.ahead(size)
    return {guesses: rate(search.by_user((ahead < guesses).astype(float))) for guesses in GUESSES}


def foretold(search: Search, known: int, size: int, *, seed: int, check: bool = False) -> dict[int, Rate]:
    """The shares of `measured` for a gallery of `size` strangers, of whom only the first `known` are looked at.

    The interval is of bootstrap draws of the known strangers, and of the users. check: for the same users and one
    gallery that can be measured. Then draws of users give way to draws of whether each test is found.
    """
    seen, ahead = search.strangers[:, :known], search.ahead(known)
    random = np.random.default_rng(seed)

    def test_chances(strangers: Float[np.ndarray, "m n"]) -> dict[int, np.ndarray]:
        chances = extremes.chances(strangers, search.own, extremes.fitted(strangers))
        return {k: extremes.among_guesses(chances, ahead, more=size - known, guesses=k) for k in GUESSES}

    value = {k: np.mean([tests.mean() for tests in search.by_user(chance)]) for k, chance in test_chances(seen).items()}
    drawn: dict[int, list[float]] = {k: [] for k in GUESSES}
    people = search.users.shape[1]
    for _ in range(DRAWS):
        users = np.arange(people) if check else random.integers(people, size=people)
        luck = random.random(len(search.user))
        for k, chance in test_chances(seen[:, random.integers(known, size=known)]).items():
            shares = np.array([tests.mean() for tests in search.by_user((luck < chance) if check else chance)])
            drawn[k].append(float(shares[users].mean()))
    return {k: Rate(float(value[k]), *map(float, np.quantile(drawn[k], (0.025, 0.975)))) for k in GUESSES}


def strangers(study: Study) -> list[tuple[Path, ...]]:
    """The photos of everybody but the users, in random order, at most galleries.PHOTOS of a person.

    The study's other people and public, and whoever else is in the folder that they were chosen from.
    """
    listed = {person.name: person.scraped for person in (*study.people.others, *study.people.public)}
    known = {*listed, *(person.name for person in study.people.users)}
    more = galleries.further(study.faces, known) if study.faces is not None else {}
    everybody = {name: tuple(paths[: galleries.PHOTOS]) for name, paths in {**listed, **more}.items()}
    names = sorted(everybody)
    order = np.random.default_rng(study.seed).permutation(len(names))
    return [everybody[names[index]] for index in order][: SIZES[-1]]


def searches(
    study: Study, recogniser: Recogniser, cloaks: Cloaks, crowd: Sequence[Sequence[Path]]
) -> dict[str, tuple[Search, Search]]:
    """Searches (with cloaks, without) by name. Users of whom no photo, or no test, shows a face are left out."""
    published = [[photo for photo in person.scraped if cloaks.files[photo]] for person in study.people.users]
    files = [[file for photo in person.scraped if (file := cloaks.files[photo])] for person in study.people.users]
    cloaked, clean = galleries.people(recogniser, files), galleries.people(recogniser, published)
    tests = galleries.people(recogniser, [person.tests for person in study.people.users])
    crowd_rows = [rows for rows in galleries.people(recogniser, crowd) if len(rows)]
    there = [user for user, rows in enumerate(zip(cloaked, clean, tests, strict=True)) if all(map(len, rows))]
    if not there or not crowd_rows:
        return {}
    user = np.concatenate([np.full(len(tests[index]), place) for place, index in enumerate(there)])
    asked = np.concatenate([tests[index] for index in there])
    made = {}
    for name, distances in galleries.SEARCHES.items():
        far = -distances(asked, crowd_rows)
        with_cloaks, without = (
            Search(user, -distances(asked, [rows[index] for index in there]), far) for rows in (cloaked, clean)
        )
        made[name] = with_cloaks, without
    return made


def row_of(people: int, figure: str, pair: Sequence[Mapping[int, Rate]]) -> dict[str, Value]:
    """A row's own columns. pair: the rates with cloaks and without."""
    row: dict[str, Value] = {"people": people, "figure": figure}
    for ending, rates in zip(("", "_uncloaked"), pair, strict=True):
        for guesses, share in rates.items():
            key = f"top_{guesses}{ending}"
            row |= {key: share.value, f"{key}_low": share.low, f"{key}_high": share.high}
    return row


def run(study: Study) -> Findings:
    """Rows of every tracker: one for each size of gallery, one that foretells the largest, and one for FAR people."""
    cloaks = study.cloaks(study.wanted())
    crowd = strangers(study)
    rows: list[dict[str, Value]] = []
    for recogniser in study.recognisers:
        pairs = searches(study, recogniser, cloaks, crowd)
        for head, pair in pairs.items():
            about: dict[str, Value] = {"recogniser": recogniser.name, "head": head}
            counts = {"users": pair[0].users.shape[1], "tests": len(pair[0].user), **cloaks.quality()}
            about |= {"part": part(recogniser, cloaks.made_with)}
            rows += [{**about, **row, **counts} for row in _of_tracker(pair, study.seed)]
        if not pairs:
            study.say(f"{recogniser.name} finds no face on the users' photos or on anybody else's: left out")
        else:
            study.say(f"{recogniser.name}: searched among {len(crowd)} other people")
    deviations = [
        *setting(study, cloaks),
        f"The other people have {galleries.PHOTOS} photos each at most, in random order; the users are in the gallery "
        "too, with all the photos that they published.",
        "What is extrapolated holds for people like these and photos like these; a search engine's million has more "
        "relatives and doubles, and more photos of a person.",
    ]
    return Findings(rows, _figure(rows) if rows else None, [*_sentences(rows), *_lacking(len(crowd))], deviations)


def _of_tracker(pair: Sequence[Search], seed: int) -> list[dict[str, Value]]:
    there = pair[0].strangers.shape[1]
    sizes = [size for size in SIZES if size < there] + [there]
    rows = [row_of(size, "measured", [measured(search, size) for search in pair]) for size in sizes]
    fits = [size for size in sizes if size >= extremes.fewest()]
    if len(fits) > 1:
        known = fits[-2]
        ahead = [foretold(search, known, there, seed=seed, check=True) for search in pair]
        rows.append(row_of(there, f"foretold from {known:,}", ahead))
    if fits:
        rows.append(row_of(FAR, "extrapolated", [foretold(search, there, FAR, seed=seed) for search in pair]))
    return rows


def _sentences(rows: Sequence[dict[str, Value]]) -> list[str]:
    said = []
    for kind, who in (("in", "that took part in making the cloaks"), ("held-out", "that took no part")):
        part_rows = where(rows, part=kind)
        for figure, word in (("measured", "of"), ("extrapolated", "of an extrapolated")):
            largest = max((int(row["people"]) for row in where(part_rows, figure=figure)), default=0)
            shown = [row for row in where(part_rows, figure=figure) if _largest(row, part_rows)]
            if shown:
                shares = ", ".join(
                    f"{_among(k)} in {percent(mean(shown, f'top_{k}'))} (no cloak: "
                    f"{percent(mean(shown, f'top_{k}_uncloaked'))})"
                    for k in GUESSES
                )
                said.append(
                    f"In a gallery {word} {largest:,} other people, recognisers {who} have the user of a clean photo "
                    f"{shares}; means over trackers, 1-NN and nearest centroid."
                )
    check = [row for row in rows if str(row["figure"]).startswith("foretold")]
    if check:
        said.append(_checked(check, rows))
    return said


def _among(guesses: int) -> str:
    return "as the best guess" if guesses == 1 else f"among the best {guesses}"


def _largest(row: Mapping[str, Value], rows: Sequence[dict[str, Value]]) -> bool:
    same = where(rows, recogniser=row["recogniser"], head=row["head"], figure=row["figure"])
    return row["people"] == max(int(peer["people"]) for peer in same)


def _checked(check: Sequence[dict[str, Value]], rows: Sequence[dict[str, Value]]) -> str:
    inside, errors = [], []
    for row in check:
        names = {key: row[key] for key in ("recogniser", "head", "people")}
        (truth,) = where(rows, figure="measured", **names)
        for key in (f"top_{k}{end}" for k in GUESSES for end in ("", "_uncloaked")):
            inside.append(float(row[f"{key}_low"]) <= float(truth[key]) + 1e-9 <= float(row[f"{key}_high"]) + 2e-9)
            errors.append(float(row[key]) - float(truth[key]))
    return (
        f"Check of the extrapolation: {str(check[0]['figure']).removeprefix('foretold ')} people it foretells the "
        f"largest measured gallery with a mean error of {100 * np.mean(errors):+.1f} points "
        f"({100 * np.mean(np.abs(errors)):.1f} either way); {sum(inside)} of {len(inside)} measured shares lie within "
        "its 95 % intervals."
    )


def _lacking(there: int) -> list[str]:
    said = []
    if there < SIZES[-1]:
        said.append(
            f"The folder of people has {there:,} besides the users: a gallery of {SIZES[-1]:,} could not be measured."
        )
    if there < extremes.fewest():
        said.append(f"An extrapolation needs {extremes.fewest()} people at least, so there is none.")
    return said


def _figure(rows: Sequence[dict[str, Value]]) -> Figure:
    """1-NN alone: a panel for each number of guesses, a line for each recogniser, dotted where it is extrapolated."""
    shown = where(rows, head="1-NN")
    names = list(dict.fromkeys(str(row["recogniser"]) for row in shown))
    figure = figures.new(height=4.2)
    handles = []
    for axes, guesses in zip(figure.subplots(1, len(GUESSES), sharey=True), GUESSES, strict=True):
        key = f"top_{guesses}"
        clean = [row for row in shown if not str(row["figure"]).startswith("foretold")]
        for index, name in enumerate(names):
            hue, marker = figures.COLOURS[index % len(figures.COLOURS)], figures.MARKERS[index % len(figures.MARKERS)]
            line = where(clean, recogniser=name)
            face = hue if line[0]["part"] == "in" else "white"
            known, far = where(line, figure="measured"), where(line, figure="extrapolated")
            axes.plot(*_line(known, key), color=hue, marker=marker, mfc=face)
            axes.plot(*_line(known[-1:] + far, key), color=hue, marker=marker, mfc=face, ls=":")
            for row in far:
                ends = [float(row[f"{key}_low"]), float(row[f"{key}_high"])]
                axes.plot([int(row["people"])] * 2, ends, color=hue, lw=1)
            axes.plot(*_line(known + far, f"{key}_uncloaked"), color=GREY, lw=0.8, alpha=0.6)
            if guesses == GUESSES[0]:
                label = f"{name}{'' if face == hue else ' (held out)'}"
                handles.append(Line2D([], [], color=hue, marker=marker, mfc=face, label=label))
        axes.set_xscale("log")
        axes.set_title(_among(guesses))
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    handles.append(Line2D([], [], color=GREY, label="no cloak"))
    figure.axes[0].set_ylabel("clean photos found")
    figure.supxlabel("other people in the gallery (dotted: extrapolated)", fontsize="medium")
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize="small", frameon=False)
    return figure


def _line(rows: Sequence[Mapping[str, Value]], key: str) -> tuple[list[int], list[float]]:
    return [int(row["people"]) for row in rows], [float(row[key]) for row in rows]


def _embeddings(study: Study) -> int:
    people = study.people
    clean = {photo for person in (*people.users, *people.others) for photo in (*person.scraped, *person.tests)}
    return len({photo for paths in strangers(study) for photo in paths} - clean)


PRESET = Preset(
    name="gallery",
    title="A search among many people",
    source="identification against gallery size, as in MegaFace (Kemelmacher-Shlizerman et al., CVPR 2016)",
    question="Is a cloaked user still found by a clean photo among hundreds, thousands, a million other people?",
    cloaks=lambda study: [study.wanted()],
    embeddings=_embeddings,
    seconds=lambda study: 40.0 * len(study.recognisers),
    run=run,
)
