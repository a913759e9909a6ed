"""PNG chunks besides the picture: which are kept, of what form, and written anew."""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from engine.photo.containers import inflate
from engine.photo.prose import Allowance, plain

TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"tIME": 7}
_DEPTHS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # bytes of sBIT by colour type
_MAX_TEXTS = 256
_LANGUAGE = re.compile(rb"[A-Za-z0-9-]{0,32}")


class Text(NamedTuple):
    """A text chunk taken apart. kind: tEXt, zTXt or iTXt. language, translated: of an iTXt."""

    kind: bytes
    keyword: bytes
    value: bytes
    packed: bool = False
    language: bytes = b""
    translated: bytes = b""

    def chunk(self) -> tuple[bytes, bytes]:
        """Type and payload, written anew."""
        value = zlib.compress(self.value) if self.packed else self.value
        if self.kind == b"tEXt":
            return self.kind, self.keyword + b"\0" + value
        if self.kind == b"zTXt":
            return self.kind, self.keyword + b"\0\0" + value
        head = self.keyword + b"\0" + bytes([self.packed, 0]) + self.language + b"\0" + self.translated + b"\0"
        return self.kind, head + value


def parse_text(kind: bytes, body: bytes) -> Text | None:
    """The text of a chunk; None if the chunk is damaged or expands too far. Bytes behind a packed text are left out."""
    keyword, zero, rest = body.partition(b"\0")
    if not zero or not 1 <= len(keyword) <= 79 or not plain(keyword, allowed=79):
        return None
    if kind == b"tEXt":
        return Text(kind, keyword, rest)
    if kind == b"zTXt":
        value = inflate(rest[1:]) if rest[:1] == b"\0" else None
        return None if value is None else Text(kind, keyword, value, True)
    parts = rest[2:].split(b"\0", 2)
    if len(parts) != 3 or rest[:1] not in (b"\0", b"\1"):
        return None
    value = inflate(parts[2]) if rest[:1] == b"\1" else parts[2]
    return None if value is None else Text(kind, keyword, value, rest[:1] == b"\1", parts[0], parts[1])


def clean_chunk(kind: bytes, body: bytes, colours: int) -> bool:
    """True if a chunk about colours or time is of the form that the standard gives it. colours: the colour type."""
    if kind == b"sBIT":
        return len(body) == _DEPTHS.get(colours, 0) and all(1 <= bits <= 8 for bits in body)
    if len(body) != _LENGTHS.get(kind, -1):
        return False
    if kind == b"tIME":
        _, month, day, hour, minute, second = struct.unpack(">HBBBBB", body)
        return 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60
    return kind != b"sRGB" or body[0] < 4


def clean_texts(texts: list[Text], allowance: Allowance) -> tuple[list[tuple[bytes, bytes]], list[str]]:
    """The chunks of the texts that can be kept, and what was left out. allowance: of the whole file."""
    chunks, omitted = [], []
    for text in texts:
        value = text.value
        good = len(chunks) < _MAX_TEXTS and plain(value) and len(text.translated) <= 256 and plain(text.translated)
        good = good and _LANGUAGE.fullmatch(text.language) is not None
        if good and allowance.text(value, text.keyword, text.translated):
            chunks.append(text.chunk())
        else:
            omitted.append(f"PNG text {text.keyword.decode('latin-1')[:40]} ({len(value):,} bytes)")
    return chunks, omitted


def unarmour(profile: bytes) -> bytes:
    """The bytes of an ImageMagick "Raw profile type" text: a name, a length, hexadecimal. Raises ValueError."""
    return bytes.fromhex(profile.split(b"\n", 3)[-1].decode("ascii"))
