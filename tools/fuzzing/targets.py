"""What is tried: photos, photos with a planted picture, weight files, cards, manifests. `TARGETS`, by name."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol
from unittest import mock

from engine import photo, terminal
from engine.types import PhotoError
from fuzzing import corpus, pieces, places, planting
from fuzzing.mutate import mutate

_LARGEST_ENCODED = 4_000_000
_SLOW = {"AVIF", "HEIF", "JPEG2000"}


class Case(NamedTuple):
    """One input. container: for the counts. name: how it was made. payload: what may not be in what is written."""

    container: str
    name: str
    data: bytes
    payload: planting.Payload | None = None


Verdict = tuple[str, str, float, bool]
"""What came of an input, for people; a detail; the size of its picture in bytes; whether it is a finding."""


class Target(Protocol):
    """A kind of input."""

    def make(self, number: int) -> Case:
        """The input of this number, always the same."""

    def check(self, case: Case) -> Verdict:
        """What the engine does with it."""


@dataclass
class Photos:
    """Mutated photos: read, written with other pixels, read again. Every fifth has a picture planted first.

    seed: of all choices. largest: bytes of a file to start from. shared: whether those of ../shared are used.
    """

    seed: int = 0
    largest: int = 400_000
    shared: bool = True

    @cached_property
    def files(self) -> tuple[tuple[str, bytes], ...]:
        """(name, bytes) to start from."""
        return corpus.photos(self.largest, self.shared)

    @cached_property
    def leaks(self) -> Leaks:
        """Where planted pictures come from."""
        return Leaks(self.seed)

    def make(self, number: int) -> Case:
        """The input of this number."""
        rng = Random(f"photo {self.seed} {number}")
        donors = [data for _, data in self.files]
        if number % 5 == 4:
            case = self.leaks.make(rng.randrange(1 << 20))
            return case._replace(name=f"{case.name}, mutated", data=mutate(case.data, rng, donors))
        name, data = rng.choice(self.files)
        return Case(pieces.container(data), name, mutate(data, rng, donors))

    def check(self, case: Case) -> Verdict:
        """Only PhotoError, no warning, pixels of the same size again, and nothing of the planted picture."""
        with warnings.catch_warnings(record=True) as noise:
            warnings.simplefilter("always")
            verdict = self._check(case)
        if noise and not verdict[3]:
            return "warns", str(noise[0].message), verdict[2], True
        return verdict

    def _check(self, case: Case) -> Verdict:
        try:
            decoded = photo.read(case.data)
        except PhotoError as error:
            return "refused", str(error)[:200], 0, False
        except Exception as error:
            return f"raises {type(error).__name__}", str(error)[:200], 0, True
        size = decoded.pixels.size / 3 * 12  # decoded, turned, and once more while it is written and read again
        if decoded.pixels.size // 3 > (_LARGEST_ENCODED // 4 if decoded.format in _SLOW else _LARGEST_ENCODED):
            return "read", "too large to be written here", size, False
        try:
            written = photo.encode(decoded, decoded.pixels ^ 1)
        except PhotoError as error:
            return "not written", str(error)[:200], size, False
        except Exception as error:
            return f"raises {type(error).__name__} on writing", str(error)[:200], size, True
        if case.payload is not None:
            length, form = planting.leaked(written, case.payload)
            if length:
                return "leaks", f"{length} bytes of {case.payload.form}, {form}", size, True
        try:
            again = photo.read(written)
        except Exception as error:
            return "writes what cannot be read", f"{type(error).__name__}: {error}"[:200], size, True
        if again.pixels.shape != decoded.pixels.shape:
            return "writes another size", f"{decoded.pixels.shape} {again.pixels.shape}", size, True
        return "done", decoded.format, size, False


@dataclass
class Leaks(Photos):
    """A second picture in every place and every form, one after the other; the files are sound otherwise."""

    @cached_property
    def places(self) -> list[tuple[str, str]]:
        """(format, place) of everything that can be planted."""
        marker = b"payload " * 40
        return [(name, place) for name in self.formats for place, _ in self._planted(name, marker)]

    @cached_property
    def formats(self) -> list[str]:
        """Formats to plant in."""
        known = ("jpeg", "png", "webp", "tiff", "avif", "heif", "jp2", "bmp", "ppm")
        return [name for name in known if name in corpus.seeds()]

    def _planted(self, name: str, payload: bytes) -> Any:
        seed, image = corpus.seeds()[name], corpus.picture()
        container = pieces.container(seed)
        places_of = {
            "jpeg": places.in_jpeg,
            "png": places.in_png,
            "webp": places.in_webp,
            "boxes": places.in_boxes,
        }.get(container, places.in_other)
        blocks = {"avif": "AVIF", "heif": "HEIF"}.get(name, container)
        return itertools.chain(places_of(seed, payload), places.in_block(blocks, seed, image, payload))

    def make(self, number: int) -> Case:
        """The input of this number: places in turn, then the next form."""
        # Steps that share no factor with the numbers of places and forms, so that any few hundred inputs meet all.
        name, place = self.places[number * 7 % len(self.places)]
        forms = planting.payloads()
        payload = forms[(number + number // len(self.places)) % len(forms)]
        made = next(made for where, made in self._planted(name, payload.data) if where == place)
        data = made if isinstance(made, bytes) else made()
        return Case(name, f"{name}, {place}, {payload.form}", data, payload)


@dataclass
class Weights:
    """Mutated files of weights, through their readers in this process and the layouts above them."""

    seed: int = 0

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """Where the inputs lie."""
        return tempfile.TemporaryDirectory(prefix="fuzz-")

    @cached_property
    def files(self) -> list[tuple[str, str, bytes]]:
        """(format, name, bytes) to start from."""
        from fuzzing import weights

        return weights.files()

    def make(self, number: int) -> Case:
        """The input of this number."""
        rng = Random(f"convert {self.seed} {number}")
        kind, name, data = rng.choice(self.files)
        return Case(kind, name, mutate(data, rng, [content for _, _, content in self.files]))

    def check(self, case: Case) -> Verdict:
        """Only SourceError (or arrays)."""
        from engine.convert.source_file import SourceError
        from fuzzing import weights

        try:
            weights.read(case.container, case.name, case.data, Path(self.folder.name))
        except SourceError as error:
            several = "\n" in str(error)
            return "refused", str(error)[:200], 0, several
        except Exception as error:
            return f"raises {type(error).__name__}", str(error)[:200], 0, True
        return "done", "", 0, False


def _text(data: bytes, rng: Random) -> bytes:
    """Mutations of a text of `name = value` lines."""
    lines = data.decode(errors="replace").splitlines()
    values = (
        "nan",
        "inf",
        "1e400",
        "-1",
        "0",
        "true",
        '""',
        "[]",
        "{}",
        '"\\u001b[2J"',
        '"../../etc"',
        "[1, 2]",
        "9" * 5000,
        "'x'",
        "[" * 500,
    )
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2 and " = " in lines[at]:
            lines[at] = lines[at].partition(" = ")[0] + " = " + rng.choice(values)
        elif kind == 3:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        else:
            return mutate("\n".join(lines).encode(), rng, [data])
        if not lines:
            break
    return "\n".join(lines).encode()


def _verdict(error: Exception) -> Verdict:
    """A refusal if the exception is one that the engine raises of itself, else a finding."""
    if isinstance(error, ValueError | sqlite3.Error) or type(error).__module__.startswith("engine."):
        return "refused", "", 0, False
    return f"raises {type(error).__name__}", str(error)[:200], 0, True


_NETWORK = ("network", "options", "dim", "input")


@dataclass
class Cards:
    """Mutated cards of converted extractors.

    built: networks that were built, as their cards describe them; each takes a second, and most inputs have the same.
    """

    seed: int = 0
    built: set[str] = field(default_factory=set)

    def make(self, number: int) -> Case:
        """The input of this number."""
        from engine.extractors import converted
        from fuzzing import weights

        rng = Random(f"cards {self.seed} {number}")
        return Case("card", "card.toml", _text(converted._toml(weights.CARD).encode(), rng))

    def check(self, case: Case) -> Verdict:
        """Listing it, looking it up and building it: only errors of the engine's own."""
        from engine.extractors import converted, registry

        with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
            folder = Path(home) / "extractors" / "mine"
            (folder / "weights").mkdir(parents=True)
            (folder / converted.CARD).write_bytes(case.data)
            usual, converted.home = converted.home, lambda: Path(home)
            try:
                listed = "mine" in registry.available()
                entry = registry.find("mine")
                about = {name: value for name, value in registry.about("mine").items() if listed and name in _NETWORK}
                if repr(about) not in self.built:
                    registry.described("mine", entry)
                    self.built.add(repr(about))
            except Exception as error:
                return _verdict(error)
            finally:
                converted.home = usual
        return "done", "", 0, False


