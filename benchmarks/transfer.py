"""How far cloaks made on some networks carry to others: recipe by recipe, judged by networks that took no part.

Every recipe cloaks the scraped photos of the first users of lfw-people.json as `cloak run` would (JPEG as they came),
and every recogniser is trained on the files by two heads. A recogniser one of whose networks, or whose ancestor, took
part is marked "in" and kept out of the mean. Cloaks and embeddings stay in --out, so recipes can be added one by one;
the last line is one JSON object with a row for every recipe that was asked for.

    python benchmarks/transfer.py FACES --out DIR --users 10 web-incept mobilefacenet-192,faceres/jitter=0.2
    python benchmarks/transfer.py FACES --out DIR --recipes FILE.txt --save FILE.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Output, Recipe
from engine.evaluate.evaluation import study_of
from engine.evaluate.presets.common import MAIN_HEADS, each_tracker, where
from engine.evaluate.protocol import measure, name
from engine.evaluate.study import CloakSet, Study

HERE = Path(__file__).resolve().parent
NUMBERS = {"rho": float, "jitter": float, "smoothing": float, "steps": int, "seed": int}


def parsed(text: str) -> Recipe:
    """NETWORKS[/FIELD=VALUE...], what is not named as in the default recipe."""
    networks, *settings = text.split("/")
    changes: dict[str, Any] = {"extractors": tuple(networks.split(","))}
    for setting in settings:
        field, _, value = setting.partition("=")
        changes[field] = NUMBERS.get(field, str)(value)
    return replace(Recipe(), **changes)


def floors(study: Study) -> dict[str, Any]:
    """What every tracker calls the clean tests after it has seen clean photos."""
    trackers = each_tracker(study.recognisers, MAIN_HEADS)
    return {tracker.name: name(tracker, study.people.users, study.people.others) for _, tracker in trackers}


def judged(study: Study, wanted: CloakSet, clean: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each tracker: protection, floor, and `shift`, the mean distance between a file's and its original's
    embedding.
    """
    cloaks = study.cloaks(wanted)
    files = {photo: file for photo, file in cloaks.files.items() if file is not None}
    for recogniser in study.recognisers:
        pairs = zip(recogniser.embed(list(files)), recogniser.embed(list(files.values())), strict=True)
        shifts = [float(np.linalg.norm(a - b)) for a, b in pairs if a is not None and b is not None]
        for columns, tracker in each_tracker([recogniser], MAIN_HEADS):
            found = measure(
                tracker,
                wanted.people,
                study.people.others,
                cloaked=cloaks.files,
                made_with=cloaks.made_with,
                floor=clean[tracker.name],
            )
            yield {**columns, **found.row(), **cloaks.quality(), "shift": float(np.mean(shifts))}


def told(rows: list[dict[str, Any]]) -> str:
    """Protection of each recogniser, linear head / 1-NN in percent, and the mean over those held out."""
    parts = []
    for recogniser in dict.fromkeys(row["recogniser"] for row in rows):
        own = where(rows, recogniser=recogniser)
        mark = "*" if own[0]["part"] == "in" else ""
        rates = "/".join(f"{100 * row['protection']:.0f}" for row in own)
        parts.append(f"{recogniser}{mark} {rates} ({own[0]['shift']:.2f})")
    held = where(rows, part="held-out")
    means = [np.mean([row["protection"] for row in where(held, head=head)]) for head in MAIN_HEADS] if held else []
    return "  ".join(parts) + "  | held out " + "/".join(f"{100 * mean:.1f}" for mean in means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("recipe", nargs="*")
    parser.add_argument("--recipes", type=Path, help="file with a recipe a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0, help="users left out at the beginning")
    parser.add_argument("--recognisers", help="with commas; default: all of the registry and dlib")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_intermixed_args()
    texts = list(arguments.recipe)
    if arguments.recipes:
        lines = (line.partition("#")[0].strip() for line in arguments.recipes.read_text().splitlines())
        texts += [line for line in lines if line]
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
    first, last = arguments.skip, arguments.skip + arguments.users
    study = replace(study, people=replace(study.people, users=study.people.users[first:last]))
    clean = floors(study)
    results = {}
    for text in texts:
        begun = time.perf_counter()
        results[text] = list(judged(study, CloakSet(parsed(text), study.people.users, study.output), clean))
        row = results[text][0]
        print(f"{text}: DSSIM {row['dssim_mean']:.4f}, most {row['dssim_max']:.4f}; {told(results[text])}", flush=True)
        print(f"    {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    document = json.dumps({"users": arguments.users, "skip": arguments.skip, "recipes": results})
    if arguments.save:
        arguments.save.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()
