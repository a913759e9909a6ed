"""Blocks of metadata with a payload in one place each: EXIF, XMP, ICC, Photoshop and IPTC."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import ImageCms

_IFD0 = (
    0x10D,
    0x10E,
    0x10F,
    0x110,
    0x131,
    0x13B,
    0x13C,
    0x2BC,
    0x8298,
    0x83BB,
    0x8649,
    0x8773,
    0x9C9B,
    0x9C9C,
    0x9C9D,
    0x9C9E,
    0x9C9F,
    0xC4A5,
    0xC634,
    0xC68B,
    0xC71B,
    0xEA1C,
    0xFDE8,
    0x0100,
    0x0111,
    0x0115,
    0x015B,
    0x0142,
    0x0112,
    0x011A,
    0x0128,
    0x0132,
    0x013E,
    0x0211,
    0x0213,
    0x0214,
)
_EXIF = (
    0x829A,
    0x8822,
    0x8824,
    0x8828,
    0x8830,
    0x9000,
    0x9003,
    0x9010,
    0x9101,
    0x9204,
    0x9214,
    0x927C,
    0x9286,
    0x9290,
    0xA000,
    0xA001,
    0xA002,
    0xA004,
    0xA20B,
    0xA20C,
    0xA214,
    0xA300,
    0xA301,
    0xA302,
    0xA40B,
    0xA420,
    0xA430,
    0xA431,
    0xA432,
    0xA433,
    0xA434,
    0xA435,
    0xA460,
    0xA461,
    0xA462,
    0xA500,
    0xFDE9,
)
_GPS = (0x0, 0x1, 0x2, 0x7, 0x8, 0x12, 0x1B, 0x1C, 0x1D, 0x1E, 0x55)
TIFF_TAGS = (
    0x10D,
    0x10E,
    0x10F,
    0x110,
    0x131,
    0x13B,
    0x8298,
    0x83BB,
    0x9C9B,
    0xC4A5,
    0xC634,
    0xEA1C,
    0xFDE8,
    0x15B,
    0x142,
    0x8769,
)
_INTEROP = (0x1, 0x2, 0x1000, 0x1001)
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8, 12: 8}


def exif(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, block) for every tag of every directory, the space between and behind them, and the thumbnail."""
    for name, tags in (("ifd0", _IFD0), ("exif", _EXIF), ("gps", _GPS), ("interop", _INTEROP)):
        for tag in tags:
            kinds = (7, 2) if tag in (0x927C, 0x9286, 0x10E, 0x9C9C, 0xFDE8) else ((7, 2, 3, 5)[tag % 4],)
            for kind in kinds:
                yield f"exif {name} {tag:04x} as {kind}", _tree({name: [(tag, kind, payload)]})
    for prefix in (b"ASCII\0\0\0", b"UNICODE\0", bytes(8)):
        yield f"exif comment {prefix!r}", _tree({"exif": [(0x9286, 7, prefix + payload)]})
    for maker in (
        b"Nikon\0\2\x10\0\0II*\0\x08\0\0\0",
        b"Apple iOS\0\0\1MM\0\1",
        b"SONY DSC \0\0\0",
        b"\1\0\1\0\7\0",
        b"Panasonic\0\0\0",
    ):
        yield f"exif maker note {maker[:5]!r}", _tree({"exif": [(0x927C, 7, maker + payload)]})
    yield "exif big-endian maker note", _tree({"exif": [(0x927C, 7, payload)]}, ">")
    yield "exif behind", _tree({"ifd0": [(0x10F, 2, b"Maker\0")]}) + payload
    yield "exif before", _tree({"ifd0": [(0x10F, 2, b"Maker\0")]}, gap=payload)
    size = struct.pack("<I", len(payload))
    yield (
        "exif thumbnail",
        _tree({"ifd1": [(0x103, 3, b"\6\0"), (0x201, 4, b"TNMB"), (0x202, 4, size)]}, thumbnail=payload),
    )
    yield "exif 300 tags", _tree({"exif": [(0xB000 + n, 7, payload[n * 20 : n * 20 + 20]) for n in range(300)]})


