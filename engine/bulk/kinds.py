"""Kind of a file, by its name and its first bytes: a photo, a picture that is not read, or neither."""

from __future__ import annotations

from pathlib import Path

from engine import files
from engine.photo import SUFFIXES, formats

LOOKS = "looks like a photo but is not read"
"""Begins the reason of a picture that is passed over, so that a person can be told of it."""
FILM = "a film, whose faces stay as they are"
"""Begins the reason of a film."""

UNREAD = frozenset(
    {".3fr", ".arw", ".avci", ".avcs", ".avifs", ".bpg", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".exr", ".fff",
     ".gpr", ".hdr", ".heics", ".heifs", ".iiq", ".jxl", ".jxr", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf",
     ".pcx", ".pef", ".psb", ".psd", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".tga", ".wdp", ".x3f",
     ".xcf"}
)  # fmt: skip
"""Suffixes of raws, layers and new kinds of pictures. Their first bytes may be a TIFF's, so the name decides."""
FILMS = frozenset(
    {".3g2", ".3gp", ".avi", ".flv", ".insv", ".lrv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
     ".ogv", ".webm", ".wmv"}
)  # fmt: skip
UNWRITTEN = frozenset(suffix for kind in formats.KINDS.values() if kind.write is None for suffix in kind.suffixes)
"""Suffixes of photos that are written as `formats.STEAD`."""
HEAD = 64
"""Bytes that are looked at; a list of brands is seldom longer."""

_UNREAD_MAGIC = (
    b"\0\0\0\x0cJXL \r\n\x87\n",
    b"8BPS",
    b"FUJIFILMCCD-RAW",
    b"gimp xcf",
    b"IIRO",
    b"IIU\0",
    b"\0MRM",
    b"FOVb",
)
_PHOTO_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif")
_UNREAD_BRANDS = (b"hevc", b"hevx", b"avis", b"crx ")


def passed_by(path: Path, *, named: bool = False) -> str:
    """Why a file is passed by, "" for a photo. Never waits and never raises.

    A name that photos have is trusted: if the content is none, reading the file says so. The first bytes of all other
    files are looked at. A file that is there and cannot be read may be a photo, and reading it again says what is
    wrong. named: a person named this very file, so weaker signs of a photo are enough.
    """
    suffix = path.suffix.lower()
    sidecar = path.name.startswith("._")
    if suffix in SUFFIXES and not sidecar:
        return ""
    called = path.suffix or path.name
    if suffix in UNREAD and not sidecar:
        return f"{LOOKS} ({called}): export it as JPEG, PNG or HEIC first"
    if suffix in FILMS and not sidecar:
        return f"{FILM}: {called}"
    try:
        with files.opened(path) as file:
            head = file.read(HEAD)
    except files.NotAFileError as error:
        return f"not a photo: {error.strerror}"
    except FileNotFoundError:
        return "" if named else f"not a photo: {called} (a link to nothing, or gone since)"
    except (OSError, ValueError):
        return ""
    return _by_content(head, called, bare=named or not path.suffix)


def unread(reason: str) -> bool:
    """Whether the reason of a file that is passed by is that it shows people and is not read: a picture or a film."""
    return reason.startswith((LOOKS, FILM))


def kept(path: Path) -> bool:
    """Whether a photo can keep its format. Only a file whose name says otherwise is looked at.

    If such a file cannot be read, its name is trusted, so that it has one place in every call.
    """
    if path.suffix.lower() not in UNWRITTEN:
        return True
    try:
        with files.opened(path) as file:
            kind = formats.of(file.read(HEAD))
    except (OSError, ValueError):
        return False
    return kind is not None and kind.write is not None


def _by_content(head: bytes, called: str, *, bare: bool) -> str:
    kind = formats.of(head)
    if kind is not None and kind.sure:
        return ""
    unread = f"{LOOKS} ({called}): export it as JPEG, PNG or HEIC first"
    if head[4:8] == b"ftyp":
        brands = head[8:12], *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4], "big"), HEAD), 4))
        if any(brand in _UNREAD_BRANDS for brand in brands[:1]):
            return unread
        return "" if any(brand in _PHOTO_BRANDS for brand in brands) else f"{FILM}: {called}"
    if kind is formats.KINDS["TIFF"]:
        return "" if bare else unread  # with another name it is a camera's raw
    if head.startswith(_UNREAD_MAGIC) or (bare and head.startswith(b"\xff\x0a")):
        return unread
    if bare and (_bitmap(head) or kind is formats.KINDS["PPM"]):
        return ""
    return f"not a photo: {called}"


def _bitmap(head: bytes) -> bool:
    return (
        head[:2] == b"BM"
        and head[6:10] == b"\0\0\0\0"
        and head[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    )
