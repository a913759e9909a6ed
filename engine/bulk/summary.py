"""Figures of a run: the last line of `cloak run`, for people and for machines."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.bulk.manifest import Row
from engine.bulk.people import OTHERS, UNLIKE
from engine.bulk.pipeline import Clock
from engine.bulk.status import is_faceless, is_unread


@dataclass(frozen=True)
class Summary:
    """Outcome of a run.

    counts: photos by status, of those this call worked on. earlier: those done before it. dssim: of all faces cloaked
    by this call. seconds: wall time as "total", and time by phase. In it prepare and finish are summed over their
    threads and overlap the solver's time. The other phases are as in `pipeline.Clock`. occupancy: share of the steps of
    all slots that worked on a face. steady_occupancy: the same while there were more photos to come, None if there
    never were. unprotected: photos that failed or have a face that is not cloaked, now or since an earlier call.
    faceless, unread: photos without a face, and pictures and films that are not read, now or since an earlier call.
    unlike: photos that this call left as they are, since nobody in them is like the reference photo of `--only`.
    others: photos that it cloaked and in which it left faces of others as they are, for the same reason.
    again: photos whose cloaked file of an earlier call, made with other settings or weights, it was to replace.
    report: path of the personal report, None without one. unreported: why there is none though one was asked for.
    compiles: what this process compiled, as in `compiles.Recorder.as_dict`. It leaves out what the workers of others
    did.
    """

    counts: dict[str, int]
    earlier: dict[str, int]
    faces: int
    faces_per_second: float
    dssim_mean: float | None
    dssim_max: float | None
    seconds: dict[str, float]
    occupancy: float | None
    steady_occupancy: float | None
    dry_run: bool
    unprotected: int = 0
    faceless: int = 0
    unread: int = 0
    unlike: int = 0
    others: int = 0
    again: int = 0
    report: str | None = None
    unreported: str = ""
    compiles: dict[str, Any] = field(default_factory=dict)

    @property
    def worked(self) -> int:
        """Photos that this call worked on: not done earlier and not passed by as no photos."""
        return sum(self.counts.values()) - self.counts["skipped"]

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), allow_nan=False)


def summarise(
    rows: Sequence[Row],
    earlier: Counter[str],
    clock: Clock,
    total: float,
    *,
    remaining: Sequence[Row] = (),
    again: int = 0,
    dry_run: bool = False,
) -> Summary:
    """The summary of the rows that a call worked on. total: seconds of wall time. remaining: rows of earlier calls.

    again: as in `Summary`.
    """
    counts = Counter({"cloaked": 0, "no_face": 0, "skipped": 0, "failed": 0})
    counts.update(row.status for row in rows)
    faces = [face for row in rows for face in row.faces]
    dssim = [float(face["dssim"]) for face in faces if "dssim" in face]  # type: ignore[arg-type]
    seconds = {
        "total": total,
        "group": clock.group,
        "prepare": clock.prepare,
        "solve": clock.solve,
        "between": clock.between,
        "finish": clock.finish,
        "wait": clock.wait,
        "blocked": clock.blocked,
    }
    return Summary(
        counts=dict(counts),
        earlier=dict(earlier),
        faces=len(faces),
        faces_per_second=round(len(dssim) / total, 3) if total else 0.0,
        dssim_mean=math.fsum(dssim) / len(dssim) if dssim else None,
        dssim_max=max(dssim) if dssim else None,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        occupancy=_share(clock.worked, clock.slot_steps),
        steady_occupancy=_share(clock.steady_worked, clock.steady_slot_steps),
        dry_run=dry_run,
        unprotected=sum(row.unprotected for row in (*rows, *remaining)),
        faceless=sum(map(is_faceless, (*rows, *remaining))),
        unread=sum(map(is_unread, (*rows, *remaining))),
        unlike=sum(row.status == "skipped" and row.reason.startswith(UNLIKE) for row in rows),
        others=sum(row.status == "cloaked" and OTHERS in row.reason for row in rows),
        again=again,
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
