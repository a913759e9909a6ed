"""Files that are broken or made to harm: what is shown by every viewer is read, what is cut off is not, all in time."""

import io
import os
import struct
import time

import numpy as np
import pytest
from PIL import Image
from test_photo import CLEAN, camera_exif, error_of, pillow_heif, save, scene, with_chunks, with_segments

from engine import photo
from engine.bulk.prepare import digest
from engine.photo import containers, metadata
from engine.types import PhotoError


def timed(call, seconds=2.0):
    start = time.process_time()
    result = call()
    assert time.process_time() - start < seconds
    return result


def ifd(*entries, following=0):
    return (
        struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + struct.pack("<I", following)
    )


def loops():
    self_loop = ifd((0x112, 3, 1, 6), (0x8769, 4, 1, 8))
    yield "itself", self_loop
    yield "its parent", ifd((0x112, 3, 1, 6), (0x8769, 4, 1, 38)) + ifd((0x8769, 4, 1, 8), (0xA005, 4, 1, 38))
    yield "itself by GPS", ifd((0x112, 3, 1, 6), (0x8825, 4, 1, 8))
    yield "branches", ifd((0x112, 3, 1, 6), *((tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005) for _ in range(15)))
    shifted = ifd((0x112, 3, 1, 6), *((0x8769, 4, 1, 8 + 12 * n) for n in range(2000)))
    yield "shifted", shifted
    yield "next", ifd((0x112, 3, 1, 6), (0x8769, 4, 1, 60000), following=8)
    yield "count", struct.pack("<H", 65535) + b"\x69\x87\4\0\1\0\0\0\x08\0\0\0" * 5000


@pytest.mark.parametrize(("name", "body"), [*loops()])
def test_exif_that_loops_is_dropped_and_named_and_the_photo_done(name, body):
    block = b"II*\0\x08\0\0\0" + body
    decoded = timed(lambda: photo.read(with_segments(save(scene(), "JPEG"), (0xE1, b"Exif\0\0" + block[:65000]))))
    assert "EXIF" in decoded.notes[0] or name == "next"
    if name != "count":
        assert decoded.size == (64, 48)  # the orientation beside it is kept
    assert photo.read(photo.encode(decoded, decoded.pixels)).size == decoded.size


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("ending", [b"", b"\xff\xd9"])
def test_a_jpeg_needs_its_picture_and_not_its_end_marker(progressive, ending):
    whole = save(scene(160, 200), "JPEG", progressive=progressive, subsampling=2)
    expected = photo.read(whole).pixels
    assert whole.endswith(b"\xff\xd9")
    np.testing.assert_array_equal(photo.read(whole[:-2] + ending).pixels, expected)
    np.testing.assert_array_equal(photo.read(whole + b"film" * 99).pixels, expected)
    start = containers.jpeg_parts(whole).scan
    for share in (0.02, 0.3, 0.5, 0.7, 0.9, 0.97):
        cut = start + 12 + int((len(whole) - start) * share)
        assert "cut off" in error_of(whole[:cut] + ending)


