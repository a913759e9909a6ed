"""The two figures that most presets draw: rates with their intervals by category, and rates along a quantity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from engine.evaluate import figures
from engine.evaluate.presets import Value

Rows = Sequence[dict[str, Value]]
GREY = "#767676"
FEW = 3
"""Lines up to which their intervals are shaded: more shades hide each other, and the table has them."""

SHORT = 24
"""Characters of the longest label if a legend is to have four columns; with longer ones it has two."""


def dots(rows: Rows, *, by: str, colour: str, note: str = "") -> Figure:
    """Protection as dots with 95 % intervals.

    Every value of column `by` has a line of text, and each of `colour` a colour. A filled dot means that the tracker's
    network took part in making the cloaks, a hollow one that it was held out. Grey ticks are the floors. note: which of
    the trackers, below the axis.
    """
    lines, kinds = _values(rows, by), _values(rows, colour)
    step = 0.8 / max(len(kinds), 1)
    figure = figures.new(height=1.4 + len(lines) * (0.16 + 0.16 * len(kinds)))
    axes = figure.subplots()
    for row in rows:
        kind = kinds.index(row[colour])
        y = lines.index(row[by]) + (kind - (len(kinds) - 1) / 2) * step
        value, hue = float(row["protection"]), _hue(kind)
        axes.plot([float(row["protection_low"]), float(row["protection_high"])], [y, y], color=hue, lw=1.5)
        axes.plot(value, y, color=hue, marker=_marker(kind), ms=6, mfc=hue if row["part"] == "in" else "white", mew=1.5)
        axes.plot(float(row["floor"]), y, color=GREY, marker="|", ms=9, mew=2)
    axes.set_yticks(range(len(lines)), [str(line) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("protection: clean photos of users not named as them" + (note and f" ({note})"))
    axes.grid(axis="y", visible=False)
    _legend(figure, kinds, parts=_values(rows, "part"))
    return figure


def curves(rows: Rows, *, x: str, line: str, panel: str, label: str, percent: bool = False) -> Figure:
    """Protection along column `x`: a panel for each value of column `panel`, a line for each of `line`.

    Solid and filled means that the tracker's network took part in making the cloaks, dashed and hollow that it was held
    out. Grey band: the floors of the panel, from the lowest to the highest. label: of the x axis. percent: x is a
    share.
    """
    panels, kinds = _values(rows, panel), _values(rows, line)
    figure = figures.new(height=4.2)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, name in zip(every, panels, strict=True):
        shown = [row for row in rows if row[panel] == name]
        _floors(axes, shown, x)
        for kind, value in enumerate(kinds):
            line_rows = sorted((row for row in shown if row[line] == value), key=lambda row: float(row[x]))
            if not line_rows:
                continue
            took_part = line_rows[0]["part"] == "in"
            at = [float(row[x]) for row in line_rows]
            low, high = ([float(row[f"protection_{end}"]) for row in line_rows] for end in ("low", "high"))
            if len(kinds) <= FEW:
                axes.fill_between(at, low, high, color=_hue(kind), alpha=0.12, lw=0)
            axes.plot(
                at,
                [float(row["protection"]) for row in line_rows],
                color=_hue(kind),
                marker=_marker(kind),
                mfc=_hue(kind) if took_part else "white",
                ls="-" if took_part else "--",
            )
        axes.set_title(str(name))
        axes.set_ylim(-0.02, 1.02)
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1))
    every[0].yaxis.set_major_formatter(PercentFormatter(1))
    every[0].set_ylabel("protection")
    figure.supxlabel(label, fontsize="medium")  # once: under each of several panels it would run into the next
    _legend(figure, kinds, parts=_values(rows, "part"), floors="s")
    return figure


def _floors(axes: Axes, rows: Rows, x: str) -> None:
    at = sorted({float(row[x]) for row in rows})
    floors = [[float(row["floor"]) for row in rows if float(row[x]) == place] for place in at]
    low, high = np.array([min(values) for values in floors]), np.array([max(values) for values in floors])
    axes.fill_between(at, low - 0.004, high + 0.004, color=GREY, alpha=0.45, lw=0)


def _legend(figure: Figure, kinds: Sequence[Value], *, parts: Sequence[Value], floors: str = "|") -> None:
    handles = [Line2D([], [], color=_hue(i), marker=_marker(i), ls="", label=str(kind)) for i, kind in enumerate(kinds)]
    if "in" in parts:
        handles.append(Line2D([], [], color="black", marker="o", ls="", label="filled: took part"))
    if "held-out" in parts:
        handles.append(Line2D([], [], color="black", marker="o", mfc="white", ls="", label="hollow: held out"))
    handles.append(Line2D([], [], color=GREY, marker=floors, ls="", ms=9, mew=2, label="floor: no cloak"))
    columns = 4 if max(len(str(handle.get_label())) for handle in handles) <= SHORT else 2
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize="small", frameon=False)


def _values(rows: Rows, key: str) -> list[Value]:
    return list(dict.fromkeys(row[key] for row in rows))


def _hue(index: int) -> str:
    return figures.COLOURS[index % len(figures.COLOURS)]


def _marker(index: int) -> str:
    return figures.MARKERS[index % len(figures.MARKERS)]
