"""What of a file's metadata stays, what goes, and that the row can name it: `Photo.notes` and `photo.notes`."""

import base64
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_photo import HIDING_PLACES, ICC, camera_exif, resource, save, scene, with_chunks, with_segments
from there import there

from engine import photo
from engine.photo import containers, metadata
from engine.photo.icc import clean_icc
from engine.photo.xmp import clean_xmp

ADOBE = b"http://ns.adobe.com/xap/1.0/\0"
# A preview in the forms in which programs hide one without its first bytes telling.
FORMS = {
    "raw": scene(40, 40, seed=5).tobytes(),
    "wrong first byte": b"\0" + save(scene(64, 64, seed=5), "JPEG")[1:],
    "deflated": zlib.compress(save(scene(64, 64, seed=5), "JPEG")),
    "GIF": save(Image.fromarray(scene(48, 48, seed=5)).quantize(64), "GIF"),
    "base64": base64.b64encode(b"\0" + save(scene(64, 64, seed=5), "JPEG")[1:]),
    "hexadecimal": (b"\0" + save(scene(64, 64, seed=5), "JPEG")[1:]).hex().encode(),
}


def packet(properties=b"", attributes=b""):
    return (
        b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
        b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about=''"
        b" xmlns:dc='http://purl.org/dc/elements/1.1/' xmlns:xmp='http://ns.adobe.com/xap/1.0/'"
        b" xmlns:crs='http://ns.adobe.com/camera-raw-settings/1.0/' xmlns:my='http://example.org/my/'"
        b" xmlns:mwg-rs='http://www.metadataworkinggroup.com/schemas/regions/'"
        b" xmlns:GCamera='http://ns.google.com/photos/1.0/camera/' xmlns:hdrgm='http://ns.adobe.com/hdr-gain-map/1.0/'"
        b" xmlns:xmpGImg='http://ns.adobe.com/xap/1.0/g/img/' xmp:Rating='5'" + attributes + b">"
        b"<dc:title><rdf:Alt><rdf:li xml:lang='x-default'>At the beach</rdf:li></rdf:Alt></dc:title>"
        b"<dc:subject><rdf:Bag><rdf:li>family</rdf:li></rdf:Bag></dc:subject>" + properties + b"</rdf:Description>"
        b"</rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
    )


REGIONS = b"<mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:Name>Me</mwg-rs:Name></mwg-rs:Regions>"


def iptc(record, number, value):
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


def exif_of(tags):
    body, where = metadata.write_directory(tags, ">", 8)
    return b"MM\0*" + struct.pack(">I", where) + body


def blob(tag, value, kind=7, directory=0x8769):
    entry = {tag: metadata.Entry(kind, len(value), value)}
    return (0xE1, b"Exif\0\0" + exif_of({directory: entry} if directory else entry))


def profile_with(name, data):
    """The sRGB profile with one more tag."""
    (count,) = struct.unpack_from(">I", ICC, 128)
    rows = [struct.unpack_from(">4sII", ICC, 132 + 12 * n) for n in range(count)]
    table = b"".join(struct.pack(">4sII", tag, start + 12, size) for tag, start, size in rows)
    table += struct.pack(">4sII", name, len(ICC) + 12, len(data))
    rest = ICC[4:128] + struct.pack(">I", count + 1) + table + ICC[132 + 12 * count :] + data
    return struct.pack(">I", len(rest) + 4) + rest


