"""Rows of figures as tables: for people (rounded, with intervals), for programs (CSV, unrounded) and for READMEs.

A row is a flat dictionary as `protocol.Measured.row` and `study.Cloaks.quality` give it, with columns of the preset's
own. A column X with X_low and X_high beside it is a rate with its interval.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.html import readable

Rows = Sequence[Mapping[str, Any]]

HEADINGS = {
    "part": "network took part?",
    "protection": "protection (95 %)",
    "floor": "floor: no cloak (95 %)",
    "others": "others named rightly",
    "others_floor": "others, no cloak",
    "users": "users",
    "scraped": "scraped photos of users",
    "tests": "clean test photos",
    "other_people": "other people",
    "faceless": "test photos without a face",
    "cloaked": "cloaked photos",
    "dssim_mean": "mean DSSIM",
    "dssim_max": "largest DSSIM",
}
"""Words for the columns that presets share. The others are in the words of the preset."""
FIRST = ("tracker", "part", "protection", "floor", "others", "others_floor", "dssim_mean", "dssim_max")
"""Behind the condition that a row is about, and before the counts."""
SETTING = ("users", "scraped", "tests", "other_people", "faceless", "cloaked", "dssim_mean", "dssim_max")
"""Said once for the table where all rows have the same."""
PARTS = {"in": "in", "held-out": "held out"}
_PERCENT = re.compile(r"(protection|floor|others|leaked|share|top_\d+)(_.*)?|.*accuracy.*")
_ENDS = ("_low", "_high")


class Table(NamedTuple):
    """A table as people read it.

    headings, rows: texts. figures: which columns are figures. setting: what all rows share.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: tuple[bool, ...]
    setting: tuple[str, ...]


def columns(rows: Rows) -> list[str]:
    """The keys of all rows: the condition's own first, what was measured, the counts, anything else."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    known = [*FIRST, *(key for key in SETTING if key not in FIRST)]
    start = min((keys.index(key) for key in keys if key in known), default=len(keys))

    def place(key: str) -> tuple[int, int]:
        base = next((key.removesuffix(end) for end in _ENDS if key.endswith(end)), key)
        if base in known:
            return 1, known.index(base)
        return (0, 0) if keys.index(key) < start else (2, 0)

    return sorted(keys, key=place)


def table(rows: Rows) -> Table:
    """Rounded, an interval beside its rate; what is the same in all rows of several is named once."""
    keys = columns(rows)
    merged = {base + end for base in keys for end in _ENDS if all(base + ending in keys for ending in _ENDS)}
    shown = [key for key in keys if key not in merged]
    if "recogniser" in shown and "head" in shown:
        shown = [key for key in shown if key != "tracker"]  # the two in one word
    rates = {key for key in shown if _is_rate(key, rows)}
    texts = {key: [_cell(key, row, keys, rate=key in rates) for row in rows] for key in shown}
    shared = [key for key in shown if key in SETTING and len(rows) > 1 and len(set(texts[key])) == 1]
    body = [key for key in shown if key not in shared]
    return Table(
        headings=tuple(heading(key) for key in body),
        rows=tuple(zip(*(texts[key] for key in body), strict=True)),
        figures=tuple(all(isinstance(row.get(key), (int, float, type(None))) for row in rows) for key in body),
        setting=tuple(f"{heading(key)} {texts[key][0]}" for key in shared),
    )


def heading(key: str) -> str:
    """A column's name in words."""
    return HEADINGS.get(key, readable(key).replace("_", " "))


def percent(share: float | None) -> str:
    """Whole percents from ten on, else one digit if it says something: "24 %", "1.5 %", "2 %". Without a value: "-"."""
    if share is None or math.isnan(share):
        return "-"
    digits = 0 if abs(share) >= 0.0995 else 1
    return f"{100 * share:.{digits}f}".removesuffix(".0") + " %"


def with_interval(row: Mapping[str, Any], key: str) -> str:
    """A rate with its 95 % interval: "24 % (18-30)"."""
    text = percent(row[key])
    if text == "-":
        return text
    low, high = (percent(row.get(key + end)).removesuffix(" %") for end in _ENDS)
    return f"{text} ({low}-{high})"


