"""Width and height in pixels from the header of each format: one function a format, for `formats.KINDS`.

Nothing is decoded. A function may raise anything for a damaged header.
"""

from __future__ import annotations

import mmap
import re
import struct

from engine.photo import containers as parts

Buffer = bytes | mmap.mmap
Size = tuple[int, int]
CODESTREAM = b"\xff\x4f\xff\x51"
"""Begins the picture of a JPEG 2000 file."""


def jpeg(data: Buffer) -> Size:
    """The size of its first frame."""
    height, width = struct.unpack_from(">HH", parts.jpeg_parts(data).frame, 1)
    return width, height


def png(data: Buffer) -> Size:
    """The size in its first chunk, IHDR."""
    return struct.unpack_from(">II", data, 16)


def webp(data: Buffer) -> Size:
    """The size of its canvas, or of its only frame."""
    head = data[:64]
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def tiff(data: Buffer) -> Size:
    """The largest size that any of its directories names."""
    directories = parts.tiff_parts(data)
    return max(directories.values(0x100)), max(directories.values(0x101))


def boxes(data: Buffer) -> Size:
    """The largest of the pictures in an AVIF or HEIF file."""
    sizes = [struct.unpack_from(">II", box, 4) for box in parts.heif_parts(data).boxes[b"ispe"]]
    return max(sizes, key=lambda size: size[0] * size[1])


def jpeg2000(data: Buffer) -> Size:
    """The size of its code stream."""
    at = data.find(CODESTREAM)
    if at < 0:
        raise ValueError("no code stream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    return right - left, bottom - top


def bmp(data: Buffer) -> Size:
    """Its height may be stored as negative: from top to bottom."""
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def gif(data: Buffer) -> Size:
    """The size of its screen."""
    return struct.unpack_from("<HH", data, 6)


def ppm(data: Buffer) -> Size:
    """The first two numbers of its header, comments left out."""
    match = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)", data[:4096])
    if match is None:
        raise ValueError("no width and height")
    return int(match[1]), int(match[2])
