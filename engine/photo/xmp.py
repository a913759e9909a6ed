"""XMP packets: parsed, cleaned property by property, and written anew.

Left out are properties that hold or announce another picture (thumbnails, depth and gain maps, motion photos). So are
values that are not text, and once the photo was turned, properties that point at places in the picture. The rest of the
packet stays: rating, title, keywords, history. Everything takes time linear in the packet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape

from engine.photo.prose import MAX_DENSE as MAX_VALUE
from engine.photo.prose import dense, holds_picture, plain

MAX_PACKET = 4 << 20
MAX_DENSE = 1024
"""Bytes of encoded-looking text that a packet may have, identifiers of documents not counted."""
_MAX_DEPTH, _MAX_ELEMENTS = 48, 50_000
_UNKNOWN_EACH, _UNKNOWN_ALL = 1024, 4096

_HEAD = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_TAIL = b'\n<?xpacket end="w"?>'
_WRAPPERS = {"x:xmpmeta", "x:xapmeta", "rdf:RDF", "rdf:Description"}
_IDENTIFIER = re.compile(rb"(?:xmp\.[id]id:|uuid:|adobe:docid:photoshop:)[0-9A-Fa-f-]{32,36}")

# Schemas whose properties are text and numbers about the photo.
_KNOWN = frozenset(
    [
        "dc",
        "xmp",
        "xap",
        "xmpRights",
        "xapRights",
        "xmpMM",
        "xapMM",
        "xmpBJ",
        "xmpTPg",
        "xmpDM",
        "xmpG",
        "photoshop",
        "Iptc4xmpCore",
        "Iptc4xmpExt",
        "exif",
        "exifEX",
        "tiff",
        "aux",
        "lr",
        "crs",
        "crd",
        "crss",
        "mwg-rs",
        "mwg-kw",
        "mwg-coll",
        "MP",
        "MPRI",
        "MPReg",
        "MicrosoftPhoto",
        "digiKam",
        "acdsee",
        "acdsee-rs",
        "mediapro",
        "expressionmedia",
        "photomech",
        "photomechanic",
        "plus",
        "cc",
        "pdf",
        "pdfx",
        "GPano",
        "drone-dji",
        "Camera",
        "darktable",
        "lightroom",
        "ics",
        "prl",
        "xmpPLUS",
        "DICOM",
        "extensis",
        "apple-fi",
        "aas",
        "x",
        "rdf",
        "xml",
        "xmlns",
        "stArea",
        "stDim",
        "stEvt",
        "stRef",
    ]
)
_URIS = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/g/img/": "xmpGImg",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://ns.adobe.com/xmp/note/": "xmpNote",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/camera-raw-settings/1.0/": "crs",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/exif/1.0/aux/": "aux",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/lightroom/1.0/": "lr",
    "http://ns.adobe.com/hdr-gain-map/1.0/": "hdrgm",
    "http://ns.apple.com/HDRGainMap/1.0/": "HDRGainMap",
    "http://ns.apple.com/pixeldatainfo/1.0/": "apdi",
    "http://ns.apple.com/faceinfo/1.0/": "apple-fi",
    "http://www.metadataworkinggroup.com/schemas/regions/": "mwg-rs",
    "http://ns.microsoft.com/photo/1.2/": "MP",
    "http://ns.microsoft.com/photo/1.2/t/RegionInfo#": "MPRI",
    "http://ns.acdsee.com/regions/": "acdsee-rs",
    "http://ns.google.com/photos/1.0/panorama/": "GPano",
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#": "rdf",
    "adobe:ns:meta/": "x",
}
_PICTURE_SCHEMAS = frozenset(
    [
        "xmpGImg",
        "xapGImg",
        "hdrgm",
        "HDRGainMap",
        "hdrgainmap",
        "apdi",
        "GCamera",
        "GContainer",
        "Container",
        "Item",
        "GImage",
        "GDepth",
        "GAudio",
        "GCreations",
        "Device",
        "Profile",
        "Camera3D",
        "xmpNote",
        "OpCamera",
        "MiCamera",
    ]
)
_PICTURE_WORDS = re.compile(
    r"thumbnail|preview|imagedata|gainmap|gain-map|depthmap|depthdata|auxiliaryimage|embeddedimage|microvideo|"
    r"motionphoto|bitmap|rasteri[sz]ed",
    re.IGNORECASE,
)
_PLACES = re.compile(
    r"mwg-rs:|MP:RegionInfo|MPRI:|acdsee-rs:|apple-fi:|Iptc4xmpExt:ImageRegion|aux:SubjectArea|exif:Subject(Area|Location)"
    r"|GPano:(Cropped|FullPano|Largest)"
    r"|crs:(Crop|HasCrop|Retouch|RedEye|PaintBased|GradientBased|CircularGradient|MaskGroup|Perspective|Upright)|crss?:.*Mask"
)
_SWAPPED = {"exif:PixelXDimension": "PixelYDimension", "tiff:ImageWidth": "ImageLength"}
_SWAPPED |= {f"{name.split(':')[0]}:{local}": name.split(":")[1] for name, local in _SWAPPED.items()}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_SHORT = 256


class Cleaned(NamedTuple):
    """packet: what is to be written, None if nothing is left. omitted: what was left out, a few words each."""

    packet: bytes | None
    omitted: list[str]


@dataclass(frozen=True)
class Element:
    """An XML element. names are as written, with their prefix; children: elements and text in order."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)


