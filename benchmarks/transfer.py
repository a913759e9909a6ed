"""How far cloaks carry to networks that took no part: recipe by recipe, recogniser by recogniser.

Every recipe cloaks the scraped photos of some users of lfw-people.json as `cloak run` would (JPEG as they came). Every
recogniser then looks at the files. A recipe is NETWORKS[/FIELD=VALUE...]; what is not named is as in the default.

Measured for each recogniser, on the files:
- shift: mean distance between the embeddings of a cloaked photo and of its original. This has a slope where protection
  is 0 or 100 %, so it is what a recipe is tuned on.
- A: mean cosine between the shifts of two photos of one person. B: the same between photos of two people. A linear
  head and a mean are misled only if A is high; cloaks that share one direction (B) can be recognised.
- protection by linear head, 1-NN and nearest centroid, in galleries of so many other people, with its floor and its
  95 % interval; and the share of test photos whose person is not among the gallery's 10 and 50 best guesses.

A recogniser of which a network, a relation or an ancestor took part is marked "in" and kept out of the means. With
--leave-one-out each recogniser is judged by the recipe without those networks, so that all of them are held out.

    python benchmarks/transfer.py FACES --out DIR --users 10 web-incept mobilefacenet-192,faceres/jitter=0.2
    python benchmarks/transfer.py FACES --out DIR --leave-one-out --galleries 100,1000,all --save FILE.json a:2,b/turn=2

Cloaks and embeddings stay in --out, so recipes can be added one by one; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Output, Recipe
from engine.evaluate import galleries
from engine.evaluate.evaluation import study_of
from engine.evaluate.protocol import part, part_of, rate
from engine.evaluate.recognisers import Recogniser
from engine.evaluate.study import Cloaks, CloakSet, Study
from engine.evaluate.trackers import HEADS

HERE = Path(__file__).resolve().parent
NUMBERS = {
    "rho": float,
    "jitter": float,
    "spectrum": float,
    "smoothing": float,
    "coarse": float,
    "cap": float,
    "lead": float,
    "steps": int,
    "seed": int,
    "turn": int,
}
GUESSES = (10, 50)
Rows = galleries.Rows


def parsed(text: str) -> Recipe:
    """NETWORKS[/FIELD=VALUE...], what is not named as in the default recipe. No NETWORKS: the default's, as /turn=1."""
    networks, *settings = text.split("/")
    changes: dict[str, Any] = {"extractors": tuple(networks.split(","))} if networks else {}
    for setting in settings:
        field, _, value = setting.partition("=")
        changes[field] = NUMBERS.get(field, str)(value)
    return replace(Recipe(), **changes)


def without(recipe: Recipe, recogniser: Recogniser) -> Recipe | None:
    """The recipe without the networks that are the recogniser's or related to it; None if nothing is left."""
    members = tuple(
        text
        for text, name in zip(recipe.extractors, recipe.names, strict=True)
        if part_of(recogniser.extractors, [name]) == "held-out"
    )
    if not members:
        return None
    turn = None if recipe.turn is None else min(recipe.turn, len(members))
    return replace(recipe, extractors=members, turn=turn)


class Seen:
    """What one recogniser sees of the people: embeddings of length one, of the photos in which it finds a face."""

    def __init__(self, study: Study, further: dict[str, list[Path]], recogniser: Recogniser) -> None:
        """further: people beyond the study's, for the large galleries."""
        self.study, self.further, self.recogniser = study, further, recogniser

    @cached_property
    def tests(self) -> list[Rows]:
        """Of each user, those of the clean test photos."""
        return galleries.people(self.recogniser, [user.tests for user in self.study.people.users])

    @cached_property
    def gallery(self) -> list[Rows]:
        """Of each other person, the nearest first: those of lfw-people.json, then the further ones."""
        people = [person.scraped for person in self.study.people.others] + list(self.further.values())
        each = galleries.people(self.recogniser, people)
        return [rows for rows in each if len(rows)]

    def scraped(self, cloaks: Cloaks | None) -> list[list[tuple[Rows, Rows]]]:
        """Of each user, pairs (clean, published) of the scraped photos; published is clean without cloaks."""
        pairs = []
        for user in self.study.people.users:
            files = [photo if cloaks is None else cloaks.files[photo] for photo in user.scraped]
            clean = galleries.embedded(self.recogniser, user.scraped)
            shown = iter(galleries.embedded(self.recogniser, [file for file in files if file is not None]))
            published = [None if file is None else next(shown) for file in files]
            pairs.append([(a, b) for a, b in zip(clean, published, strict=True) if a is not None and b is not None])
        return pairs


