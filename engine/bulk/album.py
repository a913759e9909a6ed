"""The personal report of `cloak run`: pages with every photo of a collection, in the hidden folder of the output.

The thread that wrote a photo makes its article while the pixels are at hand, and keeps it in a spool. At the end of the
run the articles are put on pages. Each article is a line of its own, named by what it depends on, so the pages
themselves are the store. The next call takes from them what is still true, and decodes only the rest.

Several runs (shards) may share an output folder: the last to end writes the report, with the photos of all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from engine import __version__, files, html, private
from engine.bulk import article as articles
from engine.bulk import claims
from engine.bulk.inputs import OWN_FOLDER
from engine.bulk.manifest import Row, Survey
from engine.types import Photo

PAGE = 50
"""Photos on a page: 10 to 15 MB of large ones."""
NEAR = 2
"""Pages before and after one to which it has links, besides leaps of powers of ten and the two ends."""
TEMPLATES = ("album.html.jinja", "album.css", "album.js", "frame.html.jinja", "frame.css")


class Album:
    """A run's part of the report. A context manager, to be held while the run lasts; `add` from any thread."""

    def __init__(self, out: Path, *, shard: tuple[int, int] = (0, 1), helper: str = "") -> None:
        """Announces the run to others in the same folder. Raises OSError if that cannot be written.

        helper: name of a process that works for a run, which has announced itself; it has a spool of its own.
        """
        folder = private.made(out / OWN_FOLDER)
        name = f"report-{shard[0]}-of-{shard[1]}{helper and '-' + helper}.spool"
        with ExitStack() as stack:
            if not helper:
                stack.enter_context(files.locked(folder / "runs.lock", shared=True, wait=True))
            flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._spool = os.open(folder / name, flags, files.PRIVATE)
            stack.callback(os.close, self._spool)
            os.write(self._spool, b"\n")  # a killed run may have left half a line
            self._open = stack.pop_all()
        self._lock = Lock()

    def __enter__(self) -> Album:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, row: Row, before: Photo, after: UInt8[np.ndarray, "h w 3"] | None = None) -> None:
        """Keep the article of a photo that is done. Never raises: what cannot be kept is made from the files later."""
        with suppress(Exception):
            line = articles.article(row, articles.pictures(row, before, after))
            with self._lock, open(self._spool, "ab", closefd=False) as spool:
                spool.write(line)


class Published(NamedTuple):
    """report: the first page, None if there is none. reason: why."""

    report: Path | None
    reason: str = ""


