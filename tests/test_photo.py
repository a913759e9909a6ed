"""Photos in and out. Every file is made in memory; the `slow` test runs over a folder of odd files if there is one."""

import base64
import csv
import errno
import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from there import there

from engine import photo
from engine.config import Format
from engine.photo import containers, formats, metadata
from engine.types import Photo, PhotoError

WILD = Path(__file__).parents[2] / "shared" / "wild"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="me"/></x:xmpmeta>'
LOSSLESS = ("PNG", "TIFF", "BMP", "PPM", "JPEG2000", "WEBP")
CARRIERS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF")  # formats that carry EXIF, ICC and XMP
pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra `heif`")


def scene(height=48, width=64, seed=0):
    """A smooth colour gradient with a little noise: unlike its mirror images, kind to JPEG."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([40 + x, 40 + 2 * y, 200 - x - y], axis=-1) + np.random.default_rng(seed).integers(
        0, 3, (height, width, 3)
    )
    return np.clip(planes, 0, 255).astype(np.uint8)


def save(pixels, kind="PNG", **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if kind == "HEIF":
        options = {"quality": -1, "chroma": 444, **options}
        pillow_heif.encode(image.mode, image.size, image.tobytes(), buffer, **options)
        return buffer.getvalue()
    defaults = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True, "exact": True},
        "AVIF": {"quality": 100, "subsampling": "4:0:0" if image.mode == "L" else "4:4:4", "max_threads": 1},
    }
    image.save(buffer, kind, **{**defaults.get(kind, {}), **options})
    return buffer.getvalue()


def camera_exif(orientation=1, *, thumbnail=b"", note=b"\x01\x02maker note" * 3):
    """An EXIF block as a camera writes it: GPS, maker note, pixel size, a thumbnail in a second directory."""
    text = lambda value: metadata.Entry(2, len(value) + 1, value + b"\0")  # noqa: E731
    short = lambda value: metadata.Entry(3, 1, struct.pack(">H", value))  # noqa: E731
    ratio = lambda *values: metadata.Entry(5, len(values) // 2, struct.pack(f">{len(values)}I", *values))  # noqa: E731
    tags: metadata.Tags = {
        0x010F: text(b"Maker"),
        0x0110: text(b"Model 3"),
        0x0112: short(orientation),
        0x011A: ratio(300, 1),
        0x011B: ratio(200, 1),
        0x8769: {
            0x829A: ratio(1, 250),
            0x9214: metadata.Entry(3, 3, struct.pack(">3H", 10, 20, 5)),
            0x927C: metadata.Entry(7, len(note), note),
            0xA002: short(64),
            0xA003: short(48),
        },
        0x8825: {1: text(b"N"), 2: ratio(47, 1, 22, 1, 5999, 100)},
    }
    body, where = metadata.write_directory(tags, ">", 8)
    block = bytearray(b"MM\0*" + struct.pack(">I", where) + body)
    if thumbnail:
        start = len(block)
        count = struct.unpack_from(">H", block, where)[0]
        struct.pack_into(">I", block, where + 2 + 12 * count, start)
        entries = [(0x0103, 3, 1, 6 << 16), (0x0201, 4, 1, start + 42), (0x0202, 4, 1, len(thumbnail))]
        block += (
            struct.pack(">H", 3) + b"".join(struct.pack(">HHII", *entry) for entry in entries) + bytes(4) + thumbnail
        )
    return bytes(block)


def jpeg(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """The JPEG as Pillow opens it, with its tables and layers."""
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return image


def flat(exif, prefix=()):
    return {
        key: value
        for tag, entry in exif.items()
        for key, value in (
            flat(entry, (*prefix, tag)) if isinstance(entry, dict) else {(*prefix, tag): (entry.count, entry.value)}
        ).items()
    }


def with_segments(jpeg, *segments):
    return jpeg[:2] + b"".join(containers.jpeg_segment(*segment) for segment in segments) + jpeg[2:]


def with_chunks(png, *chunks):
    return png[:33] + b"".join(containers.png_chunk(*chunk) for chunk in chunks) + png[33:]


def error_of(source):
    with pytest.raises(PhotoError) as caught:
        photo.read(source)
    message = str(caught.value)
    assert message[0].isupper()
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- pixels, alpha, format


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_lossless_formats_come_back_bit_for_bit(kind, mode):
    if (kind in ("BMP", "PPM") and mode.endswith("A")) or (kind == "WEBP" and mode.startswith("L")):
        pytest.skip(f"no {mode} in {kind}")
    image = Image.fromarray(scene()).convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(scene(seed=1)[..., 0]))  # colours under full transparency among them
    data = save(image, kind, **({"mct": 1} if kind == "JPEG2000" and mode == "RGB" else {}))
    decoded = photo.read(data)
    assert decoded.format == kind
    assert decoded.grey == mode.startswith("L")
    np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))
    written = photo.encode(decoded, decoded.pixels)
    again = photo.read(written)
    assert (again.format, again.grey) == (decoded.format, decoded.grey)
    np.testing.assert_array_equal(again.pixels, decoded.pixels)
    if mode.endswith("A"):
        np.testing.assert_array_equal(again.alpha, np.asarray(image.getchannel("A")))
    else:
        assert again.alpha is None
    assert written == photo.encode(decoded, decoded.pixels)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossy_formats_come_back_close(kind, mode):
    decoded = photo.read(save(Image.fromarray(scene()).convert(mode), kind))
    assert decoded.grey == (mode == "L")
    written = photo.encode(decoded, decoded.pixels)
    again = photo.read(written)
    assert (again.format, again.grey) == (kind, mode == "L")
    assert np.abs(again.pixels.astype(int) - decoded.pixels).max() <= (2 if kind == "JPEG" else 8)
    assert written == photo.encode(decoded, decoded.pixels)


@given(orientation=st.integers(1, 8), kind=st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_orientation_is_made_upright_once(orientation, kind, seed):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(scene(seed=seed), kind, exif=exif.tobytes())
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = photo.read(data)
    np.testing.assert_array_equal(decoded.pixels, expected)
    written = photo.encode(decoded, decoded.pixels)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(written))))  # what a viewer that obeys EXIF shows
    assert shown.shape == expected.shape
    # libjpeg's integer transform rounds rows and columns differently, so a turned JPEG moves by one level more.
    assert np.abs(shown.astype(int) - expected).max() <= (4 if kind == "JPEG" else 0)
    assert Image.open(io.BytesIO(written)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_by_its_boxes_and_not_again_by_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(scene(), "AVIF", exif=exif.tobytes())  # Pillow moves the orientation into irot and imir
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = photo.read(data)
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert photo.decode_pixels(photo.encode(decoded, decoded.pixels)).shape == expected.shape


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 256, 2))])
def test_palette_becomes_the_same_colours_in_full(transparency):
    image = Image.fromarray(scene()).quantize(128)
    data = save(image, "PNG", **({} if transparency is None else {"transparency": transparency}))
    decoded = photo.read(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    np.testing.assert_array_equal(decoded.pixels, expected[..., :3])
    assert (decoded.alpha is None) == (transparency is None)
    if decoded.alpha is not None:
        np.testing.assert_array_equal(decoded.alpha, expected[..., 3])
    np.testing.assert_array_equal(photo.decode_pixels(photo.encode(decoded, decoded.pixels)), decoded.pixels)


def test_colour_key_becomes_alpha_so_that_a_changed_pixel_cannot_turn_transparent():
    data = save(scene(), transparency=tuple(int(v) for v in scene()[5, 7]))
    decoded = photo.read(data)
    assert decoded.alpha is not None
    assert decoded.alpha[5, 7] == 0
    flooded = np.broadcast_to(decoded.pixels[5, 7], decoded.pixels.shape).copy()
    again = photo.read(photo.encode(decoded, flooded))
    np.testing.assert_array_equal(again.alpha, decoded.alpha)


# --- quality


@pytest.mark.parametrize("source", [30, 60, 75, 90, 97])
def test_jpeg_has_fine_luminance_and_chrominance_that_snaps_back(source):
    """Luminance as the source, or as quality 95; chrominance in whole fractions of the source's steps."""
    data = save(scene(), "JPEG", quality=source, subsampling=2, progressive=True)
    decoded = photo.read(data)
    written = jpeg(photo.encode(decoded, decoded.pixels))
    before = jpeg(data).quantization
    fine, standard = (jpeg(save(scene(), "JPEG", quality=n)).quantization for n in (95, 75))
    np.testing.assert_array_equal(written.quantization[0], np.minimum(before[0], fine[0]))
    assert (np.array(before[1]) % np.array(written.quantization[1]) == 0).all()
    assert (np.array(written.quantization[1]) <= np.array(standard[1])).all()
    if source >= 75:
        np.testing.assert_array_equal(written.quantization[1], before[1])
    assert [layer[1:3] for layer in written.layer] == [(2, 2), (1, 1), (1, 1)]
    assert written.info["progressive"]


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_jpeg_keeps_its_chroma_sampling_at_any_quality(sampling):
    decoded = photo.read(save(scene(), "JPEG", subsampling=sampling))
    for quality in (None, 80):
        written = jpeg(photo.encode(decoded, decoded.pixels, quality=quality))
        assert {layer[1:3] for layer in written.layer[1:]} == {(1, 1)}
        assert written.layer[0][1:3] == [(1, 1), (2, 1), (2, 2)][sampling]


