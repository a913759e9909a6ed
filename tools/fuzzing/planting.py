"""A second picture in every form that hides it, and the search for it in what is written."""

from __future__ import annotations

import base64
import binascii
import io
import re
import zlib
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 44
SUBSTANTIAL = 256
"""Bytes in a row that are a substantial part of the picture."""
_WINDOW = SUBSTANTIAL // 2  # so many bytes in a row hold a whole window


class Payload(NamedTuple):
    """form: how the picture is coded. data: what is planted. needles: parts to look for. wholes: their sources."""

    form: str
    data: bytes
    needles: tuple[bytes, ...]
    wholes: tuple[bytes, ...]


def save(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@cache
def payloads() -> tuple[Payload, ...]:
    """One small picture in every form."""
    rng = np.random.default_rng(11)
    smooth = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture = Image.fromarray(
        (np.asarray(smooth).astype(int) + rng.integers(0, 24, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
    )
    raw, grey = picture.tobytes(), picture.convert("L").tobytes()
    jpeg = save(picture, "JPEG", quality=92)
    scan, png = jpeg[jpeg.index(b"\xff\xda") :], save(picture, "PNG")
    packed, packed_jpeg = zlib.compress(raw, 9), zlib.compress(jpeg, 9)
    bare = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = bare.compress(raw) + bare.flush()
    needles = {
        "raw": (raw, raw),
        "grey": (grey, grey),
        "jpeg": (jpeg, scan),
        "jpeg, wrong first byte": (b"\xfe" + jpeg[1:], scan),
        "jpeg without header": (scan, scan),
        "png": (png, png[40:]),
        "deflated": (packed, packed + raw),
        "deflated without header": (deflated, deflated + raw),
        "deflated jpeg": (packed_jpeg, packed_jpeg + scan),
        "base64": (base64.b64encode(raw), raw),
        "base64 jpeg": (base64.b64encode(jpeg), scan),
        "base64 in lines": (base64.encodebytes(jpeg), scan),
        "hex": (raw.hex().encode(), raw),
        "ascii85": (base64.a85encode(scan), base64.a85encode(scan)),
        "bmp": (save(picture, "BMP"), raw[::-1] + save(picture, "BMP")[54:]),
        "gif": (save(picture.quantize(64), "GIF"), save(picture.quantize(64), "GIF")[300:]),
        "tiff": (save(picture, "TIFF"), raw),
        "webp": (save(picture, "WEBP", quality=90), save(picture, "WEBP", quality=90)[40:]),
        "utf-16": (raw[:2000].hex().encode("utf-16-le"), raw[:2000]),
        "reversed": (raw[::-1], raw[::-1]),
    }
    return tuple(
        Payload(form, data, _windows(data) + _windows(inner), (data, inner)) for form, (data, inner) in needles.items()
    )


def _windows(data: bytes) -> tuple[bytes, ...]:
    cut = (data[n : n + _WINDOW] for n in range(0, len(data) - _WINDOW, _WINDOW))
    return tuple(window for window in cut if len(set(window)) >= 14)


def leaked(written: bytes, payload: Payload) -> tuple[int, str]:
    """Longest run of the payload's bytes, at least SUBSTANTIAL, in a file or what can be unpacked from it; how."""
    for name, view in _views(written, 2):
        for needle in payload.needles:
            if needle in view and not _standard(needle) and (length := _run(view, needle, payload)) >= SUBSTANTIAL:
                return length, name
    return 0, ""


def _run(view: bytes, needle: bytes, payload: Payload) -> int:
    """How many bytes round a window that was found are the payload's too."""
    at = view.index(needle)
    longest = 0
    for whole in payload.wholes:
        place = whole.find(needle)
        if place >= 0:
            before = after = 0
            while before < min(at, place) and view[at - before - 1] == whole[place - before - 1]:
                before += 1
            while view[at + after : at + after + 1] == whole[place + after : place + after + 1] != b"":
                after += 1
            longest = max(longest, before + after)
    return longest


@cache
def _tables() -> bytes:
    return b"".join(save(Image.new("RGB", (8, 8), (9, 99, 9)), "JPEG", quality=q) for q in (75, 85, 90, 92, 95))


@cache
def _standard(needle: bytes) -> bool:
    """Whether a window is of tables that every JPEG has."""
    return any(needle[n : n + 40] in _tables() for n in range(0, len(needle) - 40, 8))


def _views(data: bytes, depth: int) -> Iterator[tuple[str, bytes]]:
    """The file itself, and what inflating, base64, hexadecimal and UTF-16 make of its parts."""
    yield "plain", data
    if not depth:
        return
    inner: list[tuple[str, bytes]] = []
    starts = (match.start() for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data))
    inner += [("inflated", _inflate(data[start:])) for start in starts]
    for match in re.finditer(rb"(?:[A-Za-z0-9+/]\s{0,2}){300,}", data):
        text = re.sub(rb"\s", b"", match[0])
        for phase in range(4):
            cut = text[phase:]
            inner.append(("base64", binascii.a2b_base64(cut[: len(cut) // 4 * 4])))
    for match in re.finditer(rb"(?:[0-9a-fA-F]{2}\s{0,2}){300,}", data):
        text = re.sub(rb"\s", b"", match[0])
        inner += [
            ("hexadecimal", bytes.fromhex(text[phase : phase + (len(text) - phase) // 2 * 2].decode()))
            for phase in (0, 1)
        ]
    inner += [("utf-16", match[0][::2]) for match in re.finditer(rb"(?:[\x20-\x7e]\0){300,}", data)]
    for name, view in inner:
        for below, view_below in _views(view, depth - 1):
            yield f"{name}, {below}" if below != "plain" else name, view_below


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, 4 << 20)
    except zlib.error:
        return b""