def test_a_jpeg_with_restart_markers():
    whole = save(scene(160, 200), "JPEG", restart_marker_rows=1)
    assert photo.read(whole[:-2]).size == (160, 200)
    assert "cut off" in error_of(whole[: len(whole) * 3 // 4])


@pytest.mark.parametrize("left", [12, 10, 4, 0])
def test_a_png_needs_its_picture_and_not_its_end(left):
    whole = save(scene(160, 200))
    np.testing.assert_array_equal(photo.read(whole[: len(whole) - 12 + left][: len(whole)]).pixels, scene(160, 200))
    np.testing.assert_array_equal(
        photo.read(whole[:-14]).pixels, scene(160, 200)
    )  # two bytes of a checksum are missing
    assert "cut off" in error_of(whole[: len(whole) // 2])


def test_a_jpeg_of_a_thousand_scans_is_refused_at_once():
    whole = save(scene(), "JPEG", progressive=True)
    scan = containers.jpeg_parts(whole).scan
    body = whole[scan:-2]
    message = timed(lambda: error_of(whole[:scan] + body * 300 + b"\xff\xd9"))
    assert "passes" in message


def iloc(count, extents, widths=0):
    return struct.pack(">BBHBBH", 0, 0, 0, widths, 0, count) + struct.pack(">HHH", 1, 0, extents) * 9000


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_table_of_contents_that_states_too_much_costs_nothing(kind):
    for counts in ((65535, 65535), (65535, 4000), (1, 65535)):
        box = containers.box(b"iloc", iloc(*counts))
        infe = containers.box(b"infe", b"\2\0\0\0" + struct.pack(">HH", 1, 0) + b"Exif\0")
        iinf = containers.box(b"iinf", bytes(4) + struct.pack(">H", 1) + infe)
        meta = containers.box(b"meta", bytes(4) + iinf + box)
        brand = b"heic" if kind == "HEIF" else b"avif"
        data = containers.box(b"ftyp", brand + bytes(4) + brand) + meta
        timed(lambda data=data: error_of(data))
        assert containers.heif_parts(data).exif is None


@pytest.mark.parametrize(
    "data",
    [
        containers.box(b"ftyp", b"heic" + bytes(4) + b"heic") + containers.box(b"free", b"") * 500_000,
        containers.PNG_MAGIC + containers.png_chunk(b"tEXt", b"") * 300_000,
        b"\xff\xd8" + containers.jpeg_segment(0xE5, b"") * 500_000,
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"RIFF" + bytes(4) + b"WEBP" + (b"FACE" + bytes(4)) * 500_000,
    ],
)
def test_millions_of_empty_parts_are_refused_at_once(data):
    timed(lambda: error_of(data))


def test_pages_of_a_tiff_cost_no_memory():
    pixels = save(scene(), "TIFF")
    tags = containers.tiff_parts(pixels).tags
    big = metadata.Entry(7, 4_000_000, bytes(4_000_000))
    data = containers.tiff_with(pixels, {**tags, 0xFE00: big})
    entry = containers.tiff_parts(data).tags[0xFE00]
    assert isinstance(entry, metadata.Entry)
    page, size = bytearray(data), 30
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", page, first + 2 + 12 * count, len(page))
    for number in range(60):
        following = len(page) + size if number < 59 else 0
        page += ifd((0xFE, 4, 1, 1), (0xFE00, 7, 4_000_000, entry.offset), following=following)
    tiff = timed(lambda: containers.tiff_parts(bytes(page)))
    assert len(tiff.pages) == 60
    assert all(set(tags) <= {0xFE, 0x100} for tags in tiff.pages)
    assert photo.read(bytes(page)).size == (48, 64)


def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for path, kind in ((tmp_path / "pipe.jpg", "pipe"), (tmp_path / "zero.jpg", "device"), (tmp_path, "folder")):
        assert kind in error_of(path)
        with pytest.raises(PhotoError, match=kind):
            digest(path)
        assert photo.footprint(path) == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF"])
def test_the_footprint_is_read_from_the_header(kind, tmp_path):
    assert pillow_heif
    small, large = tmp_path / "small", tmp_path / "large"
    image = Image.fromarray(scene(400, 600))
    for path, size in ((small, (60, 40)), (large, (600, 400))):
        resized = image.resize(size)
        path.write_bytes(save(resized.quantize(64) if kind == "GIF" else resized, kind))
    more = photo.footprint(large) - photo.footprint(small)
    assert 10 * (600 * 400 - 60 * 40) <= more <= 30 * 600 * 400
    large.write_bytes(large.read_bytes()[:5])
    assert photo.footprint(large) == 10
    assert photo.footprint(tmp_path / "gone") == 0


def test_a_footprint_is_no_promise_of_a_photo(tmp_path):
    (tmp_path / "bomb.png").write_bytes(with_chunks(save(scene()))[:16] + struct.pack(">II", 60000, 60000) + bytes(40))
    assert photo.footprint(tmp_path / "bomb.png") < 1000


def test_exif_of_a_camera_is_whole():
    decoded = photo.read(save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(6, thumbnail=CLEAN)))
    assert not any("broken" in note for note in decoded.notes)
    exif = Image.open(io.BytesIO(photo.encode(decoded, decoded.pixels))).getexif()
    assert exif[0x010F] == "Maker"
    assert set(exif.get_ifd(0x8769)) == {0x829A, 0x927C, 0xA002, 0xA003}