def agreement(shifts: Sequence[Rows]) -> tuple[float, float]:
    """A and B of the module's docstring. shifts: of each user (n, d)."""
    unit = [moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9) for moved in shifts]
    same = [float((moved @ moved.T)[np.triu_indices(len(moved), 1)].mean()) for moved in unit if len(moved) > 1]
    means = np.stack([moved.mean(axis=0) for moved in unit if len(moved)])
    across = (means @ means.T)[np.triu_indices(len(means), 1)]
    return float(np.mean(same)), float(across.mean())


def judged(seen: Seen, cloaks: Cloaks | None, sizes: Sequence[int | None]) -> dict[str, Any]:
    """A row of the recogniser for the cloaks, or for none (the floor). sizes: of galleries, None for everybody."""
    pairs = seen.scraped(cloaks)
    users = len(pairs)
    row: dict[str, Any] = {}
    if cloaks is not None:
        shifts = [np.stack([b - a for a, b in user_pairs]) for user_pairs in pairs if user_pairs]
        a, b = agreement(shifts)
        row |= {"shift": float(np.linalg.norm(np.concatenate(shifts), axis=1).mean()), "A": a, "B": b}
    users_rows = [galleries.stacked([b for _, b in user_pairs]) for user_pairs in pairs]
    truth = np.concatenate([np.full(len(rows), user) for user, rows in enumerate(seen.tests)])
    tests = np.concatenate(seen.tests)
    row["galleries"] = []
    for size in sizes:
        strangers = seen.gallery[:size]
        learnt = np.concatenate([*users_rows, *strangers])
        labels = np.concatenate([np.full(len(rows), label) for label, rows in enumerate([*users_rows, *strangers])])
        entry: dict[str, Any] = {"people": users + len(strangers)}
        for head, learn in HEADS.items():
            missed = learn(learnt, labels)(tests) != truth
            entry[head] = [missed[truth == user].astype(float) for user in range(users)]
        for kind, distances in galleries.SEARCHES.items():
            ahead = galleries.nearer(distances(tests, [*users_rows, *strangers]), truth)
            for guesses in GUESSES:
                missed = ahead >= guesses
                entry[f"{kind}, out of {guesses}"] = [missed[truth == user].astype(float) for user in range(users)]
        row["galleries"].append(entry)
    return row