def places(form):
    """A file for every place that holds bytes of anybody's choosing."""
    jpeg, png = save(scene(), "JPEG"), save(scene())
    text = form.decode("latin-1").encode("ascii", "xmlcharrefreplace").replace(b"<", b"&lt;")
    for tag in (0x927C, 0x9286, 0xFE00, 0xA302, 0xA40B, 0x8828, 0xC4A5, 0x5041):
        yield f"EXIF {tag:x}", with_segments(jpeg, blob(tag, form))
    for tag in (0x010E, 0x0131, 0x8298, 0x9C9B):
        yield f"EXIF text {tag:x}", with_segments(jpeg, blob(tag, form, 2, None))
    yield "GPS", with_segments(jpeg, blob(0x1B, form, 7, 0x8825))
    for marker in range(0xE0, 0xF0):
        yield f"APP{marker - 0xE0}", with_segments(jpeg, (marker, b"Maker\0" + form))
    yield "Adobe's tail", with_segments(jpeg, (0xEE, b"Adobe\0d\0\0\0\0\1" + form))
    yield "comment", with_segments(jpeg, (0xFE, form))
    yield "behind", jpeg + form
    for name, block in {
        "caption": resource(0x0404, iptc(2, 120, form)),
        "IPTC preview": resource(0x0404, iptc(2, 202, form)),
        "raster caption": resource(0x0404, iptc(2, 125, form)),
        "resolution": resource(0x03ED, form),
        "address": resource(0x040B, form),
        "flag": resource(0x040A, form),
        "tail": resource(0x040A, b"\0") + form,
    }.items():
        yield f"Photoshop {name}", with_segments(jpeg, (0xED, b"Photoshop 3.0\0" + block))
    for kind in (
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"tIME",
        b"sBIT",
        b"cICP",
        b"mDCV",
        b"cLLI",
        b"pHYs",
        b"bKGD",
        b"prVt",
        b"iCCP",
    ):
        yield f"PNG {kind}", with_chunks(png, (kind, form))
    yield "PNG tIME with a tail", with_chunks(png, (b"tIME", b"\7\xe8\1\1\1\1\1" + form))
    yield "PNG gAMA with a tail", with_chunks(png, (b"gAMA", struct.pack(">I", 45455) + form))
    yield "PNG tEXt", with_chunks(png, (b"tEXt", b"Comment\0" + form))
    yield "PNG tEXt without NUL", with_chunks(png, (b"tEXt", form.replace(b"\0", b"\1")))
    yield "PNG zTXt", with_chunks(png, (b"zTXt", b"Comment\0\0" + zlib.compress(form)))
    yield "PNG zTXt with a tail", with_chunks(png, (b"zTXt", b"Comment\0\0" + zlib.compress(b"hi") + form))
    yield "PNG iTXt", with_chunks(png, (b"iTXt", b"Comment\0\0\0\0\0" + form))
    yield (
        "PNG translated keyword",
        with_chunks(png, (b"iTXt", b"Comment\0\0\0\0" + form.replace(b"\0", b"\1") + b"\0hi")),
    )
    yield "PNG language", with_chunks(png, (b"iTXt", b"Comment\0\0\0" + form.replace(b"\0", b"\1") + b"\0\0hi"))
    yield "behind a PNG", png + form
    for name, kind in (
        (b"priv", b"data"),
        (b"desc", b"text"),
        (b"A2B0", b"mft2"),
        (b"targ", b"text"),
        (b"tech", b"sig "),
    ):
        profile = profile_with(name, kind + bytes(4) + form)
        yield f"JPEG profile {name}", with_segments(jpeg, (0xE2, b"ICC_PROFILE\0\1\1" + profile))
        yield f"PNG profile {name}", with_chunks(png, (b"iCCP", b"x\0\0" + zlib.compress(profile)))
        yield f"WebP profile {name}", save(scene(), "WEBP", icc_profile=profile)
    yield "no profile", with_chunks(png, (b"iCCP", b"x\0\0" + zlib.compress(form)))
    yield "behind the profile", with_chunks(png, (b"iCCP", b"x\0\0" + zlib.compress(ICC) + form))
    for name, body in {
        "property": packet(b"<my:face>" + text + b"</my:face>"),
        "title": packet(b"<dc:description>" + text + b"</dc:description>"),
        "attribute": packet(attributes=b" dc:format='" + text.replace(b"'", b"&apos;") + b"'"),
        "tail": packet() + form,
    }.items():
        if len(body) < 65000:
            yield f"XMP {name}", with_segments(jpeg, (0xE1, ADOBE + body))
    webp = save(scene(), "WEBP")
    chunk = b"FACE" + struct.pack("<I", len(form)) + form + bytes(len(form) & 1)
    yield "WebP chunk", webp[:4] + struct.pack("<I", len(webp) - 8 + len(chunk)) + webp[8:] + chunk
    tiff = save(scene(), "TIFF")
    for tag in (0x010E, 0x83BB, 0x8649, 0x8773, 0x02BC, 0xFE00, 0x87AF, 0xA480):
        entry = metadata.Entry(2 if tag in (0x010E, 0xA480) else 7, len(form), form)
        yield f"TIFF {tag:x}", containers.tiff_with(tiff, {**containers.tiff_parts(tiff).tags, tag: entry})


