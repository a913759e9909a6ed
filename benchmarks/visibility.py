"""What the eye sees of a cloak, by three metrics made for eyes, beside DSSIM.

FACES/NAME/ has photos. For small, middle and large faces (about 100, 300 and 1,000 pixels) some photos with one face
are taken, those nearest to that size. They are cloaked as `cloak run` would. The saved files are measured at native
size, in the region around the face that DSSIM is of:

- FLIP (Andersson et al. 2020; package flip-evaluator, by its authors): what is seen when the two pictures alternate in
  place. 0 is nothing, 1 the most. Its mean, and what 1 % of the pixels pass, since patches are small.
- SSIMULACRA2 (Sneyers 2022; package ssimulacra2, a port to Python by others): 100 is no change. 90 cannot be told in
  place, 80 not side by side, and at 70 an average observer barely notices. It halves a picture five times, so it is
  left out for regions under 256 pixels.
- Butteraugli (Alakuijala et al. 2017; `butteraugli_main` of libjxl, if --butteraugli names it): 0 is no change, and
  about 1 is just seen. The largest value of the region, and the 3-norm.

Beside them stands `shift`, how far the embedding of mobileface moved. It took part in none of these cloaks, so kinds of
cloaks can be compared at an equal shift. The default is shown at several budgets for that. fawkes1 is our port of the
solver of Fawkes 1.0.4 at its mode mid (web-incept, DSSIM .012, in colour). JPEG 75 is the same photo saved at quality
75 and moved by half a block, a yardstick that everybody knows. --files adds cloaks of any other kind: of the photos in
DIR/photos, in folders and under names like theirs (`cloak run DIR/photos --out FOLDER`).

    pip install --group visibility
    python benchmarks/visibility.py FACES --out DIR [--files NAME=FOLDER] [--butteraugli PROGRAM] [--save FILE.json]

Photos and cloaks stay in --out. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.bulk.prepare import prepare
from engine.config import Recipe
from engine.dataset import photos_of
from engine.dssim import dssim_pixels
from engine.evaluate.dataset import People, Person
from engine.evaluate.presets.common import central_face
from engine.evaluate.recognisers import DetectedOnce
from engine.evaluate.study import CloakSet, Study, linked
from engine.extractors import embed_all, load
from engine.faces import cut
from engine.photo import read
from engine.types import PhotoError

SIZES = {"small": 100, "middle": 300, "large": 1000}
FARTHEST = 2.0
"""Most that a face may differ from its size, as a ratio."""
EACH = 2
"""Most photos of one person for a size."""
SMALLEST = 256
"""Side of a region that SSIMULACRA2's five halvings need."""
QUALITY = 75
GRID = 4
CLOAKS: Mapping[str, Recipe] = {
    "default, mid": Recipe.of("mid"),
    **{f"default, rho {rho:g}": Recipe(rho=rho) for rho in (0.005, 0.003)},
    "default, mid, no coarse part": Recipe.of("mid", coarse=0.0),
    "fawkes1 (our port), its mid": Recipe.of("mid", solver="fawkes1", extractors=("web-incept",), rho=0.012),
}
JUDGE = "mobileface"
COLUMNS = {
    "shift": "shift",
    "dssim": "DSSIM",
    "rms": "RMS, of 255",
    "largest": "largest, of 255",
    "flip": "FLIP",
    "flip_99": "FLIP, 1 % pass",
    "ssimulacra2": "SSIMULACRA2",
    "butteraugli": "Butteraugli",
    "butteraugli_3": "its 3-norm",
}
DIGITS = {"shift": 2, "dssim": 4, "flip": 3, "flip_99": 3, "butteraugli": 2, "butteraugli_3": 2}
Pixels = np.ndarray


def picked(faces: Path, folder: Path, each: int) -> dict[str, tuple[Path, ...]]:
    """Links in `folder`/SIZE/ to `each` photos of every size; those that are there are taken as they are."""
    if not folder.is_dir():
        candidates: list[tuple[int, str, Path]] = []
        detector = DetectedOnce()
        for name, photos in photos_of(faces).items():
            for photo in photos:
                try:
                    seen = prepare(photo.read_bytes(), detector).faces
                except PhotoError:
                    continue
                if len(seen) == 1:
                    candidates.append((round(max(seen[0].box[2:])), name, photo))
        for size, pixels in SIZES.items():
            (folder / size).mkdir(parents=True)
            near = sorted(candidates, key=lambda candidate: abs(np.log(candidate[0] / pixels)))
            taken: list[str] = []
            for face, name, photo in near:
                if len(taken) < each and taken.count(name) < EACH and 1 / FARTHEST < face / pixels < FARTHEST:
                    taken.append(name)
                    linked(folder / size / f"{name}-{photo.name}", photo)
    return {size: tuple(sorted((folder / size).iterdir())) for size in SIZES}


def jpeg(pixels: Pixels) -> Pixels:
    """As Pillow saves it, chroma halved, moved by half a block: a photo of that quality would come out unchanged."""
    data = io.BytesIO()
    moved = np.pad(pixels, ((GRID, 0), (GRID, 0), (0, 0)), mode="edge")
    Image.fromarray(moved).save(data, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(data))[GRID:, GRID:]


def png(pixels: Pixels) -> io.BytesIO:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    data.seek(0)
    return data


