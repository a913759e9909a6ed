"""Photos in and out: `read` a file into an upright `Photo`, `encode` changed pixels as the same kind of file.

Two promises. Nothing is lost in silence: what the pixels of a Photo cannot hold (16 bits, CMYK, an animation) is
refused with a reason. And nothing of the clean face is left. The only picture in a written file is the one that was
handed in. `engine.photo.metadata` says what of the rest is kept. All functions are pure and may run in any number of
threads.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from engine.files import NotAFileError, opened
from engine.photo import formats
from engine.photo import metadata as meta
from engine.photo.decoding import read_jpeg
from engine.photo.footprint import footprint
from engine.photo.formats import KINDS, STEAD, SUFFIXES, Kind
from engine.photo.making import ADVICE, ANIMATED, MAX_PIXELS, check_size, make_photo, refusal
from engine.photo.writing import Encoder, encode, notes, suffix, writer
from engine.types import Photo, PhotoError, UnsettledError

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Encoder",
    "decode_pixels",
    "encode",
    "footprint",
    "from_array",
    "load",
    "notes",
    "read",
    "suffix",
    "writer",
]

MAX_BYTES = 4 * MAX_PIXELS

_locks = tuple(threading.Lock() for _ in range(64))


def read(source: Path | bytes) -> Photo:
    """Decode a photo: upright RGB (h, w, 3), alpha, and what `encode` needs to write a file of the same kind.

    Raises PhotoError, and nothing else, for whatever is wrong with the file; its message can be shown to the owner.

    >>> from engine import photo
    >>> face = photo.read(Path("me.jpg"))
    >>> Path("out.jpg").write_bytes(photo.encode(face, face.pixels)) > 0
    True
    """
    data = source if isinstance(source, bytes) else load(source)
    kind = _sniff(data)
    return _guarded(kind, kind.read, data)


def _guarded(kind: Kind, reader: Callable[[bytes], Photo], data: bytes) -> Photo:
    try:
        return reader(data)
    except PhotoError:
        raise
    except MemoryError:
        raise PhotoError(
            "There is not enough memory to decode this photo: run fewer workers, or make it smaller."
        ) from None
    except Image.DecompressionBombError:
        raise PhotoError(f"The photo is larger than the limit of {MAX_PIXELS:,} pixels: make it smaller.") from None
    # Pillow and the codecs below it raise nearly everything for a damaged file: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise PhotoError(
            f"The {kind.name} file is damaged or cut off and cannot be decoded ({_reason(error)}): "
            "get it again from where it came, or open it in an editor and save it anew."
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def from_array(array: np.ndarray | Image.Image) -> Photo:
    """A Photo from pixels in memory: uint8 (h, w, 3) or (h, w), or a Pillow image, which keeps its metadata.

    Raises PhotoError for other types, shapes and modes. What was not read from a file is written as PNG by default.
    One Pillow image may be given in several threads.
    """
    if isinstance(array, Image.Image):
        name = {"MPO": "JPEG"}.get(array.format or "", array.format or "PNG")
        try:
            with _lock(array):
                if getattr(array, "is_animated", False) and array.format != "MPO":
                    raise refusal(*ANIMATED)
                image = array.copy()
            exif = meta.parse_exif(image.info.get("exif"))
            xmp = image.info.get("xmp")
            xmp = xmp if isinstance(xmp, bytes) else None
            # Pillow has already turned a TIFF, and its HEIF plugin states the orientation as 1.
            turned = 1 if name == "TIFF" else meta.orientation(exif, None if name in ("HEIF", "AVIF") else xmp)
            return make_photo(
                image, name if name in KINDS and KINDS[name].write else STEAD.name, turned=turned, exif=exif,
                xmp=xmp,
                icc=image.info.get("icc_profile"), dpi=image.info.get("dpi"),
            )  # fmt: skip
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise PhotoError(f"The image cannot be decoded ({error}): load it again, or save it anew.") from error
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__ + (": pass its bytes, .read()" if hasattr(array, "read") else "")
        raise PhotoError(f"An image must be a numpy array, a Pillow image, bytes or a path; this is a {kind}.")
    if array.dtype != np.uint8:
        advice = "multiply by 255 and round" if array.dtype.kind == "f" else "scale to 0..255"
        raise PhotoError(
            f"An image array must be uint8 in 0..255, this one is {array.dtype}: {advice}, then .astype('uint8')."
        )
    grey = array.ndim == 2
    if not (grey or (array.ndim == 3 and array.shape[2] == 3)) or 0 in array.shape:
        raise PhotoError(
            f"An image array must be of shape (h, w, 3) or (h, w), this one is {array.shape}: one image, RGB order."
        )
    check_size(array.shape[1], array.shape[0])
    array = np.asarray(array)  # of a matrix or a masked array what an array holds
    return Photo(np.repeat(array[..., None], 3, axis=2) if grey else array.copy(), "PNG", grey=grey)


def _lock(image: Image.Image) -> threading.Lock:
    """Lock of a caller's image, to be held while it is asked for anything that decodes or seeks.

    Pillow decodes an image when its pixels are first asked for, in whatever thread that is. Another thread would see a
    part of them.
    """
    return _locks[hash((id(image),)) % len(_locks)]


def decode_pixels(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The upright RGB that any viewer will see of a file that `encode` made; PhotoError if it cannot be read."""
    kind = _sniff(data)
    # It is known to be whole, so a JPEG of several scans need not be decoded twice to see that.
    return _guarded(kind, partial(read_jpeg, whole=True) if kind.name == "JPEG" else kind.read, data).pixels


def load(path: Path) -> bytes:
    """The bytes of a photo's file. Raises UnsettledError if it cannot be read, PhotoError if it is too large."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise PhotoError(f"The file has {size:,} bytes, more than any photo: the limit is {MAX_BYTES:,}.")
            return file.read(MAX_BYTES)
    except NotAFileError as error:
        raise UnsettledError(f"This is no photo, because {error.strerror}: name a file.") from None
    except FileNotFoundError:
        raise UnsettledError("There is no such file: it was moved or deleted, or is a link to nothing.") from None
    except PermissionError:
        raise UnsettledError("This account may not read the file: change its permissions.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise UnsettledError("This is a symbolic link that leads back to itself: point it at the photo.") from None
        raise UnsettledError(f"The file cannot be read ({error}): check the disk or the connection to it.") from error


def _sniff(data: bytes) -> Kind:
    """Kind of a file, from its first bytes; its name is not trusted."""
    if not data:
        raise PhotoError("The file is empty: get it again from where it came.")
    kind = formats.of(data)
    if kind is not None:
        return kind
    if data[4:8] == b"ftyp":
        raise PhotoError("This is a film, or a camera's raw or JPEG XL picture: export it as JPEG, PNG or HEIC first.")
    head = data[:512]
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        raise PhotoError("This is not a picture but a text file, whatever its name says.")
    raise PhotoError(
        f"This is not a photo, or of a kind that is not supported, or damaged at its very beginning. {ADVICE}"
    )