def inflated(data):
    """The file, and all that is packed in its chunks."""
    contents = [data]
    if data.startswith(containers.PNG_MAGIC):
        for kind, body in containers.png_chunks(data):
            start = bytes(body).find(b"\x78")
            if kind in (b"zTXt", b"iTXt", b"iCCP") and start >= 0:
                contents.append(zlib.decompressobj().decompress(bytes(body)[start:]))
    return b"".join(contents)


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_hides_nowhere_in_any_form(form):
    value = FORMS[form]
    same = save(scene(), "JPEG")  # the tables of any two JPEGs are the same
    pieces = [piece for at in range(64, len(value) - 16, 16) if (piece := value[at : at + 16]) not in same]
    for place, data in places(value):
        decoded = photo.read(data)
        written = inflated(photo.encode(decoded, np.full_like(decoded.pixels, 128)))
        surviving = sum(piece in written for piece in pieces if len(set(piece)) > 4)
        assert surviving <= 0.15 * len(pieces), (place, surviving, len(pieces))


@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("properties", "gone", "always"),
    [
        (REGIONS, b"mwg-rs:Name", False),
        (b"<crs:CropLeft>0.1</crs:CropLeft>", b"crs:CropLeft", False),
        (b"<hdrgm:Version>1.0</hdrgm:Version>", b"hdrgm:Version", True),
        (b"<GCamera:MicroVideo>1</GCamera:MicroVideo>", b"GCamera:MicroVideo", True),
        (b"<xmp:Thumbnails><xmpGImg:image>abc</xmpGImg:image></xmp:Thumbnails>", b"xmpGImg:image", True),
    ],
)
def test_xmp_loses_a_property_and_not_the_packet(orientation, properties, gone, always):
    body = packet(properties, b" crs:Exposure2012='+0.50' crs:Version='15.0'")
    segments = [(0xE1, b"Exif\0\0" + camera_exif(orientation)), (0xE1, ADOBE + body)]
    decoded = photo.read(with_segments(save(scene(), "JPEG"), *segments))
    written = photo.encode(decoded, decoded.pixels)
    for piece in (b'xmp:Rating="5"', b"At the beach", b"family", b'crs:Exposure2012="+0.50"'):
        assert piece in written
    lost = always or orientation != 1
    assert (gone in written) != lost
    assert (f"XMP {properties[1:].split()[0].split(b'>')[0].decode()} (" in " ".join(photo.notes(decoded))) == lost


def test_other_prefixes_are_seen_through():
    body = packet(b"<z:Regions xmlns:z='http://www.metadataworkinggroup.com/schemas/regions/'/>")
    assert b"z:Regions" in there(clean_xmp(body, 1).packet)
    cleaned = clean_xmp(body, 6)
    assert b"z:Regions" not in there(cleaned.packet)
    assert "mwg-rs:Regions" in cleaned.omitted[0]


def test_sizes_in_xmp_turn_with_the_picture():
    body = packet(
        attributes=b" xmlns:exif='http://ns.adobe.com/exif/1.0/' exif:PixelXDimension='64' exif:PixelYDimension='48'"
    )
    assert b'exif:PixelXDimension="64"' in there(clean_xmp(body, 3).packet)
    assert b'exif:PixelYDimension="64"' in there(clean_xmp(body, 6).packet)


@pytest.mark.parametrize(
    "body",
    [b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 64000, b"<a " * 20000, b"<?" + b"?" * 60000,
     b"<!--" + b"-" * 60000,
     b"<x:xmpmeta xmlns:x='a'>" + b"<b>" * 9000, packet(b"<dc:a>" + b" " * 60000 + b"</dc:a>"),
     packet(attributes=b"".join(b" dc:a%d='1'" % n for n in range(3000)))],
)  # fmt: skip
def test_xmp_costs_milliseconds_whatever_it_holds(body):
    start = time.process_time()
    clean_xmp(body, 6)
    assert time.process_time() - start < 1