def seen(before: Pixels, after: Pixels, butteraugli: str | None) -> dict[str, float | None]:
    """The keys of COLUMNS but for `shift`, for one region, uint8; None for what could not be measured."""
    import flip_evaluator  # of the group "visibility", which --help does not need
    from ssimulacra2 import compute_ssimulacra2

    change = after.astype(np.float64) - before
    error, mean, _ = flip_evaluator.evaluate(
        (before / 255).astype(np.float32), (after / 255).astype(np.float32), "LDR", applyMagma=False
    )
    row: dict[str, float | None] = {
        "dssim": dssim_pixels(before, after),
        "rms": float(np.sqrt((change**2).mean())),
        "largest": float(np.abs(change).max()),
        "flip": float(mean),
        "flip_99": float(np.quantile(error, 0.99)),
        "ssimulacra2": None,
        "butteraugli": None,
        "butteraugli_3": None,
    }
    if min(before.shape[:2]) >= SMALLEST:
        row["ssimulacra2"] = float(compute_ssimulacra2(png(before), png(after)))
    if butteraugli:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("before.png", "after.png")]
            for file, pixels in zip(files, (before, after), strict=True):
                file.write_bytes(png(pixels).getvalue())
            said = subprocess.run([butteraugli, *files], capture_output=True, text=True, check=True).stdout.split()
        row |= {"butteraugli": float(said[0]), "butteraugli_3": float(said[-1])}
    return row


def rows_of(
    photos: Mapping[str, Sequence[Path]],
    kinds: Mapping[str, Callable[[Path, Pixels], Pixels | None]],
    program: str | None,
) -> list[dict[str, object]]:
    """A row for every photo and kind of change. kinds: from a photo and its pixels to the changed pixels, or None."""
    detector, judge, rows = DetectedOnce(), load(JUDGE), []
    for size, paths in photos.items():
        for photo in paths:
            prepared = prepare(photo, detector)
            index = central_face(prepared)
            top, left, bottom, right = prepared.regions[index]
            region = np.s_[top:bottom, left:right]
            before = prepared.photo.pixels
            for kind, change in kinds.items():
                after = change(photo, before)
                if after is None or after.shape != before.shape:
                    print(f"{kind} has no file for {photo.name} of its size: left out", file=sys.stderr)
                    continue
                about = {
                    "size": size,
                    "photo": photo.stem,
                    "face": round(max(prepared.faces[index].box[2:])),
                    "kind": kind,
                }
                pair = np.stack([cut(pixels, prepared.faces[index]).canvas for pixels in (before, after)])
                shift = float(np.linalg.norm(np.subtract(*embed_all(judge, pair))))
                rows.append({**about, "shift": shift, **seen(before[region], after[region], program)})
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over the photos of a size, in Markdown."""
    lines = ["| face | cloaked by | " + " | ".join(COLUMNS.values()) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for size in SIZES:
        for kind in dict.fromkeys(str(row["kind"]) for row in rows):
            shown = [row for row in rows if (row["size"], row["kind"]) == (size, kind)]
            if not shown:
                continue
            cells = []
            for key in COLUMNS:
                values = [row[key] for row in shown if row[key] is not None]
                digits = DIGITS.get(key, 1)
                cells.append(f"{np.mean(values):.{digits}f}" if len(values) == len(shown) else "-")
            faces = [int(row["face"]) for row in shown]
            lines.append(f"| {size}, {min(faces)} to {max(faces)} px | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def file_in(folder: Path) -> Callable[[Path, Pixels], Pixels | None]:
    """The changed pixels of a photo from FOLDER/SIZE/, under its name with any suffix."""

    def change(photo: Path, before: Pixels) -> Pixels | None:
        files = [file for file in (folder / photo.parent.name).glob(f"{photo.stem}.*") if file.is_file()]
        return read(files[0]).pixels if files else None

    return change


def cloak_in(files: Mapping[Path, Path | None]) -> Callable[[Path, Pixels], Pixels | None]:
    """The changed pixels of a photo from its cloaked file."""

    def change(photo: Path, before: Pixels) -> Pixels | None:
        file = files[photo]
        return None if file is None else read(file).pixels

    return change


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=4, help="of each size [default: 4]")
    parser.add_argument("--files", action="append", default=[], help="NAME=FOLDER, more than once if there are more")
    parser.add_argument("--butteraugli", help="libjxl's butteraugli_main; without it that column stays empty")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    photos = picked(arguments.faces, arguments.out / "photos", arguments.photos)
    people = tuple(Person(size, paths, ()) for size, paths in photos.items() if paths)
    study = Study(People(people, (), ()), arguments.out, Recipe(), say=lambda line: print(line, file=sys.stderr))
    kinds: dict[str, Callable[[Path, Pixels], Pixels | None]] = {}
    for name, recipe in CLOAKS.items():
        kinds[name] = cloak_in(study.cloaks(CloakSet(recipe, people)).files)
    for text in arguments.files:
        name, _, folder = text.partition("=")
        kinds[name] = file_in(Path(folder))
    kinds[f"JPEG {QUALITY}"] = lambda photo, before: jpeg(before)
    rows = rows_of(photos, kinds, arguments.butteraugli)
    print(table(rows))
    document = {"command": "python benchmarks/visibility.py FACES --out DIR", "photos": arguments.photos, "rows": rows}
    if arguments.save:
        arguments.save.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