@dataclass
class _Contents:
    """Counts made before the first page is written. identities: of the articles, in order."""

    counts: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    faces: int = 0
    dssim: float = 0.0
    largest: float = 0.0
    networks: set[tuple[str, ...]] = field(default_factory=set)
    identities: list[str] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return -(-len(self.identities) // PAGE)

    def digest(self) -> str:
        """Two albums with the same digest are the same album."""
        parts = [self.identities, self.passed, PAGE, __version__, html.version(*TEMPLATES), claims.LIMITS]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def publish(out: Path, *, workers: int, progress: Callable[[int, int], None] = lambda done, all: None) -> Published:
    """Write the report of all that is in the folder's manifests, unless another run still goes on in it.

    Flat in memory: photos are on their way one by one. progress: gets (photos done, all of them). Raises OSError if it
    cannot be written, and sqlite3.Error if a manifest cannot be read. Then the old report, if any, is untouched.
    """
    folder = out / OWN_FOLDER
    if not _alone(folder):
        return Published(None, "another run is going on in this folder and will write it")
    with files.locked(folder / "report.lock", wait=True), Survey(out) as survey:
        contents = _contents(survey, out)
        if not contents.identities:
            return Published(None, "there is no photo to report on")
        first = folder / _name(1)
        mark = f"album {contents.digest()} of {contents.pages} pages"
        if not (_marked(first, mark) and all((folder / _name(n)).is_file() for n in range(1, contents.pages + 1))):
            _write(survey, out, contents, mark, workers=workers, progress=progress)
        # Whoever holds the lock is alone: these are of calls that were killed, or taken into the pages.
        for path in (*folder.glob("report-*.spool"), *folder.glob(f".report*{files.PART}")):
            path.unlink(missing_ok=True)
    return Published(first)


def remove(out: Path) -> None:
    """Take away the report of earlier calls, and what was kept for it. Raises OSError."""
    folder = out / OWN_FOLDER
    for path in (*folder.glob("report*"), *folder.glob(f".report*{files.PART}")):
        if path.suffix in (".html", files.PART, ".spool"):
            path.unlink(missing_ok=True)


def _alone(folder: Path) -> bool:
    # Each run lets go of its own lock before it looks, so the last to end sees no other.
    try:
        with files.locked(folder / "runs.lock"):
            return True
    except files.HeldError:
        return False


def _contents(survey: Survey, out: Path) -> _Contents:
    contents = _Contents()
    for row in survey.rows():
        if _passed_by(row):
            contents.passed += 1
            continue
        contents.counts[row.status] += 1
        contents.identities.append(articles.identity(row, articles.notes(row, out)))
        for face in row.faces:
            dssim = float(face["dssim"])  # type: ignore[arg-type]
            contents.faces += 1
            contents.dssim += dssim
            contents.largest = max(contents.largest, dssim)
            contents.networks.add(tuple(face.get("shift", ())))  # type: ignore[arg-type]
    return contents


def _passed_by(row: Row) -> bool:
    """A file that is no photo: counted and not shown."""
    return row.status == "skipped" and not row.sha256


def _name(page: int) -> str:
    return "report.html" if page == 1 else f"report-{page}.html"


def _linked(page: int, pages: int) -> list[int]:
    """The pages to which one has links, itself included: few however many there are, and all within few clicks."""
    leaps = [*range(NEAR + 1), *(10**power for power in range(1, len(str(pages))))]
    near = {page + sign * leap for leap in leaps for sign in (-1, 1)}
    return sorted({1, pages} | {number for number in near if 1 <= number <= pages})


def _marked(page: Path, mark: str) -> bool:
    try:
        with page.open("rb") as file:
            return mark.encode() in file.read(1000)
    except OSError:
        return False


def _write(
    survey: Survey,
    out: Path,
    contents: _Contents,
    mark: str,
    *,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """All pages beside the old ones, which are still being read; then the new in place of the old."""
    folder = out / OWN_FOLDER
    total = len(contents.identities)
    rows = (row for row in survey.rows() if not _passed_by(row))
    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        drafts = []
        lines = _lines(rows, out, _places(folder), pool, ahead=2 * workers)
        for page in range(1, contents.pages + 1):
            start = (page - 1) * PAGE
            shown = (html.safe(line.decode()) for line in islice(lines, PAGE))
            pieces = html.stream(
                "album.html.jinja",
                mark=mark,
                page=page,
                pages=contents.pages,
                links=[(n, _name(n)) for n in _linked(page, contents.pages)],
                first=start + 1,
                on_page=PAGE,
                total=total,
                contents=contents,
                protection=[claims.by_networks(networks) for networks in sorted(contents.networks) if networks],
                publish=claims.PUBLISH,
                limits=claims.LIMITS,
                version=__version__,
                articles=_counted(shown, start, total, progress),
            )
            drafts.append(stack.enter_context(_put(folder / _name(page), pieces)))
        for draft in drafts:
            draft.place()
    for path in folder.glob("report-*.html"):
        number = path.stem.partition("-")[2]
        if number.isdecimal() and int(number) > contents.pages:
            path.unlink(missing_ok=True)


def _counted(shown: Iterable[str], start: int, total: int, progress: Callable[[int, int], None]) -> Iterator[str]:
    for done, article in enumerate(shown, start + 1):
        yield article
        progress(done, total)


def _put(path: Path, pieces: Iterable[str]) -> files.Draft:
    # Only for its owner: the pictures are of originals, which others may not be allowed to read.
    draft = files.Draft(path, mode=files.PRIVATE)
    try:
        return draft.write(piece.encode() for piece in pieces).rest()
    except BaseException:
        draft.discard()
        raise


def _places(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Places of the articles of earlier pages and of the spools: by identity the file, the first byte, how many."""
    places = {}
    for path in (*folder.glob("report*.html"), *folder.glob("report-*.spool")):
        with path.open("rb") as file:
            start = 0
            for line in file:
                identity = articles.identity_in(line)
                if identity is not None:
                    places[identity] = path, start, len(line)
                start += len(line)
    return places


def _lines(
    rows: Iterable[Row],
    out: Path,
    places: dict[str, tuple[Path, int, int]],
    pool: ThreadPoolExecutor,
    *,
    ahead: int,
) -> Iterator[bytes]:
    """The articles in order; those that are not kept anywhere are made in threads, at most `ahead` at a time."""
    waiting: deque[Future[bytes]] = deque()

    def line_of(row: Row) -> bytes:
        notes = articles.notes(row, out)
        place = places.get(articles.identity(row, notes))
        if place is None:
            return _made(row, out, notes)
        path, start, length = place
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    for row in rows:
        waiting.append(pool.submit(line_of, row))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _made(row: Row, out: Path, notes: Sequence[str]) -> bytes:
    """An article made from the files; one without pictures if they cannot be made, whatever the reason."""
    try:
        return articles.article(row, articles.read(row, out), notes)
    except Exception:
        return articles.article(row, articles.NONE, notes)