def _tree(
    directories: dict[str, list[tuple[int, int, bytes]]], order: str = "<", gap: bytes = b"", thumbnail: bytes = b""
) -> bytes:
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(gap)) + gap)
    ifd0 = list(directories.get("ifd0", []))
    if all(tag != 0x131 for tag, _, _ in ifd0):
        ifd0.append((0x0131, 2, b"Maker 1.0\0"))
    inner = {"exif": 0x8769, "gps": 0x8825}
    exif_tags = list(directories.get("exif", [])) + ([(0xA005, 4, b"INTR")] if "interop" in directories else [])
    groups = {"exif": exif_tags, "gps": directories.get("gps", [])}
    ifd0 += [(inner[name], 4, name.encode().ljust(4)) for name, tags in groups.items() if tags]
    places: dict[bytes, int] = {}
    later: list[tuple[int, bytes]] = []

    def directory(tags: list[tuple[int, int, bytes]], follows: bool) -> int:
        start = len(out)
        rows = bytearray(struct.pack(f"{order}H", len(tags)))
        values = bytearray()
        after = start + 2 + 12 * len(tags) + 4
        for tag, kind, value in sorted(tags):
            count = max(1, len(value) // _WIDTHS[kind])
            if value in (b"exif", b"gps ", b"INTR", b"TNMB"):
                later.append((start + len(rows) + 8, value))
                field = bytes(4)
            elif len(value) > 4:
                field = struct.pack(f"{order}I", after + len(values))
                values += value + bytes(len(value) & 1)
            else:
                field = value.ljust(4, b"\0")
            rows += struct.pack(f"{order}HHI", tag, kind, count) + field
        if follows:
            later.append((start + len(rows), b"ifd1"))
        out.extend(rows + bytes(4) + values)
        return start

    directory(ifd0, "ifd1" in directories)
    for name, mark in (("exif", b"exif"), ("gps", b"gps ")):
        if groups[name]:
            places[mark] = directory(list(groups[name]), False)
    if "interop" in directories:
        places[b"INTR"] = directory(directories["interop"], False)
    if "ifd1" in directories:
        places[b"ifd1"] = directory(directories["ifd1"], False)
    places[b"TNMB"] = len(out)
    out.extend(thumbnail)
    for at, mark in later:
        struct.pack_into(f"{order}I", out, at, places[mark])
    return bytes(out)


def xmp(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, packet): values, attributes, comments, padding, unknown namespaces."""
    texts = {
        "element": b"<dc:description><rdf:Alt><rdf:li>%s</rdf:li></rdf:Alt></dc:description>",
        "unknown": b'<my:blob xmlns:my="http://example.org/my/">%s</my:blob>',
        "thumbnail": b"<xmp:Thumbnails><rdf:Alt><rdf:li xmpGImg:image='%s'/></rdf:Alt></xmp:Thumbnails>",
        "cdata": b"<dc:title><![CDATA[%s]]></dc:title>",
        "comment": b"<!-- %s -->",
        "instruction": b"<?my %s?>",
        "nested": b"<my:a><my:b><my:c>%s</my:c></my:b></my:a>",
    }
    head = b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    head += b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns'
    head += (
        b'.adobe.com/xap/1.0/" xmlns:xmpGImg="http://ns.adobe.com/xap/1.0/g/img/" xmlns:my="http://example.org/my/">'
    )
    tail = b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    for name, text in texts.items():
        body = text.replace(b"%s", payload)
        yield (
            f"xmp {name}",
            head + b'<rdf:Description rdf:about="" xmp:Rating="5">' + body + b"</rdf:Description>" + tail,
        )
    for name in (b"xmp:Label", b"my:data", b"dc:source", b"xmlns:zz", b"rdf:about", b"xmpMM:DocumentID", b"crs:Look"):
        yield f"xmp {name.decode()}", head + b"<rdf:Description " + name + b'="' + payload + b'"/>' + tail
    yield "xmp behind", head + tail + payload
    yield "xmp padding", head + tail.replace(b"<?xpacket", payload + b"<?xpacket")
    yield "xmp alone", payload
    items = b"".join(b"<rdf:li>" + payload[n : n + 60] + b"</rdf:li>" for n in range(0, len(payload), 60))
    yield (
        "xmp list",
        head + b"<rdf:Description><dc:subject><rdf:Bag>" + items + b"</rdf:Bag></dc:subject></rdf:Description>" + tail,
    )


def icc(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, profile): tags of a sound sRGB profile replaced or added, the space behind, or no profile at all."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (count,) = struct.unpack_from(">I", plain, 128)
    tags = []
    for n in range(count):
        name, offset, size = struct.unpack_from(">4sII", plain, 132 + 12 * n)
        tags.append((name, plain[offset : offset + size]))

    def made(changed: list[tuple[bytes, bytes]], behind: bytes = b"") -> bytes:
        at, rows, body = 132 + 12 * len(changed), b"", b""
        for name, value in changed:
            rows += struct.pack(">4sII", name, at + len(body), len(value))
            body += value + bytes(-len(value) % 4)
        out = bytearray(plain[:128] + struct.pack(">I", len(changed)) + rows + body + behind)
        struct.pack_into(">I", out, 0, len(out) - len(behind))
        return bytes(out)

    for name in (
        b"desc",
        b"cprt",
        b"prv0",
        b"meta",
        b"targ",
        b"A2B0",
        b"gamt",
        b"vcgt",
        b"rTRC",
        b"wtpt",
        b"chad",
        b"dmnd",
    ):
        rest_of_tags = [tag for tag in tags if tag[0] != name]
        for kind in (b"text", b"data", b"mluc", b"curv") if name in (b"cprt", b"prv0", b"rTRC") else (b"text",):
            yield f"icc {name.decode()} {kind.decode()}", made([*rest_of_tags, (name, kind + bytes(4) + payload)])
        yield f"icc {name.decode()} bare", made([*rest_of_tags, (name, payload)])
    yield "icc behind", made(tags, payload)
    yield "icc not a profile", payload
    yield "icc header and no tags", plain[:128] + bytes(4) + payload


def photoshop(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(place, block): every resource, and every IPTC record."""

    def resource(code: int, body: bytes, name: bytes = b"\0\0") -> bytes:
        return b"8BIM" + struct.pack(">H", code) + name + struct.pack(">I", len(body)) + body + bytes(len(body) & 1)

    def record(section: int, number: int, body: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, section, number, len(body)) + body

    for code in (
        0x3ED,
        0x3F3,
        0x404,
        0x409,
        0x40A,
        0x40B,
        0x40C,
        0x40F,
        0x414,
        0x422,
        0x424,
        0x425,
        0x426,
        0x1000,
        0x7D0,
    ):
        yield f"photoshop {code:x}", resource(code, payload)
    for section, number in (
        (1, 90),
        (2, 5),
        (2, 25),
        (2, 105),
        (2, 120),
        (2, 200),
        (2, 201),
        (2, 202),
        (2, 240),
        (6, 1),
        (8, 10),
    ):
        yield f"iptc {section}:{number}", resource(0x404, record(2, 0, b"\0\2") + record(section, number, payload))
    short = b"".join(record(2, 25, payload[n : n + 60]) for n in range(0, len(payload), 60))
    yield "iptc many keywords", resource(0x404, short)
    yield "iptc behind", resource(0x404, record(2, 120, b"caption") + payload)
    yield "photoshop behind", resource(0x404, record(2, 120, b"caption")) + payload
    yield (
        "photoshop names",
        b"".join(
            resource(0x404, record(2, 120, b"x"), bytes([200]) + payload[n : n + 200].ljust(201, b"\0"))
            for n in (0, 200, 400)
        ),
    )


KINDS = {"exif": exif, "xmp": xmp, "icc": icc, "photoshop": photoshop}


def profile() -> bytes:
    """A sound ICC profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
