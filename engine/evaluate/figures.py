"""The look of all figures, and figures as SVG that can stand in one page beside others.

Figures are made by matplotlib's objects and not by pyplot: nothing global is left behind.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

COLOURS: tuple[str, ...] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that the colour-blind can tell apart too (Okabe and Ito 2008), the most legible first. Their yellow is left
out: on white it is neither."""

MARKERS: tuple[str, ...] = ("o", "s", "^", "D", "v", "P", "X")
"""One beside each colour: nothing is told by colour alone."""

_STYLE = {
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.edgecolor": "#767676",
    "axes.grid": True,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "grid.color": "#e4e4e0",
    "grid.linewidth": 0.8,
}
_SVG = "http://www.w3.org/2000/svg"
_LINK = "http://www.w3.org/1999/xlink"


class _Figure(Figure):
    """Axes take their style when they are made, which is after the figure is."""

    def add_subplot(self, *args: Any, **options: Any) -> Any:  # type: ignore[bad-override]
        with matplotlib.rc_context(_STYLE):
            return super().add_subplot(*args, **options)


def new(width: float = 7.0, height: float = 4.0) -> Figure:
    """An empty figure in the house style, in inches; the layout makes room for labels and outside legends.

    Example:
        >>> axes = new().subplots()
        >>> _ = axes.plot([0.003, 0.007, 0.017], [0.2, 0.8, 1.0])
    """
    return _Figure(figsize=(width, height), layout="constrained", facecolor="white")


_ELEMENTS = re.compile(
    "svg|g|path|defs|use|text|tspan|rect|circle|ellipse|line|polyline|polygon|clipPath|image|title|desc|linearGradient|"
    "radialGradient|stop|marker|mask|pattern"
)
_INSIDE = re.compile(r"#[\w.-]+|data:image/png;base64,[A-Za-z0-9+/=\s]*")


def checked(markup: str) -> str:
    """An <svg> that draws and does nothing else, as it came. Raises ValueError for any other text.

    What is kept on disk may have been changed there, and a page has it as it is. So it may hold no script, no link,
    nothing that is fetched, and no element of HTML.
    """
    if "<!" in markup or "<?" in markup:
        raise ValueError("a figure has no declarations")
    try:
        root = ElementTree.fromstring(markup)
    except ElementTree.ParseError as error:
        raise ValueError(f"a figure must be SVG ({error})") from None
    if root.tag != f"{{{_SVG}}}svg":
        raise ValueError("a figure must be SVG")
    for element in root.iter():
        if not _ELEMENTS.fullmatch(element.tag.removeprefix(f"{{{_SVG}}}")):
            raise ValueError(f"a figure has no <{element.tag}>")
        for name, value in element.attrib.items():
            plain = name.rpartition("}")[2].lower()
            linked = plain == "href" and not _INSIDE.fullmatch(value)
            if plain.startswith("on") or linked or re.search(r"url\((?!#)|javascript:|@import|expression", value, re.I):
                raise ValueError(f"a figure has no {plain}={value!r:.80}")
    return markup


def svg(figure: Figure) -> str:
    """An <svg> element that takes the width there is, on its own or in a page; the same figure gives the same text.

    Words stay words (to be searched, read aloud and enlarged). All ids begin with a hash of the figure, so several can
    be in one page, and no style reaches out of it.
    """
    data = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fawkes-engine"}):
        # Without metadata: a date would make every run's file another one.
        figure.savefig(data, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = data.getvalue()
    root = ElementTree.fromstring(text)
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:10] + "-"
    for parent in list(root.iter()):
        for style in parent.findall(f"{{{_SVG}}}style"):
            parent.remove(style)  # "*{...}": in a page it would reach everything
        for key, value in parent.attrib.items():
            if key == "id":
                parent.set(key, prefix + value)
            elif key == f"{{{_LINK}}}href":
                parent.set(key, value.replace("#", "#" + prefix, 1))
            elif "url(#" in value:
                parent.set(key, re.sub(r"url\(#", f"url(#{prefix}", value))
    del root.attrib["height"]
    root.set("width", "100%")
    root.set("role", "img")
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    return ElementTree.tostring(root, encoding="unicode")
