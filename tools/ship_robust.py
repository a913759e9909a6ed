"""Takes a trained extractor into checkpoints/ and its table into checkpoints/manifest.toml, replacing what was there.

    python tools/ship_robust.py HOME NAME ../shared/faces/lfw RESULTS      HOME: --out of `cloak train-robust`

RESULTS is results.json of `cloak evaluate-extractor NAME`, on people whom the training never saw. Of them come the
accuracy on unseen people; that on LFW pairs (tools/lfw_pairs.py), whose people may have been trained on, is measured
here.
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
from engine.extractors import converted


def metric(name: str, faces: Path, results: Path) -> dict[str, Any]:
    """The [extractors.NAME.metric] table."""
    judged = json.loads(results.read_text())
    rows = {row["recogniser"]: row for row in judged["presets"]["verification"]["rows"]}
    if name not in rows:
        raise ValueError(f"{results} is not of {name}: it has {', '.join(rows)}")
    canvases, labels = lfw_pairs.canvases(faces)
    found = lfw_pairs.accuracy(lfw_pairs.embedded(extractors.load(name), canvases), labels)
    return {
        "lfw_pairs_auc": round(found["auc"], 4),
        "lfw_pairs_tar": round(found["tar"], 4),
        "lfw_pairs_command": "pytest tests/test_extractors.py -k lfw_pairs -s",
        "unseen_pairs_auc": round(rows[name]["auc"], 4),
        "unseen_pairs_tar": round(rows[name]["tar_far_0.001"], 4),
        "unseen_people": rows[name]["people"],
        "unseen_photos": rows[name]["photos"],
        "unseen_pairs_command": f"cloak evaluate-extractor {name} FACES --out DIR --people benchmarks/lfw-people.json",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("name")
    parser.add_argument("faces", type=Path)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    sharding.configure()
    card = converted.cards(options.home)[options.name]
    target = checkpoint.root() / options.name
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(card["path"], target)
    manifest = checkpoint.root() / "manifest.toml"
    kept, inside = [], False
    for line in manifest.read_text().splitlines():
        if line.startswith("["):
            inside = line.startswith((f"[extractors.{options.name}]", f"[extractors.{options.name}."))
        if not inside:
            kept.append(line)
    top = {key: value for key, value in card.items() if not isinstance(value, dict)} | {"path": options.name}
    parts = {part: card[part] for part in ("input", "options", "training") if card.get(part)}

    def written(tables: dict[str, dict[str, Any]]) -> None:
        lines = []
        for part, table in tables.items():
            lines += [f"[{part}]", *(f"{key} = {converted.plain(one)}" for key, one in table.items())]
        where = next(number for number, line in enumerate(kept) if line.startswith("[detectors"))
        manifest.write_text("\n".join([*kept[:where], *lines, "", *kept[where:]]) + "\n")

    tables = {"": top, **{f".{part}": table for part, table in parts.items()}}
    tables = {f"extractors.{options.name}{part}": table for part, table in tables.items()}
    written(tables)
    found = metric(options.name, options.faces, options.results)
    written({**tables, f"extractors.{options.name}.metric": found})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
