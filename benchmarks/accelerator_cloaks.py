"""The cloaks of `accelerator.py`: those of the CPU that are brought, those that come back, and what they are worth."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from accelerator_files import ALL, DELTAS, FILE, REFERENCE, FullError, put
from transfer import agreement, parsed

from engine import checkpoint, sharding
from engine.bulk.batching import Batcher, FaceCloak, FaceJob, loaded
from engine.bulk.people import mean_embedding
from engine.config import CANVAS, Recipe
from engine.detect import YuNet
from engine.evaluate.protocol import part_of
from engine.extractors import load, registry
from engine.faces import Cut, cut
from engine.photo import read
from engine.types import PhotoError

if TYPE_CHECKING:
    from accelerator_parts import Sizes


class Face(NamedTuple):
    """A face of the reference. person: whose it is, a number."""

    job: FaceJob
    person: int


def reference(path: Path, people: list[list[Path]], sizes: Sizes) -> None:
    """Faces as eight-bit canvases, and what the CPU makes of the first of them in float32."""
    detector = YuNet(checkpoint.detector())
    columns: dict[str, list[Any]] = {name: [] for name in ("canvas", "mask", "region", "sha256", "person")}
    for person, photos in enumerate(people):
        for photo in photos:
            try:
                pixels = read(photo).pixels
                face = cut(pixels, detector.detect(pixels)[0])
            except (PhotoError, ValueError, IndexError):
                continue
            columns["canvas"].append(np.rint(face.canvas * 255).astype(np.uint8))
            columns["mask"].append(np.rint(face.mask * 255).astype(np.uint8))
            columns["region"].append(face.region)
            columns["sha256"].append(hashlib.sha256(photo.read_bytes()).hexdigest())
            columns["person"].append(person)
    if not columns["canvas"]:
        raise SystemExit("no face was found for the reference: give a folder with a folder of photos for each person")
    arrays: dict[str, Any] = {name: np.array(column) for name, column in columns.items()}
    np.savez_compressed(path, **arrays)
    recipe = sizes.recipe("highest", objective="away")
    with jax.default_matmul_precision("highest"):
        cloaks = solved(recipe, references(path)[: sizes.parity], batch=min(sizes.parity, 8))
    np.savez_compressed(
        path,
        **arrays,
        delta=np.array([cloak.delta for cloak in cloaks], np.float16),
        dssim=np.array([cloak.dssim for cloak in cloaks]),
        shift=np.array([cloak.shift for cloak in cloaks]),
        networks=np.array(recipe.names),
    )


def references(path: Path) -> list[Face]:
    """The faces of the reference, to be moved from their own embeddings."""
    arrays = np.load(path)
    return [
        Face(
            FaceJob(
                Cut(canvas / np.float32(255), mask / np.float32(255), region, np.eye(2, 3)), False, str(sha256), 0, ()
            ),
            int(person),
        )
        for canvas, mask, region, sha256, person in zip(
            *(arrays[name] for name in ("canvas", "mask", "region", "sha256", "person")), strict=True
        )
    ]


def solved(recipe: Recipe, faces: Sequence[Face], *, batch: int) -> list[FaceCloak]:
    """Cloaks of faces, moved from their person's mean under objective "person"."""
    batcher = Batcher(recipe, loaded(recipe), size=batch, mesh=sharding.faces_mesh(1))
    aims = [batcher.no_target()] * len(faces)
    if recipe.objective == "person":
        embeddings = batcher.embed([face.job.cut.canvas for face in faces])
        goals = {
            who: mean_embedding(
                [embedding for embedding, face in zip(embeddings, faces, strict=True) if face.person == who]
            )
            for who in {face.person for face in faces}
        }
        aims = [goals[face.person] for face in faces]
    return batcher.solve(face.job._replace(target=aim) for face, aim in zip(faces, aims, strict=True))


def keep_deltas(out: Path, recipe: str, cloaks: Sequence[FaceCloak]) -> str:
    """Append the changes of a recipe, float16, to the last file that has room; returns its name."""
    deltas = np.array([cloak.delta for cloak in cloaks], np.float16)
    grey = bool((deltas == deltas[..., :1]).all())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        np.lib.format.write_array(member, deltas[..., :1] if grey else deltas)
    if sum(path.stat().st_size for path in out.iterdir()) + len(content.getvalue()) > ALL:
        raise FullError(f"no room for the cloaks of {recipe} in {out}: fetch what is there and give an empty --out")
    number = len(list(out.glob(f"{DELTAS}-*.npz")))
    last = out / f"{DELTAS}-{number - 1}.npz"
    if not number or last.stat().st_size + len(content.getvalue()) > FILE:
        last = out / f"{DELTAS}-{number}.npz"
        put(out, last.name, b"PK\5\6" + bytes(18))  # an archive without members
    with zipfile.ZipFile(last, "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{len(archive.namelist()):03d}.npy", "w") as member:
            np.lib.format.write_array(member, deltas[..., :1] if grey else deltas)
        archive.comment = json.dumps([*json.loads(archive.comment or b"[]"), recipe]).encode()
    return last.name


def judged(folders: Sequence[Path], bring: Path, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """For every recipe that came back and every network that is installed here: how far its cloaks move embeddings.

    Judged on canvases, so the networks' own pixels and no file; a relation of the recipe's networks is "in".
    """
    faces = references(bring / REFERENCE)
    canvases = np.array([face.job.cut.canvas for face in faces])
    names = names or [name for name in registry.available() if registry.about(name)["installed"]]
    batchers = {
        name: Batcher(Recipe(extractors=(name,), turn=None), (load(name),), size=8, mesh=sharding.faces_mesh(1))
        for name in names
    }
    clean = {name: _embedded(batchers[name], canvases) for name in names}
    rows = []
    for path in sorted(path for folder in folders for path in folder.glob(f"{DELTAS}-*.npz")):
        with zipfile.ZipFile(path) as archive:
            recipes = json.loads(archive.comment)
        with np.load(path) as changes:
            for recipe, member in zip(recipes, sorted(changes.files), strict=True):
                delta = np.broadcast_to(changes[member].astype(np.float32), (len(changes[member]), CANVAS, CANVAS, 3))
                seen = canvases[: len(delta)] + delta
                row: dict[str, Any] = {"recipe": recipe, "faces": len(delta), "networks": {}}
                for name in names:
                    moved = _embedded(batchers[name], seen) - clean[name][: len(delta)]
                    by_person = [
                        moved[[f.person == who for f in faces[: len(delta)]]]
                        for who in {f.person for f in faces[: len(delta)]}
                    ]
                    same, across = (
                        agreement(by_person) if len(by_person) > 1 and max(map(len, by_person)) > 1 else (None, None)
                    )
                    row["networks"][name] = {
                        "part": part_of([name], parsed(recipe).names),
                        "shift": round(float(np.linalg.norm(moved, axis=1).mean()), 4),
                        "A": same,
                        "B": across,
                    }
                held = [figures["shift"] for figures in row["networks"].values() if figures["part"] == "held-out"]
                row["held_out"] = round(float(np.mean(held)), 4) if held else None
                print(f"{recipe}: mean shift held out {row['held_out']}", file=sys.stderr)
                rows.append(row)
    return rows


def _embedded(batcher: Batcher, canvases: np.ndarray) -> np.ndarray:
    return np.array([embedding for (embedding,) in batcher.embed(list(canvases))])