@pytest.mark.parametrize(("sampling", "expected"), [(0, (1, 1)), (1, (1, 1)), (2, (2, 2))])
def test_a_turned_jpeg_is_quantised_as_before(sampling, expected):
    exif = b"Exif\0\0" + camera_exif(6)
    decoded = photo.read(save(scene(), "JPEG", quality=97, subsampling=sampling, exif=exif))
    written = jpeg(photo.encode(decoded, decoded.pixels))
    source = jpeg(save(scene(), "JPEG", quality=97))
    for number, table in source.quantization.items():
        np.testing.assert_array_equal(np.reshape(written.quantization[number], (8, 8)), np.reshape(table, (8, 8)).T)
    assert written.layer[0][1:3] == expected


def test_quality_overrides_the_tables():
    decoded = photo.read(save(scene(), "JPEG", quality=97))
    sizes = [len(photo.encode(decoded, decoded.pixels, quality=quality)) for quality in (30, 60, 90)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_rgb_jpeg_stays_rgb():
    data = save(scene(), "JPEG", keep_rgb=True)
    decoded = photo.read(data)
    written = photo.encode(decoded, decoded.pixels)
    assert containers.jpeg_parts(written).payloads(0xEE, b"Adobe")[0][6] == 0
    assert np.abs(photo.decode_pixels(written).astype(int) - decoded.pixels).max() <= 2


# --- metadata


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.parametrize("format", ["keep", "png", "jpeg", "webp"])
def test_exif_icc_and_xmp_survive(kind, format):
    data = save(scene(), kind, exif=b"Exif\0\0" + camera_exif(), icc_profile=ICC, xmp=XMP.replace(b'"6"', b'"1"'))
    if kind == "PNG":  # Pillow writes no XMP here
        data = with_chunks(data, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.replace(b'"6"', b'"1"')))
    if kind == "TIFF":
        tags = containers.tiff_parts(data).tags
        data = containers.tiff_with(data, {**tags, 0x02BC: metadata.Entry(1, len(XMP), XMP)})
    decoded = photo.read(data)
    written = photo.encode(decoded, decoded.pixels, format=format)
    image = Image.open(io.BytesIO(written)) if not (kind == "HEIF" and format == "keep") else None
    info = image.info if image else pillow_heif.HeifFile(written)[0].info
    assert info["icc_profile"] == ICC
    again = photo.read(written).encoding
    xmp, exif = again["xmp"], again["exif"]
    assert isinstance(xmp, bytes)
    assert isinstance(exif, metadata.Exif)
    assert b'dc:title="me"' in xmp
    values = flat(exif.tags)
    assert values[(0x010F,)] == (6, b"Maker\0")
    assert values[(0x8825, 1)] == (2, b"N\0")
    order = exif.order
    assert struct.unpack(f"{order}6I", values[(0x8825, 2)][1]) == (47, 1, 22, 1, 5999, 100)
    assert struct.unpack(f"{order}2I", values[(0x8769, 0x829A)][1]) == (1, 250)
    assert values[(0x8769, 0x927C)][1] == b"\x01\x02maker note" * 3
    if image:  # by another reader, too
        assert image.getexif().get_ifd(0x8825)[2] == (47.0, 22.0, 59.99)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_agrees_with_the_turned_picture(orientation):
    data = save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(orientation), dpi=(300, 200), xmp=XMP)
    decoded = photo.read(data)
    image = Image.open(io.BytesIO(photo.encode(decoded, decoded.pixels)))
    exif = image.getexif()
    camera = exif.get_ifd(0x8769)
    assert exif[0x0112] == 1
    assert (camera[0xA002], camera[0xA003]) == image.size == ((48, 64) if orientation == 6 else (64, 48))
    assert (0x9214 in camera) == (orientation == 1)  # the subject's place counts in the unturned picture
    assert image.info["dpi"] == ((200, 300) if orientation == 6 else (300, 200))
    assert b'tiff:Orientation="1"' in image.info["xmp"]


