"""Takes a trained extractor into checkpoints/ and its table into checkpoints/manifest.toml, replacing what was there.

    python tools/ship_robust.py HOME NAME ../shared/faces/lfw [--as SHIPPED]      HOME: --out of `cloak train-robust`

Its accuracy on people whom the training never saw (benchmarks/lfw-people.json, as `cloak evaluate-extractor` has it)
and on LFW pairs (tools/lfw_pairs.py), whose people may have been trained on, is measured here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import lfw_pairs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import checkpoint, extractors, sharding
from engine.evaluate.dataset import People
from engine.evaluate.presets.verification import of_photos
from engine.evaluate.recognisers import DetectedOnce, ExtractorRecogniser
from engine.extractors import converted

PEOPLE = Path(__file__).resolve().parent.parent / "benchmarks" / "lfw-people.json"


def metric(name: str, faces: Path) -> dict[str, Any]:
    """The [extractors.NAME.metric] table."""
    recogniser = ExtractorRecogniser(name, DetectedOnce())
    people = People.load(PEOPLE, faces)
    unseen = of_photos(recogniser, (*people.users, *people.others, *people.public))
    assert unseen is not None
    canvases, labels = lfw_pairs.canvases(faces)
    figures = lfw_pairs.accuracy(lfw_pairs.embedded(extractors.load(name), canvases), labels)
    return {
        "lfw_pairs_auc": round(figures["auc"], 4),
        "lfw_pairs_tar": round(figures["tar"], 4),
        "lfw_pairs_command": "pytest tests/test_extractors.py -k lfw_pairs -s",
        "unseen_pairs_auc": round(unseen.auc, 4),
        "unseen_pairs_tar": round(unseen.true_accepts(1e-3), 4),
        "unseen_people": unseen.people,
        "unseen_photos": unseen.photos,
        "unseen_pairs_command": f"cloak evaluate-extractor {name} FACES --out DIR --people benchmarks/lfw-people.json",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("name")
    parser.add_argument("faces", type=Path)
    parser.add_argument("--as", dest="shipped", help="name under which it is shipped; default: its own")
    options = parser.parse_args()
    sharding.configure()
    card = converted.cards(options.home)[options.name]
    name = options.shipped or options.name
    target = checkpoint.root() / name
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(card["path"], target)
    manifest = checkpoint.root() / "manifest.toml"
    remaining, inside = [], False
    for line in manifest.read_text().splitlines():
        if line.startswith("["):
            inside = line.startswith((f"[extractors.{name}]", f"[extractors.{name}."))
        if not inside:
            remaining.append(line)
    top = {key: value for key, value in card.items() if not isinstance(value, dict)} | {"path": name}
    parts = {part: card[part] for part in ("input", "options", "training") if card.get(part)}

    def written(tables: dict[str, dict[str, Any]]) -> None:
        lines = []
        for part, table in tables.items():
            lines += [f"[{part}]", *(f"{key} = {converted.plain(value)}" for key, value in table.items())]
        where = next(number for number, line in enumerate(remaining) if line.startswith("[detectors"))
        manifest.write_text("\n".join([*remaining[:where], *lines, "", *remaining[where:]]) + "\n")

    tables = {"": top, **{f".{part}": table for part, table in parts.items()}}
    tables = {f"extractors.{name}{part}": table for part, table in tables.items()}
    written(tables)
    measured = metric(name, options.faces)
    written({**tables, f"extractors.{name}.metric": measured})
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
