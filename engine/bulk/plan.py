"""Work of a run: each photo with its settings' key, what is done already, and what cannot be done and why."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import files
from engine import photo as photos
from engine.bulk import places, trouble
from engine.bulk.cloaker import Cloaker
from engine.bulk.dependencies import dependencies
from engine.bulk.inputs import InputError, Item
from engine.bulk.manifest import BARED, INTERRUPTED, Manifest, Row, Status, stamped, stated, young
from engine.bulk.prepare import Prepared, digest, prepare
from engine.bulk.records import Known, Records, owns
from engine.bulk.status import of_note
from engine.bulk.watch import Watch
from engine.config import Detection, Output, Recipe
from engine.types import PhotoError

Box = tuple[float, float, float, float]
"""Place of a face: (x, y, width, height) in pixels."""


@dataclass(frozen=True)
class Options:
    """Choices of a run besides cloaking. shard: (i, n), only the photos whose content hash is i modulo n.

    album: write the personal report, `album.publish`; without, one of an earlier call is removed.
    """

    output: Output = field(default_factory=Output)
    restart: bool = False
    dry_run: bool = False
    shard: tuple[int, int] = (0, 1)
    album: bool = False

    def __post_init__(self) -> None:
        index, count = self.shard
        if not 0 <= index < count:
            raise ValueError(f"shard must be I/N with 0 <= I < N; got {index}/{count}")


@dataclass(frozen=True)
class Task:
    """A photo to be done. size, modified, sha256, key, state: as in `manifest.Row`.

    protected: places of the faces that are cloaked in its file of an earlier call. edited: whether that call saw
    another state of the photo. stamp: `stamped` of that file if it is whole; any other file there is somebody's own.
    """

    item: Item
    size: int
    modified: int
    sha256: str
    key: str
    state: str = ""
    protected: tuple[Box, ...] = ()
    edited: bool = False
    stamp: str = ""

    @property
    def place(self) -> str:
        """See `manifest.Row`."""
        return os.path.abspath(self.item.source)

    @property
    def looks(self) -> dict[str, Any]:
        """State of the file, by which a later change is seen."""
        return {"size": self.size, "modified": self.modified, "state": self.state}

    def looks_as(self, row: Row) -> bool:
        """Whether a row says the same of them."""
        return (self.size, self.modified, self.state) == (row.size, row.modified, row.state)

    def bared(self, photo: Prepared) -> str:
        """Why a file with only the faces of `photo` cloaked must not replace the earlier one, "" if it may.

        It would show a face as it is that the earlier one does not. In an edited photo places mean nothing: then the
        number of faces counts, if there are others.
        """
        if self.edited:
            bare = max(0, min(photo.others, len(self.protected) - len(photo.faces)))
        else:
            bare = sum(not any(_covers(tuple(face.box), earlier) for face in photo.faces) for earlier in self.protected)
        if not bare:
            return ""
        which = "A face that an earlier call cloaked" if bare == 1 else f"{bare} faces that an earlier call cloaked"
        return f"{which} {BARED} cloak all faces in one call, choose another --out, or say --restart."

    def row(self, status: Status, reason: str, **more: object) -> Row:
        """The row of its outcome."""
        return Row(
            self.item.target,
            str(self.item.source),
            self.size,
            self.modified,
            self.sha256,
            self.key,
            status,
            reason,
            place=self.place,
            state=self.state,
            **more,  # type: ignore[arg-type]
        )


def _covers(box: Sequence[float], other: Box) -> bool:
    """Whether the middle of the other place lies in this one."""
    middle = other[0] + other[2] / 2, other[1] + other[3] / 2
    return all(box[axis] <= middle[axis] <= box[axis] + box[axis + 2] for axis in (0, 1))


def fingerprint(recipe: Recipe, detection: Detection, output: Output, only: Sequence[Path] = ()) -> str:
    """One line naming everything besides the photo on which a result depends, all weights included.

    only: reference photos. Raises ValueError for an unknown extractor or a reference photo that cannot be read, and
    CheckpointError for weights that cannot be used.
    """
    digests = set()
    for photo in only:
        try:
            digests.add(digest(photo))
        except PhotoError as error:
            raise ValueError(f"the reference photo {photo}: {error}") from None
    references = sorted(digests)
    parts = {
        **dependencies(recipe),
        "recipe": asdict(recipe),
        "detection": asdict(detection),
        "output": asdict(output),
        "only": references[0] if len(references) == 1 else references or None,
    }
    return json.dumps(parts, sort_keys=True)


@dataclass
class Plan:
    """Work of a call. tasks: photos to be done. passed: rows of what is not done, and was not said before.

    earlier: how many were done by earlier calls, by status. left: the rows of these that a person must know of. So
    is that of a file passed by which the call itself names.
    renewed: rows to be written anew, since their photo was moved or touched, or another manifest has the right one.
    named: all names of rows that the call knows of, those of other shards too.
    holders: by target the row, without faces, of a whole file of an earlier call for a photo of `tasks` or `passed`.
    """

    tasks: list[Task] = field(default_factory=list)
    passed: list[Row] = field(default_factory=list)
    earlier: Counter[str] = field(default_factory=Counter)
    left: list[Row] = field(default_factory=list)
    renewed: list[Row] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    holders: dict[str, Row] = field(default_factory=dict)

    @property
    def again(self) -> set[str]:
        """Targets of tasks whose photo, as it is, has a whole file already, made with other settings or weights."""
        return {task.item.target for task in self.tasks if task.protected and task.stamp and not task.edited}


def plan(items: Sequence[Item], out: Path, settings: str, options: Options) -> Plan:
    """Plan of a call, from the photos and all manifests of the output folder. Time linear in the items.

    Whatever is wrong with one photo is its row. A dry run leaves no trace in the folder. Raises sqlite3.Error, OSError
    and InputError for manifests that cannot be read.
    """
    records = Records(out, fold=places.probe(out, write=not options.dry_run).fold, untouched=options.dry_run)
    planner = _Planner(items, records, settings, options)
    for item in items:
        planner.add(item)
    planner.protect()
    if not options.dry_run:
        planner.renew()
    return planner.plan


class _Planner:
    """A plan on its way."""

    def __init__(self, items: Sequence[Item], records: Records, settings: str, options: Options) -> None:
        self.plan = Plan()
        self._records, self._settings, self._options = records, settings, options
        self._now = time.time_ns()
        self._stats = {id(item): _stat(item.source) for item in items if not (item.skip or item.fault)}
        originals = {
            (status.st_dev, status.st_ino): item.source
            for item in items
            if (status := self._stats.get(id(item))) is not None
        }
        self._places = places.Places(records, originals)
        self._names = Counter(records.fold(item.target) for item in items)
        self._moved: list[tuple[Row, Task, str]] = []
        self._before: dict[str, Row] = {}

    def add(self, item: Item) -> None:
        """Decide about one file."""
        try:
            if item.skip or item.fault:
                self._pass_by(item)
            else:
                self._decide(item)
        except InputError:
            raise
        except Exception as error:
            reason = f"It cannot be planned ({getattr(error, 'strerror', None) or error}): see to its name and place."
            self.plan.passed.append(Task(item, 0, 0, "", "").row("failed", reason))
            self.plan.named.add(item.target)

    def protect(self) -> None:
        """Tell the tasks which faces the files that they are to replace protect."""
        if not self._before:
            return
        whole = self._records.whole([*self._before.values()])
        places = {row.target: tuple(tuple(face["box"]) for face in row.faces) for row in whole}  # type: ignore[arg-type]
        self.plan.tasks = [
            replace(task, protected=places[task.item.target]) if task.item.target in places else task
            for task in self.plan.tasks
        ]

    def renew(self) -> None:
        """Bring what is known of photos that are done up to date."""
        renewed = self._records.whole([row for row, _, _ in self._moved])
        by_target = {row.target: row for row in renewed}
        for old, task, stamp in self._moved:
            row = by_target[old.target]
            if old.place == task.place or not (old.place and os.path.exists(old.place)):
                row = replace(row, source=str(task.item.source), place=task.place, **task.looks)
            self.plan.renewed.append(replace(row, stamp=stamp))

    def _pass_by(self, item: Item) -> None:
        row = Task(item, 0, 0, "", "").row("skipped" if item.skip else "failed", item.skip or item.fault)
        if self._places.holder(item) is not None or self._names[self._records.fold(item.target)] > 1:
            row = replace(row, target=places.aside(item))
        else:
            self._hold(self._records.known(item.target))
        self.plan.named.add(row.target)
        self._note(item, row)

    def _hold(self, known: Known | None) -> None:
        if known is not None and known.holder is not None and known.intact:
            self.plan.holders[known.holder.target] = known.holder

    def _note(self, item: Item, row: Row) -> None:
        """A row that no work leads to."""
        old = self._records.row(row.target)
        if not self._options.restart and old is not None and replace(old, state=row.state) == row:
            self._earlier(item, row)
            if old.state != row.state:
                self.plan.renewed.append(row)
        else:
            self.plan.passed.append(row)

    def _earlier(self, item: Item, row: Row) -> None:
        self.plan.earlier[row.status] += 1
        if of_note(row) or (item.named and row.status == "skipped"):
            self.plan.left.append(row)

    def _decide(self, item: Item) -> None:
        size, modified, sha256, state = self._look(item)
        mine = int(sha256[:8], 16) % self._options.shard[1] == self._options.shard[0]
        key = hashlib.sha256(f"{sha256} {self._settings}".encode()).hexdigest()
        task = Task(item, size, modified, sha256, key, state)

        def aside() -> Task:
            return replace(task, item=replace(item, target=places.aside(item)), key="")

        if made_of := size and self._places.output(item.source, sha256):
            reason = f"It is the cloaked version of {made_of}: name the original instead."
            row = aside().row("failed" if item.named else "skipped", reason)
        else:
            # Also for a photo of another shard: all shards must give a name to the same photo.
            place = self._places.claim(item, sha256)
            if place.target != item.target:
                task = replace(task, item=replace(item, target=place.target))
            if place.twin:
                row = aside().row("skipped", f"The same photo as {place.twin}, and cloaked as that.")
            elif place.refusal:
                row = (aside() if place.other else replace(task, key="")).row("failed", place.refusal)
            else:
                self.plan.named.add(task.item.target)
                if mine and (self._options.restart or not self._done(task, place.known)):
                    self._do(task, place.known)
                return
        self.plan.named.add(row.target)
        if mine:
            self._note(item, row)

    def _do(self, task: Task, known: Known | None) -> None:
        """A task, with what it is to take care of in the output folder."""
        self._hold(known)
        holder = None if known is None else known.holder
        if known is not None and holder is not None and holder.status == "cloaked":
            if known.intact:
                task = replace(task, stamp=stamped(self._records.out / holder.target))
            if not self._options.restart:
                self._before[task.item.target] = holder
                task = replace(task, edited=holder.sha256 != task.sha256)
        self.plan.tasks.append(task)

    def _look(self, item: Item) -> tuple[int, int, str, str]:
        """Size, time, SHA-256 and state of a photo. If it cannot be read, zeros, a hash of its name and "".

        It is not hashed again if it is as a row says that it was.
        """
        status = self._stats[id(item)]
        if status is not None and stat.S_ISREG(status.st_mode):
            size, modified = status.st_size, files.modified(status)
            state, current = stated(status), (os.path.abspath(item.source), size, modified)
            for old in self._rows_of(item):
                if old.state == state and (old.at, old.size, old.modified) == current and old.sha256:
                    return size, modified, old.sha256, state
            with suppress(PhotoError):
                return size, modified, digest(item.source), "" if young(status, now=self._now) else state
        # Reading it says what it is, and says it in its row.
        return 0, 0, hashlib.sha256(os.fsencode(item.target)).hexdigest(), ""

    def _rows_of(self, item: Item) -> Iterator[Row]:
        """Rows of a photo by earlier calls."""
        for target in (item.target, places.aside(item)):
            if (row := self._records.row(target)) is not None:
                yield row

    def _done(self, task: Task, known: Known | None) -> bool:
        """Whether an earlier call did it, as this one would."""
        if known is None:
            return False
        holder, last = known.holder, known.last
        if holder is not None and known.intact and holder.key == task.key:
            stamp = stamped(self._records.out / holder.target)
            same = task.looks_as(holder) if holder.place == task.place else os.path.exists(holder.place)
            if last is not holder or stamp != holder.stamp or not same:
                self._moved.append((holder, task, stamp))
            self._earlier(task.item, holder)
            return True
        refused = BARED in last.reason and not known.intact  # for the sake of a file that is there no more
        if last.key == task.key and last.status != "cloaked" and not refused:
            if last.place == task.place and not task.looks_as(last):
                self._moved.append((last, task, last.stamp))
            self._earlier(task.item, last)
            return True
        return False


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def announce(manifest: Manifest, tasks: Sequence[Task]) -> None:
    """Note that files of these may be written from now on, so that one without a row is known for the tool's own."""
    earlier = ((task, manifest.get(task.item.target)) for task in tasks)
    fresh = [task for task, old in earlier if old is None or not owns(old)]
    manifest.put(*(replace(task.row("failed", INTERRUPTED), key="") for task in fresh))


def dry(cloaker: Cloaker, tasks: Sequence[Task], options: Options, watch: Watch) -> list[Row]:
    """Forecast of a run: which photos have faces, which would fail. Computes no cloak and writes nothing."""

    def forecast(task: Task) -> Row:
        try:
            photo = prepare(task.item.source, cloaker.detector, sha256=task.sha256)
            photos.encode(photo.photo, photo.photo.pixels, format=options.output.format, quality=options.output.quality)
            photo = cloaker.selected(photo)
        except Exception as error:
            return trouble.row(task, error, out=None)
        if not photo.cuts:
            return task.row(*cloaker.nothing(photo))
        if why := task.bared(photo):
            return task.row("failed", why)
        faces: list[dict[str, object]] = [{"box": [round(float(v), 1) for v in face.box]} for face in photo.faces]
        return task.row("cloaked", " ".join((*photo.unusable, *photo.notes)), faces=faces)

    rows = []
    with ThreadPoolExecutor(cloaker.workers) as pool:
        for row in pool.map(forecast, tasks):
            watch.row(row)
            rows.append(row)
    return rows