def parse(packet: bytes) -> Element:
    """The root element of a packet. Raises ValueError for what is not well-formed, declares entities or is too deep."""
    packet = packet[packet.find(b"<") : packet.rfind(b">") + 1] if b"<" in packet else b""
    reader = expat.ParserCreate()
    reader.buffer_text = True
    top = Element("", {})
    stack = [top]
    count = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(stack) > _MAX_DEPTH or count > _MAX_ELEMENTS:
            raise ValueError("it is nested too deeply")
        element = Element(name, attributes)
        stack[-1].children.append(element)
        stack.append(element)

    def end(name: str) -> None:
        element = stack.pop()
        if any(isinstance(child, Element) for child in element.children):  # the blanks between them say nothing
            element.children[:] = [child for child in element.children if isinstance(child, Element) or child.strip()]

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities")

    reader.StartElementHandler, reader.EndElementHandler = start, end
    reader.CharacterDataHandler = lambda text: stack[-1].children.append(text)
    reader.StartDoctypeDeclHandler = refuse
    try:
        reader.Parse(packet, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not well-formed XML ({error})") from None
    return next(child for child in top.children if isinstance(child, Element))


def text_of(element: Element) -> str:
    """The element as XML."""
    quote = {'"': "&quot;", "\n": "&#xA;", "\r": "&#xD;", "\t": "&#x9;"}
    attributes = "".join(f' {name}="{escape(value, quote)}"' for name, value in element.attributes.items())
    if not element.children:
        return f"<{element.name}{attributes}/>"
    inner = "".join(
        text_of(child) if isinstance(child, Element) else escape(child, {"\r": "&#xD;"}) for child in element.children
    )
    return f"<{element.name}{attributes}>{inner}</{element.name}>"


def clean_xmp(packet: bytes | None, turned: int) -> Cleaned:
    """The packet saying that the photo is upright, without what shows another picture or is wrong once turned.

    turned: the orientation (1-8) that was undone.
    """
    if not packet or not packet.strip(b"\0 \t\r\n"):
        return Cleaned(None, [])
    if len(packet) > MAX_PACKET:
        return Cleaned(None, [f"an XMP packet of {len(packet):,} bytes"])
    try:
        root = parse(packet)
    except (ValueError, StopIteration) as error:
        return Cleaned(None, [f"a broken XMP packet ({error})"])
    cleaner = _Cleaner(turned)
    schemas: dict[str, str] = {}
    if cleaner.name(root.name, schemas | _declared(root)) not in _WRAPPERS:
        return Cleaned(None, ["an XMP packet without properties"])
    cleaned = cleaner.wrapper(root, schemas)
    if not cleaner.count:
        return Cleaned(None, cleaner.omitted)
    return Cleaned(_HEAD + text_of(cleaned).encode() + _TAIL, cleaner.omitted)


def shortened(packet: bytes, limit: int) -> Cleaned:
    """A cleaned packet without its largest properties, so that it is at most `limit` bytes."""
    omitted: list[str] = []
    root = parse(packet)
    sizes = [
        (len(text_of(element).encode()), holder, element)
        for holder in _wrappers(root)
        for element in holder.children
        if isinstance(element, Element) and element.name not in _WRAPPERS
    ]
    excess = len(packet) - limit
    for size, holder, worst in sorted(sizes, key=lambda item: -item[0]):
        if excess <= 0:
            break
        holder.children[:] = [child for child in holder.children if child is not worst]
        omitted.append(f"XMP {worst.name} (too long for the format)")
        excess -= size
    if excess > 0:
        return Cleaned(None, ["the XMP packet, which is too long for the format"])
    return Cleaned(_HEAD + text_of(root).encode() + _TAIL if omitted else packet, omitted)


def _wrappers(element: Element) -> list[Element]:
    inner = [child for child in element.children if isinstance(child, Element) and child.name in _WRAPPERS]
    return [element, *(deeper for wrapper in inner for deeper in _wrappers(wrapper))]


def _declared(element: Element) -> dict[str, str]:
    return {name[6:]: value for name, value in element.attributes.items() if name.startswith("xmlns:")}


class _Cleaner:
    """One pass over a packet. count: of the properties that stay. omitted: what does not."""

    def __init__(self, turned: int) -> None:
        self.turned = turned
        self.count = 0
        self.omitted: list[str] = []
        self._dense = self._unknown = 0

    @staticmethod
    def name(name: str, schemas: dict[str, str]) -> str:
        """The name with the prefix that its schema usually has."""
        prefix, colon, local = name.rpartition(":")
        uri = schemas.get(prefix, "")
        usual = _URIS.get(uri, "GCamera" if uri.startswith("http://ns.google.com/photos/") else prefix)
        return usual + colon + local

    def wrapper(self, element: Element, schemas: dict[str, str]) -> Element:
        schemas = schemas | _declared(element)
        attributes: dict[str, str] = {}
        for name, value in element.attributes.items():
            if name.startswith("xmlns") or name in ("x:xmptk", "rdf:about", "about"):
                if len(value) <= 256 and self._good(value.encode()):
                    attributes[name] = value
                else:
                    self.omitted.append(f"XMP {name[:40]}")
            elif (text := self._property(name, value, Element(name, {}, [value]), schemas)) is not None:
                attributes[self._turned(name, schemas)] = text
        children: list[Element | str] = []
        for child in element.children:
            if isinstance(child, str):
                continue  # no text belongs between properties
            inner = schemas | _declared(child)
            if self.name(child.name, inner) in _WRAPPERS:
                children.append(self.wrapper(child, schemas))
                continue
            value = "".join(text for text in child.children if isinstance(text, str))
            text = self._property(child.name, value, child, inner)
            if text is not None:
                children.append(
                    replace(
                        child,
                        name=self._turned(child.name, inner),
                        children=child.children if text == value else [text],
                    )
                )
        return Element(element.name, attributes, children)

    def _turned(self, name: str, schemas: dict[str, str]) -> str:
        """The name under which a property stays: width is height once the photo lies on its other side."""
        swapped = _SWAPPED.get(self.name(name, schemas)) if self.turned >= 5 else None
        return name if swapped is None else f"{name.rpartition(':')[0]}:{swapped}"

    def _property(self, name: str, value: str, element: Element, schemas: dict[str, str]) -> str | None:
        """The value of a property as it may stay, None if it may not. element: the property with all inside it."""
        usual = self.name(name, schemas)
        reason = self._reason(usual, element, schemas)
        if reason:
            self.omitted.append(f"XMP {usual[:60]} ({reason})")
            return None
        self.count += 1
        return "1" if usual == "tiff:Orientation" else value

    def _reason(self, usual: str, element: Element, schemas: dict[str, str]) -> str:
        names = {usual, *_names(element, schemas)}
        if usual == "xmpNote:HasExtendedXMP":
            return "the packet's second part"
        text = text_of(element).encode()
        if any(name.partition(":")[0] in _PICTURE_SCHEMAS for name in names) or (
            len(text) > _SHORT and any(map(_PICTURE_WORDS.search, names))
        ):
            return "of another picture"
        if self.turned != 1 and any(_PLACES.match(name) for name in names):
            return "wrong once the photo is turned"
        if usual.partition(":")[0] not in _KNOWN:
            self._unknown += len(text) if len(text) <= _UNKNOWN_EACH else 0
            if len(text) > _UNKNOWN_EACH or self._unknown > _UNKNOWN_ALL:
                return "of an unknown kind"
        values = (_IDENTIFIER.sub(b"", value) for value in _values(element) if len(value) > MAX_VALUE)
        if max(map(len, names)) > 100 or not self._good(text) or any(dense(value) > MAX_VALUE for value in values):
            return "not text"
        return ""

    def _good(self, text: bytes) -> bool:
        text = _IDENTIFIER.sub(b"", text)
        if len(text) <= _SHORT:
            self._dense += dense(text)
            return self._dense <= MAX_DENSE and _CONTROL.search(text) is None
        if not plain(text, allowed=MAX_DENSE) or holds_picture(b"".join(text.split())):
            return False
        self._dense += dense(text)
        return self._dense <= MAX_DENSE


def _values(element: Element) -> Iterator[bytes]:
    """All texts and values of attributes inside a property."""
    yield from (value.encode() for value in element.attributes.values())
    yield "".join(child for child in element.children if isinstance(child, str)).encode()
    for child in element.children:
        if isinstance(child, Element):
            yield from _values(child)


def _names(element: Element, schemas: dict[str, str]) -> set[str]:
    """All names of elements and attributes inside a property."""
    schemas = schemas | _declared(element)
    names = {
        _Cleaner.name(name, schemas) for name in (element.name, *element.attributes) if not name.startswith("xmlns")
    }
    for child in element.children:
        if isinstance(child, Element):
            names |= _names(child, schemas)
    return names