def test_maker_note_stays_where_its_own_offsets_point():
    exif = camera_exif(thumbnail=save(scene(16, 16), "JPEG"))
    decoded = photo.read(save(scene(), "JPEG", exif=b"Exif\0\0" + exif))
    written = containers.jpeg_parts(photo.encode(decoded, decoded.pixels)).payloads(0xE1, b"Exif\0\0")[0]
    note = b"\x01\x02maker note" * 3
    assert written.find(note) == exif.find(note) > 0


def test_png_text_gamma_and_resolution_survive():
    chunks = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"tEXt", b"Author\0me"),
        (b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
    ]
    decoded = photo.read(with_chunks(save(scene()), *chunks))
    written = Image.open(io.BytesIO(photo.encode(decoded, decoded.pixels)))
    assert isinstance(written, PngImagePlugin.PngImageFile)
    written.load()
    assert written.info["gamma"] == 0.45455
    assert written.text["Author"] == "me"
    assert written.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_imagemagick_exif_text_is_exif():
    raw = b"Exif\0\0" + camera_exif(6)
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode())
    decoded = photo.read(with_chunks(save(scene()), (b"tEXt", text)))
    assert decoded.size == (64, 48)
    written = photo.encode(decoded, decoded.pixels)
    assert b"Raw profile" not in written
    assert Image.open(io.BytesIO(written)).getexif()[0x010F] == "Maker"