def test_entities_are_not_expanded():
    bomb = b"<!DOCTYPE a [<!ENTITY b 'face'>]><x:xmpmeta xmlns:x='adobe:ns:meta/'>&b;</x:xmpmeta>"
    cleaned = clean_xmp(bomb, 1)
    assert cleaned.packet is None
    assert "entities" in cleaned.omitted[0]


def test_long_texts_of_people_are_kept_and_those_too_long_for_a_format_are_named():
    story = b'{"prompt": "a portrait of a woman at the beach, soft light", "steps": 20}\n' * 700
    large = packet(b"<dc:description>" + b"a walk at the beach in the evening. " * 2500 + b"</dc:description>")
    chunks = [(b"tEXt", b"parameters\0" + story), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + large)]
    decoded = photo.read(with_chunks(save(scene()), *chunks))
    assert not photo.notes(decoded)
    written = photo.encode(decoded, decoded.pixels)
    assert story in written
    xmp = photo.read(written).encoding["xmp"]
    assert isinstance(xmp, bytes)
    assert xmp.count(b"evening") == 2500
    as_jpeg = photo.encode(decoded, decoded.pixels, format="jpeg")
    assert b"At the beach" in as_jpeg
    assert b"evening" not in as_jpeg
    named = " ".join(photo.notes(decoded, "jpeg"))
    assert "dc:description" in named
    assert "tEXt" in named


@pytest.mark.parametrize("format", ["png", "webp"])
def test_what_a_format_has_no_place_for_is_named(format):
    block = resource(0x0404, iptc(2, 120, b"At the beach") + iptc(2, 25, b"family"))
    decoded = photo.read(with_segments(save(scene(), "JPEG"), (0xED, b"Photoshop 3.0\0" + block), (0xFE, b"hello")))
    assert photo.notes(decoded) == ()
    assert b"At the beach" in photo.encode(decoded, decoded.pixels)
    named = " ".join(photo.notes(decoded, format))
    assert "IPTC" in named
    assert "comment" in named


def utf16(text):
    return text.encode("utf-16-le")


def test_prose_of_ordinary_length_is_kept_wherever_it_stands():
    story = "We walked along the beach at Brighton on 3 May 2019, Anna in front. Grüße aus München! " * 40
    assert 3000 < len(story) < 8000
    exif = {
        0x010E: metadata.Entry(2, len(story.encode()) + 1, story.encode() + b"\0"),
        0x9C9C: metadata.Entry(1, 2 * len(story), utf16(story)),
        0x8769: {0x9286: metadata.Entry(7, 2 * len(story) + 8, b"UNICODE\0" + story.encode("utf-16-be"))},
    }
    caption = resource(0x0404, iptc(2, 120, story.encode()) + b"".join(iptc(2, 25, b"beach %d" % n) for n in range(40)))
    xmp = packet(b"<dc:description><rdf:Alt><rdf:li>" + story.encode() + b"</rdf:li></rdf:Alt></dc:description>")
    blocks = [(0xE1, b"Exif\0\0" + exif_of(exif)), (0xE1, ADOBE + xmp), (0xED, b"Photoshop 3.0\0" + caption)]
    short = "在海边散步的照片" * 9  # 216 bytes without a blank
    comments = [(0xFE, story.encode()) for _ in range(3)] + [(0xFE, short.encode()) for _ in range(5)]
    decoded = photo.read(with_segments(save(scene(), "JPEG"), *blocks, *comments))
    assert photo.notes(decoded) == ()
    assert photo.encode(decoded, decoded.pixels).count(story.encode()) == 6
    texts = [(b"tEXt", b"Comment\0" + story.encode("latin-1")), (b"iTXt", b"Description\0\0\0\0\0" + story.encode())]
    decoded = photo.read(with_chunks(save(scene()), *texts))
    assert photo.notes(decoded) == ()
    assert photo.encode(decoded, decoded.pixels).count(story.encode()) == 1


