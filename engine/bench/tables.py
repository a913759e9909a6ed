"""Rows as text, one line each as they are measured: a few columns for people; the JSON has all."""

from __future__ import annotations

from typing import Any, NamedTuple


class Column(NamedTuple):
    """keys: where in a row the value is, from the outside in. digits: after the point, None for what is no number."""

    title: str
    keys: tuple[str, ...]
    digits: int | None = 0


def _columns(text: str) -> tuple[Column, ...]:
    """TITLE=KEY.KEY:DIGITS, separated by spaces; a title's underscores are spaces."""
    columns = []
    for column in text.split():
        title, _, rest = column.partition("=")
        keys, _, digits = rest.partition(":")
        columns.append(Column(title.replace("_", " "), tuple(keys.split(".")), int(digits) if digits else None))
    return tuple(columns)


COLUMNS: dict[str, tuple[Column, ...]] = {
    "peak": _columns("what=what precision=precision best=best:1 median=median:1 spread=spread:2 unit=unit"),
    "compile": _columns(
        "program=program batch=batch:0 devices=devices:0 made=made:0 trace_s=trace_s:2 cold_s=cold_s:2 warm_s=warm_s:2"
    ),
    "step": _columns(
        "batch=batch:0 devices=devices:0 step_ms=step_ms:2 min=step_ms_min:2 spread=step_spread:2 "
        "forward_ms=forward_ms:2 GFLOP/s=step_gflops:1 of_peak=share_of_peak:3 MFU=mfu:3 host_MB=host_mb:0 "
        "device_MB=device_mb:0"
    ),
    "solve": _columns(
        "batch=batch:0 devices=devices:0 faces=faces:0 faces/s=faces_per_s:3 s/face=s_per_face:3 "
        "faces/s/device=faces_per_s_per_device:3 occupancy=occupancy:3 chunk_s=chunk_s:2 between_s=between_s:2 "
        "DSSIM=dssim_median:5 max=dssim_max:5 shift=shift steps=steps:0 host_MB=host_mb:0 device_MB=device_mb:0"
    ),
    "goal": _columns(
        "goal=goal:1 batch=batch:0 devices=devices:0 faces=faces:0 reached=reached:2 steps=steps_median:0 "
        "s_to_goal=seconds_to_goal:2 faces/s=faces_per_s:3 occupancy=occupancy:3 DSSIM=dssim_median:5 max=dssim_max:5 "
        "shift=shift"
    ),
    "photos": _columns(
        "batch=batch:0 devices=devices:0 photos=photos:0 faces=faces:0 photos/s=photos_per_s:3 "
        "photos/hour=photos_per_hour:0 faces/s=faces_per_s:3 steady_occupancy=steady_occupancy:3 "
        "prepare_s=seconds.prepare:1 solve_s=seconds.solve:1 finish_s=seconds.finish:1 waited_s=seconds.wait:1 "
        "blocked_s=seconds.blocked:1 DSSIM=dssim_mean:5 max=dssim_max:5 host_MB=host_mb:0 device_MB=device_mb:0"
    ),
}


def lines(section: str, row: dict[str, Any], *, first: bool) -> list[str]:
    """The line of a row, and before the first one the line of titles. Columns that a row has not are left out."""
    columns = [column for column in COLUMNS[section] if _value(row, column) is not None]
    cells = [_text(_value(row, column), column) for column in columns]
    widths = [_width(column, row) for column in columns]
    titles = ["  ".join(column.title.rjust(width) for column, width in zip(columns, widths, strict=True))]
    return [*(titles if first else ()), "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]


def _value(row: dict[str, Any], column: Column) -> Any:
    value: Any = row
    for key in column.keys:
        value = None if value is None else value.get(key)
    return value


def _text(value: Any, column: Column) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:.2f}" for name, number in value.items())
    return str(value) if column.digits is None else f"{value:.{column.digits}f}"


def _width(column: Column, row: dict[str, Any]) -> int:
    value = _value(row, column)
    if isinstance(value, dict):
        return len(_text(value, column))
    return max(len(column.title), 24 if column.digits is None else 7)