def test_tiff_keeps_its_compression():
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        decoded = photo.read(save(scene(), "TIFF", compression=compression))
        assert Image.open(io.BytesIO(photo.encode(decoded, decoded.pixels))).info["compression"] == compression
    decoded = photo.read(save(scene(), "TIFF", compression="jpeg"))
    np.testing.assert_array_equal(photo.decode_pixels(photo.encode(decoded, decoded.pixels)), decoded.pixels)


# --- privacy: no second picture leaves with the file

CLEAN = save(scene(24, 24, seed=9), "JPEG")


def tiff_with_subifd():
    tags = {0x010E: metadata.Entry(2, 3, b"me\0"), 0x014A: metadata.Entry(4, 1, struct.pack("<I", 8)),
            0x935C: metadata.Entry(7, len(CLEAN), CLEAN)}  # fmt: skip
    data = save(scene(), "TIFF")
    return containers.tiff_with(data, {**containers.tiff_parts(data).tags, **tags})


def tiff_with_thumbnail_page():
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as writer:
        for pixels, kind in ((scene(), 0), (scene(24, 24, seed=9), 1)):
            Image.fromarray(pixels).save(writer, "TIFF", tiffinfo={0xFE: kind})
            writer.newFrame()
    return buffer.getvalue()


def heif_with_thumbnail():
    return save(scene(160, 200), "HEIF", thumbnails=[64])


def mpo():
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(scene(seed=9))])
    return buffer.getvalue()


def resource(code, data):
    return b"8BIM" + struct.pack(">H", code) + b"\0\0" + struct.pack(">I", len(data)) + data + bytes(len(data) & 1)