@dataclass
class Manifests:
    """Mutated manifests of runs."""

    seed: int = 0

    @cached_property
    def data(self) -> bytes:
        """A sound manifest of twenty rows."""
        from engine.bulk.manifest import Manifest, Row

        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            with mock.patch("time.time_ns", return_value=1), Manifest(Path(folder)) as manifest:
                faces: list[dict[str, object]] = [{"box": [1, 2, 3, 4], "dssim": 0.006, "shift": {"web-incept": 1.2}}]
                manifest.put(
                    *(Row(f"{n}.jpg", f"/photos/{n}.jpg", 9, 9, "ab", "cd", "cloaked", "", 9, faces) for n in range(20))
                )
            return next(Path(folder).rglob("manifest.sqlite")).read_bytes()

    def make(self, number: int) -> Case:
        """The input of this number."""
        rng = Random(f"manifest {self.seed} {number}")
        data = bytearray(self.data)
        for _ in range(rng.choice((1, 4, 64))):
            words = rng.choice((b"cloaked", b"/photos/", b'{"box"', b"CREATE TABLE", b"INTEGER", b"SQLite format 3"))
            at = data.find(words, rng.randrange(len(data)))
            at = rng.randrange(len(data)) if at < 0 or rng.randrange(2) else at
            data[at : at + rng.choice((1, 1, 8))] = rng.randbytes(rng.choice((1, 1, 8)))
        return Case(
            "manifest",
            "manifest.sqlite",
            mutate(bytes(data), rng, [self.data]) if rng.randrange(3) == 0 else bytes(data),
        )

    def check(self, case: Case) -> Verdict:
        """Opening, reading and surveying it, and its status: only errors of SQLite or the engine's own."""
        verdicts = []
        for read in (_surveyed, _opened, _told):
            with tempfile.TemporaryDirectory(prefix="fuzz-") as out:
                folder = Path(out) / ".cloak"
                folder.mkdir()
                (folder / "manifest.sqlite").write_bytes(case.data)
                try:
                    read(Path(out))
                except Exception as error:
                    verdicts.append(_verdict(error))
        return max(verdicts, key=lambda verdict: verdict[-1], default=("done", "", 0, False))


def _surveyed(out: Path) -> None:
    from engine.bulk import manifest

    with manifest.Survey(out) as survey:
        list(survey.rows())


def _opened(out: Path) -> None:
    from engine.bulk import manifest

    with manifest.Manifest(out) as database:
        list(database.rows())
        database.get("3.jpg")


def _told(out: Path) -> None:
    from engine.bulk import status

    totals = status.Totals()
    for row in status.rows(out):
        totals.add(row)
        status.Record.of(row)
        if terminal.readable(status.line(row)) != status.line(row):
            raise AssertionError(f"a line can steer a terminal: {status.line(row)!r}")


TARGETS: dict[str, Any] = {"photo": Photos, "leak": Leaks, "convert": Weights, "cards": Cards, "manifest": Manifests}