def _is_rate(key: str, rows: Rows) -> bool:
    """Whether its name is that of a rate and it has a fraction somewhere: counts of others are no rates."""
    return bool(_PERCENT.fullmatch(key)) and any(isinstance(row.get(key), float) for row in rows)


def _cell(key: str, row: Mapping[str, Any], keys: Sequence[str], *, rate: bool) -> str:
    value = row.get(key)
    if isinstance(value, str):
        return PARTS.get(value, value) if key == "part" else readable(value)
    if value is None or math.isnan(value):
        return "-"
    if rate:
        return with_interval(row, key) if all(key + end in keys for end in _ENDS) else percent(value)
    if isinstance(value, int):
        return str(value)
    if "dssim" in key:
        return f"{value:.5f}"
    return f"{value:.4f}" if key.endswith("auc") else f"{value:.4g}"


def markdown(rows: Rows) -> str:
    """`table` in GitHub's Markdown."""
    shown = table(rows)
    text = _markdown(shown.headings, shown.rows)
    return text + (f"\nIn all rows: {escaped(', '.join(shown.setting))}.\n" if shown.setting else "")


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(escaped, line))} |\n" for line in lines)


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, in a cell of a table too."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def unrounded(rows: Rows) -> str:
    """CSV (RFC 4180) of all columns as they are."""
    data = io.StringIO()
    writer = csv.DictWriter(data, columns(rows), restval="")
    writer.writeheader()
    writer.writerows({k: readable(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)
    return data.getvalue()


def readme_table(results: Mapping[str, Any], *, brief: bool = False) -> str:
    """The efficacy table of a results.json: a line for each recogniser, a column for each kind of tracker.

    brief: only three, against which protection is best or worst, of those that took part and of others. Raises
    ValueError if the preset "protection" is not among the results.
    """
    try:
        rows, recipe = results["presets"]["protection"]["rows"], results["recipe"]
    except KeyError as error:
        raise ValueError(f'these results have no {error}: run `cloak evaluate` with the preset "protection"') from None
    heads = list(dict.fromkeys(row["head"] for row in rows))
    lines = []
    for recogniser in _telling(rows) if brief else dict.fromkeys(row["recogniser"] for row in rows):
        by_head = {row["head"]: row for row in rows if row["recogniser"] == recogniser}
        cells = [
            f"{with_interval(by_head[head], 'protection')}; {percent(by_head[head]['floor'])}"
            if head in by_head
            else "-"
            for head in heads
        ]
        lines.append([recogniser, PARTS[next(iter(by_head.values()))["part"]], *cells])
    table = _markdown(["recogniser", "in or held out", *heads], lines)
    first = rows[0]
    people = f"{first['users']} users, {first['cloaked']} cloaked photos, {first['tests']} clean test photos"
    text = f"{table}\nIn each cell: protection (95 % interval); floor. {people}"
    if brief:
        return f"{text}, mean DSSIM {first['dssim_mean']:.4f}.\n"
    return (
        f"{text}, {first['other_people']} other people. "
        f"Cloaks made on {', '.join(recipe['extractors'])}, rho {recipe['rho']:g}, objective {recipe['objective']}; "
        f"DSSIM of the face regions in the files: mean {first['dssim_mean']:.5f}, largest {first['dssim_max']:.5f}.\n"
    )


def _telling(rows: Rows) -> list[str]:
    """The recognisers of the brief table, by the mean protection over their trackers.

    The worst of those that took part, the best and the worst of others; and the best that took part, if that are two.
    """
    means: dict[str, dict[str, float]] = {part: {} for part in PARTS}
    for row in rows:
        values = [peer["protection"] for peer in rows if peer["recogniser"] == row["recogniser"]]
        known = [value for value in values if value is not None and not math.isnan(value)]
        if known:
            means[row["part"]][row["recogniser"]] = sum(known) / len(known)
    ends = [end(part, key=part.__getitem__) for part in means.values() if part for end in (max, min)]
    return list(dict.fromkeys(ends))[-3:]


def replaced(text: str, name: str, new: str) -> str:
    """`text` with what lies between `<!-- NAME: begin -->` and `<!-- NAME: end -->` replaced.

    Raises ValueError if there is not exactly one such pair.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"there must be one {begin} and one {end} after it")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{new.strip()}\n\n{end}{rest.partition(end)[2]}"