@pytest.mark.parametrize("size", [20, 60, 120, 230])
def test_many_small_values_together_hold_no_more_than_one(size):
    data = np.random.default_rng(0).integers(0, 256, 40_000, np.uint8).tobytes()
    form = base64.b85encode(data)

    def pieces(number):
        return [form[size * n : size * n + size] for n in range(number * 30, number * 30 + 30)]

    entries = {0xB000 + n: metadata.Entry(7, len(value), value) for n, value in enumerate(pieces(0))}
    texts = {
        tag: metadata.Entry(2, size + 1, value + b"\0")
        for tag, value in zip((0x10E, 0x131, 0x13B), pieces(1), strict=False)
    }
    values = b"".join(iptc(2, 25, value) for value in pieces(2))
    blocks = [
        (0xE1, b"Exif\0\0" + exif_of(texts | {0x8769: entries})),
        (0xED, b"Photoshop 3.0\0" + resource(0x404, values)),
    ]
    jpeg = with_segments(save(scene(), "JPEG"), *blocks, *((0xFE, value) for value in pieces(3)))
    png = with_chunks(save(scene()), *((b"tEXt", b"Comment\0" + value) for value in pieces(4)))
    for file in (jpeg, png):
        decoded = photo.read(file)
        written = photo.encode(decoded, decoded.pixels)
        there = [form[n : n + 10] for n in range(0, len(form), 10)]
        assert sum(piece in written for piece in there) * 10 < 300
        assert "Left out" in photo.notes(decoded)[0]


def test_all_comments_stay():
    decoded = photo.read(with_segments(save(scene(), "JPEG"), (0xFE, b"one"), (0xFE, "zwei äö".encode("latin-1"))))
    segments = containers.jpeg_parts(photo.encode(decoded, decoded.pixels)).segments
    assert [body for marker, body in segments if marker == 0xFE] == [b"one", b"zwei \xe4\xf6"]


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_what_goes_is_named(place):
    decoded = photo.read(HIDING_PLACES[place])
    # Bytes that nothing points to have no name, and Pillow's AVIF writer left the thumbnail out before us.
    assert bool(decoded.notes) == (place not in ("gap in the EXIF", "JFIF", "AVIF"))
    assert all(note.startswith("Left out of the file: ") and note.endswith(".") for note in decoded.notes)


def test_a_profile_of_known_tags_stays_as_it_is():
    assert clean_icc(ICC) == ICC
    odd = profile_with(b"priv", b"data" + bytes(4) + b"secret" * 40)
    cleaned = there(clean_icc(odd))
    assert b"secret" not in cleaned
    assert clean_icc(cleaned) == cleaned
    assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(cleaned))).startswith("sRGB")
    for broken in (ICC[:200], b"\0" * 300, odd[:128] + b"\xff" * 200, ICC[:36] + b"face" + ICC[40:]):
        assert clean_icc(broken) is None


def test_a_maker_note_keeps_its_small_values_where_they_were():
    short = struct.pack("<HHII", 1, 3, 1, 7)
    preview, lens = FORMS["wrong first byte"], b"EF85mm f/1.2L USM\0"
    table = struct.pack("<H", 3) + short
    table += struct.pack("<HHII", 2, 7, len(preview), 60) + struct.pack("<HHII", 3, 2, len(lens), 60 + len(preview))
    note = b"MAKER\0\0\0" + table + bytes(60 - 8 - len(table)) + preview + lens
    decoded = photo.read(save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(note=note)))
    written = photo.encode(decoded, decoded.pixels)
    assert preview[-120:-60] not in written
    assert short in written
    assert lens in written
    assert "maker note" in " ".join(decoded.notes)


def test_a_face_cut_up_over_a_maker_note_does_not_stay():
    face = np.random.default_rng(0).integers(1, 256, 24 * 128, np.uint8).tobytes()  # 32 x 32 pixels in colour
    table = b"".join(struct.pack("<HHII", tag + 1, 7, 128, 300 + 128 * tag) for tag in range(24))
    note = b"MAKER\0\0\0" + struct.pack("<H", 24) + table + bytes(300 - 10 - len(table)) + face
    decoded = photo.read(save(scene(), "JPEG", exif=b"Exif\0\0" + camera_exif(note=note)))
    written = photo.encode(decoded, decoded.pixels)
    kept = [face[at : at + 128] in written for at in range(0, len(face), 128)]
    assert 128 * sum(kept) < 1024
    assert kept[0], "small values stay, as in any camera's note"
    assert "maker note" in " ".join(decoded.notes)