_BASE64 = base64.b64encode(CLEAN)
_ADOBE = b"http://ns.adobe.com/xap/1.0/\0"
HIDING_PLACES = {
    "EXIF thumbnail": save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(thumbnail=CLEAN)),
    "maker note": save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(note=b"MAKER" + CLEAN)),
    "large maker note": save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(note=b"RAWFACE!" * 5000)),
    "gap in the EXIF": save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif() + CLEAN),
    "second MPO frame": mpo(),
    "after the end": save(scene(), "JPEG") + CLEAN,
    "XMP thumbnail": with_segments(save(scene(), "JPEG"), (0xE1, _ADOBE + b"<xmp:Thumbnails>" + _BASE64 + b"</xmp>")),
    "XMP base64": with_segments(save(scene(), "JPEG"), (0xE1, _ADOBE + b"<my:face>" + _BASE64 + b"</my:face>")),
    "XMP split": with_segments(save(scene(), "JPEG"), (0xE1, _ADOBE + b"<a>" + _BASE64[:2] + b"&#xA;" + _BASE64[2:])),
    "extended XMP": with_segments(save(scene(), "JPEG"), (0xE1, b"http://ns.adobe.com/xmp/extension/\0" + _BASE64)),
    "gain map": with_segments(save(scene(), "JPEG"), (0xE1, _ADOBE + b'<a hdrgm:Version="1.0"/>RAWFACE!')),
    "Photoshop": with_segments(
        save(scene(), "JPEG"), (0xED, b"Photoshop 3.0\0" + resource(0x0404, b"text") + resource(0x040C, CLEAN))
    ),
    "JFXX": with_segments(save(scene(), "JPEG"), (0xE0, b"JFXX\0\x10" + CLEAN)),
    "JFIF": with_segments(save(scene(), "JPEG")[:2] + save(scene(), "JPEG")[20:],
                          (0xE0, b"JFIF\0\1\1\0\0\1\0\1\4\4" + b"RAWFACE!" * 6)),
    "maker's segment": with_segments(save(scene(), "JPEG"), (0xE4, CLEAN), (0xEB, CLEAN), (0xE2, b"FPXR\0" + CLEAN)),
    "comment": with_segments(save(scene(), "JPEG"), (0xFE, _BASE64)),
    "PNG text": with_chunks(save(scene()), (b"tEXt", b"thumb\0" + _BASE64)),
    "packed PNG text": with_chunks(save(scene()), (b"zTXt", b"thumb\0\0" + zlib.compress(_BASE64))),
    "hexadecimal PNG text": with_chunks(save(scene()), (b"tEXt", b"Raw profile type 8bim\0" + CLEAN.hex().encode())),
    "private PNG chunk": with_chunks(save(scene()), (b"faCe", CLEAN)),
    "after the PNG": save(scene()) + CLEAN,
    "TIFF layers": tiff_with_subifd(),
    "TIFF thumbnail page": tiff_with_thumbnail_page(),
    "HEIF thumbnail": heif_with_thumbnail(),
    "WebP chunk": save(scene(), "WEBP", exif=b"Exif\0\0" + camera_exif(thumbnail=CLEAN)),
    "AVIF": save(scene(), "AVIF", exif=b"Exif\0\0" + camera_exif(thumbnail=CLEAN)),
}  # fmt: skip


@pytest.mark.parametrize("place", HIDING_PLACES)
@pytest.mark.parametrize("format", ["keep", "png", "jpeg"])
def test_no_second_picture_leaves_with_the_file(place, format):
    decoded = photo.read(HIDING_PLACES[place])
    written = photo.encode(decoded, np.full_like(decoded.pixels, 128), format=format)
    body = CLEAN[-60:-10]  # of the coded picture: headers are the same in every JPEG
    assert body not in written
    assert _BASE64[8:60] not in written
    assert zlib.compress(_BASE64)[:40] not in written
    assert body.hex().encode() not in written
    assert b"RAWFACE!" not in written
    again = photo.read(written)
    assert np.abs(again.pixels.astype(int) - 128).max() <= 3
    if again.format == "JPEG":
        assert written.count(b"\xff\xd8\xff") == 1
        assert written.endswith(b"\xff\xd9")
        assert Image.open(io.BytesIO(written)).format == "JPEG"  # no MPO
        assert not containers.jpeg_parts(written).payloads(0xE2, b"MPF")
    if again.format == "TIFF":
        assert len(containers.tiff_parts(written).pages) == 0
    if again.format == "HEIF":
        assert not pillow_heif.HeifFile(written)[0].info["thumbnails"]


def test_photoshop_captions_survive():
    decoded = photo.read(HIDING_PLACES["Photoshop"])
    assert resource(0x0404, b"text") in photo.encode(decoded, decoded.pixels)


# --- refusals


def png_header(width, height, depth=8, colours=2):
    header = containers.png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return containers.PNG_MAGIC + header + containers.png_chunk(b"IDAT", b"") + containers.png_chunk(b"IEND", b"")


def frames(kind, **options):
    extra = [Image.fromarray(scene(seed=9)).convert("P" if kind == "GIF" else "RGB")]
    return save(Image.fromarray(scene()), kind, save_all=True, append_images=extra, **options)


def deep_tiff():
    data = save(scene(), "TIFF")
    tags = {**containers.tiff_parts(data).tags, 0x0102: metadata.Entry(3, 3, struct.pack("<3H", 16, 16, 16))}
    return containers.tiff_with(data, tags)


