"""The files of `accelerator.py`: what is brought there, and what comes back, none of it too large."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from engine.config import CANVAS
from engine.robust.store import NO_FACE, Store

REFERENCE, TRAINING, DELTAS = "reference.npz", "faces.zip", "deltas"
QUALITY = 92
FILE, FILES, ALL = 15_000_000, 8, 60_000_000
"""What comes back: bytes of the largest file, how many files, bytes of all."""
CARRIED = 64 << 20
"""Bytes that may be brought, the source tree with them."""
WHEELS = (
    "attrs",
    "cyclopts",
    "docstring-parser",
    "rich-rst",
    "dm-pix",
    "grain",
    "array-record",
    "cloudpickle",
    "portpicker",
    "psutil",
    "platformdirs",
    "beartype",
)
"""What a machine with JAX, Flax, Optax and Orbax is likely to want; what they depend on besides comes with those."""
TAGS = ("2_28", "2_27", "2_24", "2_17")
"""Of the C library, as wheels are named by them; pip takes none but those that it is given."""


class FullError(Exception):
    """There is no room left for what comes back."""


def pack(people: Mapping[str, list[Path]], archive: Path, *, cache: Path | None = None) -> None:
    """Write the canvases of all photos as JPEGs, a folder for each person. cache: of `cloak train-robust`."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(cache or Path(folder))
        rows = iter(store.align([photo for photos in people.values() for photo in photos]).tolist())
        canvases = store.canvases()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            for name, photos in people.items():
                for number, row in enumerate([next(rows) for _ in photos]):
                    if row != NO_FACE:
                        packed.writestr(f"{name}/{number:04d}.jpg", _jpeg(canvases[row]))


def _jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def unpacked(archive: Path, folder: Path) -> tuple[Path, Path]:
    """The canvases of everybody as photos and as a cache that knows their faces already: no detector runs again."""
    photos, cache = folder / "photos", folder / "cache"
    if not (cache / "ready").exists():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(photos)
        Store(cache)
        with (cache / "canvases.u8").open("wb") as canvases, (cache / "index.jsonl").open("w") as index:
            for row, path in enumerate(sorted(photos.rglob("*.jpg"))):
                content = path.read_bytes()
                pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
                assert pixels is not None
                assert pixels.shape == (CANVAS, CANVAS, 3)
                canvases.write(pixels[..., ::-1].tobytes())
                index.write(json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "row": row}) + "\n")
        (cache / "ready").touch()
    return photos, cache


def put(out: Path, name: str, content: bytes) -> None:
    """Write a file, or several numbered ones if it is too large for one. Raises FullError if there is no room."""
    pieces = [content[start : start + FILE] for start in range(0, len(content), FILE)]
    names = [name] if len(pieces) == 1 else [f"{name}.{index}" for index in range(len(pieces))]
    present = [path for path in out.iterdir() if re.sub(r"\.\d$", "", path.name) != name]
    size = sum(path.stat().st_size for path in present) + len(content)
    if len(present) + len(names) > FILES or size > ALL:
        raise FullError(f"no room for {name} in {out}: fetch what is there and give an empty --out")
    for path in set(out.iterdir()) - set(present):
        path.unlink()
    for place, piece in zip(names, pieces, strict=True):
        (out / place).write_bytes(piece)


def archived(folder: Path) -> bytes:
    """A folder as one archive, with its own name; b"" if there is none."""
    if not folder.exists():
        return b""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder.parent))
    return content.getvalue()


def fetch(folder: Path) -> None:
    """The wheels of WHEELS for Python 3.12 on Linux, in the versions of the lock file, without what they depend on."""
    lock = (Path(__file__).resolve().parent.parent / "requirements.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.M))
    wanted = [f"{name}=={versions[name]}" for name in WHEELS]
    platforms = [*(f"--platform=manylinux_{tag}_x86_64" for tag in TAGS), "--platform=manylinux2014_x86_64"]
    options = ["--python-version=3.12", "--implementation=cp", *platforms, "--only-binary=:all:", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), *options, *wanted], check=True)


def weighed(bring: Path, tree: Path) -> str:
    """What is brought and what the tree weighs, in words."""
    mine = sum(path.stat().st_size for path in bring.rglob("*") if path.is_file())
    listed = subprocess.run(["git", "-C", str(tree), "ls-files", "-z"], capture_output=True, check=False).stdout.split(
        b"\0"
    )
    paths = [tree / name.decode() for name in listed if name]
    theirs = sum(path.stat().st_size for path in paths if path.is_file())
    total = mine + theirs
    parts = f"{bring} has {mine / 2**20:.1f} MiB, the tree's files {theirs / 2**20:.1f}"
    said = f"{parts}: {total / 2**20:.1f} of {CARRIED >> 20}"
    return said + (". Leave networks out (benchmarks/ACCELERATOR.md)" if total > CARRIED else "")