def with_floor(row: dict[str, Any], floor: dict[str, Any]) -> dict[str, Any]:
    """The row with a rate, an interval and the floor's rate in place of what was missed."""

    def entry(figures: dict[str, Any], clean: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = {"people": figures["people"]}
        for key, missed in figures.items():
            if key != "people":
                share, base = rate(missed), rate(clean[key])
                result[key] = {"rate": share.value, "low": share.low, "high": share.high, "floor": base.value}
        return result

    pairs = zip(row["galleries"], floor["galleries"], strict=True)
    return {**row, "galleries": [entry(figures, clean) for figures, clean in pairs]}


def told(rows: Sequence[dict[str, Any]]) -> str:
    """Of each recogniser shift, A, B and protection in the first gallery; then the means over those held out."""
    lines = []
    for row in rows:
        rates = " / ".join(f"{100 * row['galleries'][0][head]['rate']:.0f}" for head in HEADS)
        mark = "*" if row["part"] == "in" else " "
        far = "; ".join(
            f"of {gallery['people']} people {100 * gallery['linear head']['rate']:.0f} / "
            f"{100 * gallery['1-NN']['rate']:.0f} / {100 * gallery['nearest centroid']['rate']:.0f}, "
            f"out of 50 {100 * gallery['1-NN, out of 50']['rate']:.0f} / "
            f"{100 * gallery['nearest centroid, out of 50']['rate']:.0f}"
            for gallery in row["galleries"][1:]
        )
        numbers = f"shift {row['shift']:.3f}  A {row['A']:.2f}  B {row['B']:.2f}"
        lines.append(f"  {row['recogniser']:<20}{mark} {numbers}  {rates}  {far}".rstrip())
    held = [row for row in rows if row["part"] == "held-out"]
    if held:
        shift = np.mean([row["shift"] for row in held])
        means = [np.mean([row["galleries"][0][head]["rate"] for row in held]) for head in HEADS]
        lines.append(f"  held out, mean: shift {shift:.3f}, " + " / ".join(f"{100 * value:.1f}" for value in means))
    return "\n".join(lines)


def command(arguments: argparse.Namespace, recipes: Sequence[str]) -> str:
    """The call, without the paths of this machine."""
    words = ["python benchmarks/transfer.py FACES --out DIR", f"--users {arguments.users}"]
    words += [f"--skip {arguments.skip}"] if arguments.skip else []
    words += [f"--photos {arguments.photos}"] if arguments.photos else []
    words += ["--leave-one-out"] if arguments.leave_one_out else []
    words += [f"--galleries {arguments.galleries}"] if arguments.galleries != "100" else []
    if arguments.recognisers:
        names = [name.partition("=") for name in arguments.recognisers.split(",")]
        words.append("--recognisers " + ",".join(f"{name}=FOLDER" if place else name for name, _, place in names))
    return " ".join([*words, *recipes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("recipe", nargs="*")
    parser.add_argument("--recipes", type=Path, help="file with a recipe a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0, help="users left out at the beginning")
    parser.add_argument("--photos", type=int, help="scraped photos of each user; default: all")
    parser.add_argument("--recognisers", help="with commas; default: all of the registry and dlib")
    parser.add_argument("--galleries", default="100", help="sizes with commas, `all` for all of FACES [default: 100]")
    parser.add_argument("--leave-one-out", action="store_true")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_intermixed_args()
    texts = list(arguments.recipe)
    if arguments.recipes:
        lines = (line.partition("#")[0].strip() for line in arguments.recipes.read_text().splitlines())
        texts += [line for line in lines if line]
    sizes = [None if size == "all" else int(size) for size in arguments.galleries.split(",")]
    study = study_of(
        arguments.faces,
        arguments.out,
        recipe=Recipe(),
        output=Output(),
        people=HERE / "lfw-people.json",
        counts={},
        recognisers=arguments.recognisers.split(",") if arguments.recognisers else None,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    study.out.mkdir(mode=0o700, parents=True, exist_ok=True)  # faces and embeddings of people lie there
    first, last = arguments.skip, arguments.skip + arguments.users
    known = {person.name for person in (*study.people.users, *study.people.others)}
    users = [replace(user, scraped=user.scraped[: arguments.photos]) for user in study.people.users[first:last]]
    study = replace(study, people=replace(study.people, users=tuple(users)))
    further = {}
    if None in sizes or max(size or 0 for size in sizes) > len(study.people.others):
        further = galleries.further(arguments.faces, known)
    seen = {recogniser.name: Seen(study, further, recogniser) for recogniser in study.recognisers}
    clean = {name: judged(view, None, sizes) for name, view in seen.items()}
    results: dict[str, list[dict[str, Any]]] = {}
    for text in texts:
        begun = time.perf_counter()
        recipe = parsed(text)
        results[text] = []
        for recogniser in study.recognisers:
            used = without(recipe, recogniser) if arguments.leave_one_out else recipe
            if used is None:
                continue
            cloaks = study.cloaks(CloakSet(used, study.people.users, study.output))
            row = with_floor(judged(seen[recogniser.name], cloaks, sizes), clean[recogniser.name])
            about = {"recogniser": recogniser.name, "part": part(recogniser, used.names), "made_on": used.extractors}
            results[text].append({**about, **cloaks.quality(), **row})
        worst = max(row["dssim_max"] for row in results[text])
        mean = np.mean([row["dssim_mean"] for row in results[text]])
        print(f"{text}: DSSIM {mean:.4f}, most {worst:.4f}\n{told(results[text])}", flush=True)
        print(f"    {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    document = {
        "command": command(arguments, texts),
        "users": len(users),
        "skip": arguments.skip,
        "photos": sum(len(user.scraped) for user in users),
        "leave_one_out": arguments.leave_one_out,
        "recipes": results,
    }
    if arguments.save:
        arguments.save.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