def grey16(kind):
    return save(Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20), kind)


def deep_jp2():
    return save(Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)), "JPEG2000")


def deep_heif():
    buffer = io.BytesIO()
    data = (scene().astype("<u2") * 257).tobytes()
    pillow_heif.encode("RGB;16", (64, 48), data, buffer)
    return buffer.getvalue()


REFUSED = {
    "8 bits": [png_header(8, 8, depth=16), grey16("PNG"), grey16("TIFF"), deep_tiff(), deep_jp2(), deep_heif(),
               b"P6 2 1 65535 " + bytes(12), b"P5 2 1 65535 " + bytes(4)],
    "black and white": [png_header(8, 8, 1, 0), save(Image.new("1", (8, 8)), "TIFF"), b"P4 8 1 " + bytes(1)],
    "CMYK": [save(Image.new("CMYK", (8, 8)), "JPEG"), save(Image.new("CMYK", (8, 8)), "TIFF")],
    "CIELAB": [save(Image.new("LAB", (8, 8)), "TIFF")],
    "several pictures": [frames("GIF"), frames("WEBP"), frames("PNG"), frames("TIFF"), frames("AVIF")],
    "limit": [png_header(60000, 60000), b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(40),
              save(scene(), "BMP")[:18] + struct.pack("<ii", 60000, 60000) + save(scene(), "BMP")[26:],
              b"P6 60000 60000 255 ",
              b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xff\xff\x00\xff\xff\x00" + bytes(64),
              save(scene(), "JPEG").replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 60000, 60000), 1)],
    "empty": [b""],
    "text file": [b"hello, this is not a photo\n", b"<html><body>404</body></html>"],
    "not a photo": [bytes(range(256)), b"8BPS" + bytes(60), b"\x00\x00\x01\x00" + bytes(60)],
    "film": [b"\0\0\0\x18ftypisom" + bytes(60), b"\0\0\0\x18ftypcrx " + bytes(60)],
    "damaged": [data[: len(data) * 2 // 3] for kind in (*CARRIERS, "BMP", "JPEG2000", "PPM")
                for data in [save(scene(), kind)]],
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_kept_is_refused_with_its_reason(reason):
    for data in REFUSED[reason]:
        assert reason in error_of(data), data[:16]


def test_a_bomb_costs_nothing():
    script = (
        "import resource, sys; from engine import photo; from engine.types import PhotoError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    photo.read(sys.stdin.buffer.read())\nexcept PhotoError:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 'jax' in sys.modules)"
    )
    bomb = png_header(60000, 60000)
    done = subprocess.run([sys.executable, "-c", script], input=bomb, capture_output=True, check=True,
                          cwd=Path(__file__).parents[1])  # fmt: skip
    grown, jax = done.stdout.split()
    assert int(grown) < 20_000  # kilobytes
    assert jax == b"False"


def test_bad_paths(tmp_path):
    assert "no such file" in error_of(tmp_path / "gone.jpg")
    assert "folder" in error_of(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert "empty" in error_of(tmp_path / "empty.jpg")
    (tmp_path / "notes.jpg").write_text("shopping list")
    assert "text file" in error_of(tmp_path / "notes.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "pipe" in error_of(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    assert "link" in error_of(tmp_path / "a.jpg")
    (tmp_path / "fine.jpg").write_bytes(save(scene(), "JPEG"))
    assert photo.read(tmp_path / "fine.jpg").size == (48, 64)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_path(tmp_path):
    locked = tmp_path / "locked.jpg"
    locked.write_bytes(save(scene(), "JPEG"))
    locked.chmod(0)
    assert "permission" in error_of(locked)


def test_disk_errors_are_photo_errors(monkeypatch, tmp_path):
    (tmp_path / "a.jpg").write_bytes(CLEAN)

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(photo, "opened", fail)
    assert "disk" in error_of(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", [*CARRIERS, "BMP", "JPEG2000", "PPM", "GIF"])
def test_mutated_files_are_read_or_refused(kind):
    options = {"exif": b"Exif\0\0" + camera_exif(6, thumbnail=CLEAN), "xmp": XMP} if kind in CARRIERS else {}
    valid = save(Image.fromarray(scene(16, 24)), kind, **options)

    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def check(data):
        edits = data.draw(
            st.lists(st.tuples(st.integers(0, len(valid) - 1), st.binary(min_size=1, max_size=6)), max_size=6)
        )
        mutated = bytearray(valid)
        for position, replacement in edits:
            mutated[position : position + len(replacement)] = replacement
        cut = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                decoded = photo.read(bytes(mutated[:cut]))
            except PhotoError:
                return
            assert isinstance(decoded, Photo)
            assert decoded.pixels.dtype == np.uint8
            assert decoded.pixels.shape == (*decoded.size, 3)
            try:
                photo.encode(decoded, decoded.pixels)
            except PhotoError:
                return

    check()


# --- the writer's edge


def test_a_gif_becomes_a_png_and_its_notes_say_so():
    image = Image.fromarray(scene()).quantize(32)
    decoded = photo.read(save(image, "GIF", transparency=image.getpixel((0, 0)), comment=b"Lake"))
    written = photo.read(photo.encode(decoded, decoded.pixels))
    assert (written.format, photo.suffix(decoded, "keep")) == ("PNG", ".png")
    np.testing.assert_array_equal(written.pixels, decoded.pixels)
    np.testing.assert_array_equal(there(written.alpha), there(decoded.alpha))
    instead, omitted = photo.notes(decoded)
    assert instead == "Written as PNG, since a GIF cannot hold a cloak."
    assert "the comment" in omitted
    assert photo.notes(decoded, "png") == (omitted,), "nobody need be told of what was asked for"
    assert photo.Encoder(decoded).exact


def test_what_a_format_cannot_hold_is_known_before_there_is_a_cloak():
    wide = Photo(np.zeros((1, 16384, 3), np.uint8), "PNG")
    assert photo.writer(wide, "keep") is formats.KINDS["PNG"].write
    with pytest.raises(PhotoError, match=r"at most 16383 pixels wide and high: choose format png\."):
        photo.writer(wide, "webp")
    clear = replace(wide, alpha=np.full((1, 16384), 254, np.uint8))
    with pytest.raises(PhotoError, match=r"partly transparent.* choose format png or webp\."):
        photo.writer(clear, "jpeg")
    assert photo.writer(replace(clear, alpha=np.full((1, 16384), 255, np.uint8)), "jpeg") is not None


def test_transparency_needs_a_format_that_holds_it():
    image = Image.fromarray(scene())
    image.putalpha(128)
    decoded = photo.read(save(image))
    with pytest.raises(PhotoError, match="transparent"):
        photo.encode(decoded, decoded.pixels, format="jpeg")
    np.testing.assert_array_equal(photo.read(photo.encode(decoded, decoded.pixels, format="webp")).alpha, decoded.alpha)
    image.putalpha(255)  # opaque after all
    decoded = photo.read(save(image))
    assert photo.read(photo.encode(decoded, decoded.pixels, format="jpeg")).format == "JPEG"


@pytest.mark.parametrize(("format", "expected"), [("keep", ""), ("jpeg", ""), ("png", ".png"), ("webp", ".webp")])
def test_suffix(format, expected):
    assert photo.suffix(photo.read(CLEAN), format) == expected


@pytest.mark.usefixtures("unchecked")
def test_arguments_that_do_not_fit():
    decoded = photo.read(CLEAN)
    grey = photo.read(save(Image.fromarray(scene()).convert("L")))
    wrong: tuple[dict[str, Any], ...] = ({"format": "gif"}, {"quality": 0}, {"quality": 101})
    for arguments in wrong:
        with pytest.raises(ValueError, match="must be"):
            photo.encode(decoded, decoded.pixels, **arguments)
    for pixels in (decoded.pixels[1:], decoded.pixels.astype(np.float32)):
        with pytest.raises(ValueError, match="pixels must be"):
            photo.encode(decoded, pixels)
    with pytest.raises(ValueError, match="grey"):
        photo.encode(grey, scene())
    by_hand = Photo(scene(), "PSD")
    for format in ("keep", "png"):
        with pytest.raises(ValueError, match=r"must be one of .*JPEG.*; it is 'PSD'"):
            photo.encode(by_hand, by_hand.pixels, format=format)


def test_a_pillow_image_that_several_threads_read_is_decoded_by_one(monkeypatch):
    data = io.BytesIO()
    Image.fromarray(scene()).save(data, "PNG")
    image, expected = Image.open(data), photo.from_array(scene()).pixels
    decode, at_work = image.load, []

    def slow():
        at_work.append(len(at_work))
        time.sleep(0.01)
        decode()
        at_work.pop()
        assert not at_work

    monkeypatch.setattr(image, "load", slow)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(photo.from_array, [image] * 4))
    assert all((one.pixels == expected).all() for one in read)
    others = [Image.open(data) for _ in range(9)]
    assert len({id(photo._lock(other)) for other in others}) > 1, "others wait for it"


def test_from_array():
    rgb = photo.from_array(scene())
    np.testing.assert_array_equal(photo.decode_pixels(photo.encode(rgb, rgb.pixels)), scene())
    grey = photo.from_array(scene()[..., 0])
    assert grey.grey
    assert photo.read(photo.encode(grey, grey.pixels)).grey
    source = Image.open(
        io.BytesIO(save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(6, thumbnail=CLEAN), icc_profile=ICC))
    )
    pillow = photo.from_array(source)
    assert (pillow.format, pillow.size) == ("JPEG", (64, 48))
    assert pillow.encoding["icc"] == ICC
    assert CLEAN[-60:-10] not in photo.encode(pillow, pillow.pixels)
    source.load()  # the caller's image is left alone
    wrong: list[Any] = [
        *(scene() / 255, scene().astype(np.uint16), scene()[None], scene()[..., :2], np.zeros((0, 4, 3), np.uint8)),
        *("a.jpg", Image.new("CMYK", (8, 8)), Image.open(io.BytesIO(frames("GIF")))),
    ]
    for value in wrong:
        with pytest.raises(PhotoError):
            photo.from_array(value)


def test_a_pillow_image_that_only_xmp_calls_turned_is_read_as_its_file():
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    data = save(scene(), "JPEG", xmp=packet, quality=95)
    file, pillow = photo.read(data), photo.from_array(Image.open(io.BytesIO(data)))
    assert file.size == pillow.size == scene().shape[1::-1]
    np.testing.assert_array_equal(file.pixels, pillow.pixels)


# --- the folder of odd files


def psnr(first, second):
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return np.inf if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.slow
@pytest.mark.skipif(not (WILD / "index.csv").exists(), reason="needs ../shared/wild, which is not part of the project")
def test_wild_files():
    rows = list(csv.DictReader((WILD / "index.csv").read_text().splitlines()))
    read = 0
    for row in rows:
        try:
            decoded = photo.read(WILD / row["path"])
        except PhotoError as error:
            unkeepable = row["mode"] in ("1", "CMYK", "LAB", "I;16", "F") or row["frames"] not in ("", "1")
            if unkeepable or row["error"] or "8 bits" in str(error):
                continue
            raise
        written = photo.encode(decoded, decoded.pixels)
        if decoded.format == "GIF":
            continue
        read += 1
        again = photo.read(written)
        name = row["path"]
        assert (again.format, again.grey, again.size) == (decoded.format, decoded.grey, decoded.size), name
        if decoded.format in ("PNG", "TIFF", "BMP", "PPM"):
            np.testing.assert_array_equal(again.pixels, decoded.pixels, err_msg=name)
            assert decoded.alpha is None or np.array_equal(there(again.alpha), decoded.alpha), name
        else:
            # One that Pillow alone refuses lacks an end marker, and is a picture of 100 x 100 dots of pure colours.
            assert psnr(again.pixels, decoded.pixels) > (25 if row["error"] else 39), name
        for key in ("icc", "xmp", "photoshop", "comment", "density"):
            assert again.encoding.get(key, (0, 1, 1)) == decoded.encoding.get(key, (0, 1, 1)), (name, key)
        before, after = (metadata_of(item) for item in (decoded, again))
        assert {k: v for k, v in before.items() if k != (0x0112,)} == {
            k: v for k, v in after.items() if k != (0x0112,)
        }, name
        assert decoded.format != "JPEG" or written.count(b"\xff\xd8\xff") == 1, name
    assert read > 200


def metadata_of(item):
    exif = item.encoding.get("exif")
    return flat(metadata.to_order(exif.tags, exif.order, "<")) if exif else {}


def test_formats_have_names_and_options_of_their_own() -> None:
    suffixes = [suffix for kind in formats.KINDS.values() for suffix in kind.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert [kind.name for kind in formats.KINDS.values() if kind.write is None] == ["GIF"], "which is written as PNG"
    assert set(get_args(Format)) == {"keep", *formats.OPTIONS}
    assert all(kind.write for kind in formats.OPTIONS.values())
