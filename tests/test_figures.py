"""Figures as they stand in a page: beside each other, without reaching out of themselves."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pages import Page

from engine.evaluate import figures


def drawn(title: str = "Protection") -> Figure:
    figure = figures.new()
    axes = figure.subplots()
    axes.plot([0.003, 0.007], [0.2, 0.8], marker=figures.MARKERS[0], label="web-incept")
    axes.fill_between([0.003, 0.007], [0.1, 0.7], [0.3, 0.9])
    axes.set_title(title)
    figure.legend(loc="outside upper center")
    return figure


def test_several_figures_share_a_page() -> None:
    page = Page(figures.svg(drawn("Protection")) + figures.svg(drawn("Purification")))
    assert len(page.ids) == len(set(page.ids))
    references = [
        reference
        for _, attributes in page.elements
        for value in attributes.values()
        for reference in re.findall(r"url\(#([^)]*)\)|^#(.*)$", value)
    ]
    assert references
    assert {name or fallback for name, fallback in references} <= set(page.ids)
    assert not page.all("style"), "a style in a figure reaches the whole page"


def test_the_same_figure_is_the_same_text_and_stands_alone() -> None:
    text = figures.svg(drawn())
    assert text == figures.svg(drawn())
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not list(root.iter("{http://www.w3.org/2000/svg}metadata"))
    assert "href" not in "".join(root.attrib)


SVG = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@pytest.mark.parametrize(
    "markup",
    [
        "",
        "words",
        "<b>bold</b>",
        "<svg><g/></svg>",
        f"<svg {SVG}><script>alert(1)</script></svg>",
        f"<svg {SVG}><g onclick='alert(1)'/></svg>",
        f"<svg {SVG} ONLOAD='alert(1)'/>",
        f"<svg {SVG}><a xlink:href='https://there'><text>here</text></a></svg>",
        f"<svg {SVG}><use xlink:href='https://there#x'/></svg>",
        f"<svg {SVG}><image href='https://there/x.png'/></svg>",
        f"<svg {SVG}><image href='data:image/svg+xml;base64,PHN2Zz4='/></svg>",
        f"<svg {SVG}><g style='fill: url(https://there)'/></svg>",
        f"<svg {SVG}><g style='fill: url( \"https://there\")'/></svg>",
        f"<svg {SVG}><foreignObject><p xmlns='http://www.w3.org/1999/xhtml'>x</p></foreignObject></svg>",
        f"<svg {SVG}><style>*{{display: none}}</style></svg>",
        f"<svg {SVG}><animate attributeName='href' values='javascript:alert(1)'/></svg>",
        f"<!DOCTYPE svg [<!ENTITY x 'y'>]><svg {SVG}>&x;</svg>",
        f"<svg {SVG}></svg><script>alert(1)</script>",
    ],
)
def test_what_does_more_than_draw_is_refused(markup: str) -> None:
    with pytest.raises(ValueError, match="figure"):
        figures.checked(markup)


def test_a_figure_of_the_house_is_only_drawn() -> None:
    figure = figures.new()
    axes = figure.subplots()
    axes.plot([0, 1], label="<b>")
    axes.imshow(np.zeros((2, 2)))
    axes.legend()
    assert figures.checked(figures.svg(figure)) == figures.svg(figure)


def test_it_takes_the_width_there_is_and_its_words_are_words() -> None:
    page = Page(figures.svg(drawn("Protection <b> & more")))
    (root,) = page.all("svg")
    assert root["width"] == "100%"
    assert "height" not in root
    assert root["viewbox"].split()[:2] == ["0", "0"]
    assert "Protection <b> & more" in page.text
    assert "web-incept" in page.text


def test_colours_are_the_house_s_and_nothing_global_is_left_behind() -> None:
    before = dict(matplotlib.rcParams)
    axes = figures.new().subplots()
    for expected in figures.COLOURS:
        assert axes.plot([0, 1])[0].get_color() == expected
    assert not axes.spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("lacking", ["protanopia", "deuteranopia"])
def test_no_two_colours_look_alike_to_the_colour_blind(lacking: str) -> None:
    """Viénot, Brettel and Mollon (1999): what red- and green-blind people see, in linear RGB."""
    row = {"protanopia": [0.11238, 0.88762, 0.0], "deuteranopia": [0.29275, 0.70725, 0.0]}[lacking]
    blue = {"protanopia": [0.00401, -0.00401, 1.0], "deuteranopia": [-0.02234, 0.02234, 1.0]}[lacking]
    seen = [np.array([row, row, blue]) @ np.array(to_rgb(colour)) ** 2.2 for colour in figures.COLOURS]
    apart = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(apart) > 0.05
    assert len(figures.MARKERS) >= len(figures.COLOURS)
