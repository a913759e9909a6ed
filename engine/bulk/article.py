"""One photo of the personal report: its pictures, made small, and what became of it, as one line of HTML."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import cv2
import numpy as np
from jaxtyping import Int16, UInt8
from PIL import Image

from engine import files, html
from engine import photo as photos
from engine.bulk import claims
from engine.bulk.manifest import Row
from engine.faces import region_box
from engine.types import Face, Photo, PhotoError

SIDE = 800
"""Longest side of a picture in the report: sharp on a phone. A large photo takes 0.2 to 0.3 MB of it in all."""
CLOSE = 320
"""Longest side of the largest face, shown by itself where the photo had to be made smaller."""
QUALITY = 85
GAIN = 10
"""How many times the difference is shown; 12 grey levels are then as far from grey as can be."""
ICC_LIMIT = 4096
"""A colour profile larger than this is left out: it would outweigh the picture. Profiles of phones and sRGB fit."""

TEMPLATE = "article.html.jinja"
BEGIN = b'<article id="p-'
END = b"</article>\n"


class Pair(NamedTuple):
    """The same pixels before and after, as addresses that hold them. size: (width, height) as shown.

    after: "" if there is only one picture.
    """

    title: str
    size: tuple[int, int]
    before: str
    after: str


class Pictures(NamedTuple):
    """size: (width, height) of the photo. difference: an address, "" without a cloak. change: largest, of 255."""

    size: tuple[int, int]
    pairs: tuple[Pair, ...]
    difference: str
    change: int


NONE = Pictures((1, 1), (), "", 0)


def identity(row: Row, notes: Sequence[str]) -> str:
    """Hash of all that an article depends on, 32 hexadecimal digits: the same digits, the same article."""
    # These change when a folder is copied, and the pictures stay the same.
    parts = [
        {**row.as_dict(), "stamp": "", "state": "", "turn": 0},
        list(notes),
        _measured(row),
        html.version(TEMPLATE),
        SIDE,
        CLOSE,
        QUALITY,
        GAIN,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def identity_in(line: bytes) -> str | None:
    """The identity of an article, None if the line is not a whole one."""
    if not (line.startswith(BEGIN) and line.endswith(END)):
        return None
    return line[len(BEGIN) : len(BEGIN) + 32].decode("ascii", "replace")


def article(row: Row, pictures: Pictures, notes: Sequence[str] = ()) -> bytes:
    """One line, from BEGIN to END. notes: what is to be said of the files, as `notes` finds it."""
    text = html.render(
        TEMPLATE,
        identity=identity(row, notes),
        row=row,
        notes=notes,
        pictures=pictures,
        gain=GAIN,
        link="../" + quote_from_bytes(row.target.encode(errors="surrogateescape")),
        measured=_measured(row),
    )
    return " ".join(text.splitlines()).strip().encode() + b"\n"


def _measured(row: Row) -> tuple[tuple[str, str], ...]:
    """Measurements of a cloaked photo, in words."""
    if row.status != "cloaked" or not row.faces:
        return ()
    shifts: dict[str, float] = {}
    for face in row.faces:
        for network, shift in face.get("shift", {}).items():  # type: ignore[attr-defined]
            shifts[network] = min(float(shift), shifts.get(network, float("inf")))
    sides = [max(face["box"][2:]) for face in row.faces]  # type: ignore[index]
    return claims.measured(sides, max(float(face["dssim"]) for face in row.faces), shifts)  # type: ignore[arg-type]


def notes(row: Row, out: Path) -> tuple[str, ...]:
    """Changes since the photo was cloaked, one sentence each."""
    changes = []
    try:
        source = Path(row.at).lstat() if row.status == "failed" else Path(row.at).stat()
    except OSError:
        changes.append("The original was not found when this report was written: it has been moved or deleted.")
    else:
        current = source.st_size, files.modified(source)
        if row.status != "failed" and row.sha256 and current != (row.size, row.modified):
            changes.append("The original has changed since: run the command again.")
    if row.status == "cloaked" and not row.intact(out):
        changes.append("The cloaked file is gone or has changed since: run the command again.")
    return tuple(changes)


def pictures(row: Row, before: Photo | None, after: UInt8[np.ndarray, "h w 3"] | None) -> Pictures:
    """The pictures of a photo. before: the original. after: pixels of the cloaked file. Either may be gone.

    The difference is taken at the photo's own size and then made smaller.
    """
    pixels = after if before is None else before.pixels
    if pixels is None:
        return NONE
    icc = _profile(before)
    if before is None or after is None or before.pixels.shape != after.shape:
        pair = _pair("", pixels, None, side=SIDE, icc=icc)
        return Pictures(pixels.shape[1::-1], (pair,), "", 0)
    difference = cv2.subtract(after, before.pixels, dtype=cv2.CV_16S)
    pairs = [_pair("", before.pixels, after, side=SIDE, icc=icc)]
    if max(pixels.shape[:2]) > SIDE and row.faces:
        box = _region(row.faces[0], pixels)
        title = "The largest face at full size" if max(pixels[box].shape[:2]) <= CLOSE else "The largest face"
        pairs.append(_pair(title, before.pixels[box], after[box], side=CLOSE, icc=icc))
    return Pictures(
        size=pixels.shape[1::-1],
        pairs=tuple(pairs),
        difference=_jpeg(_amplified(_smaller(difference, SIDE))),
        change=int(max(difference.max(), -difference.min())),
    )


def read(row: Row, out: Path) -> Pictures:
    """The pictures of a photo from its files, as far as they are as the row says."""
    try:
        before = photos.read(Path(row.at))
    except PhotoError:
        before = None
    after = None
    if row.status == "cloaked" and row.intact(out):
        try:
            with files.opened(out / row.target) as file:
                after = photos.decode_pixels(file.read())
        except (PhotoError, OSError):
            after = None
    return pictures(row, before, after)


def _region(face: dict[str, object], pixels: np.ndarray) -> tuple[slice, slice]:
    box = np.array(face["box"], np.float32)
    top, left, bottom, right = region_box(Face(box, np.zeros((5, 2), np.float32), 1.0), pixels.shape[:2])
    return slice(top, bottom), slice(left, right)


def _smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if max(height, width) <= side:
        return pixels
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _amplified(difference: Int16[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(128 + GAIN * difference.astype(np.int32), 0, 255).astype(np.uint8)


def _pair(title: str, before: np.ndarray, after: np.ndarray | None, *, side: int, icc: bytes | None) -> Pair:
    shown = _smaller(before, side)
    return Pair(
        title=title,
        size=(shown.shape[1], shown.shape[0]),
        before=_jpeg(shown, icc),
        after="" if after is None else _jpeg(_smaller(after, side), icc),
    )


def _profile(photo: Photo | None) -> bytes | None:
    icc = None if photo is None or photo.grey else photo.encoding.get("icc")
    return icc if isinstance(icc, bytes) and len(icc) <= ICC_LIMIT else None


def _jpeg(pixels: UInt8[np.ndarray, "h w 3"], icc: bytes | None = None) -> str:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, "JPEG", quality=QUALITY, icc_profile=icc)
    return html.data_uri(data.getvalue(), "image/jpeg")
