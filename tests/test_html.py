"""Pages for people: every text escaped, every name readable."""

from __future__ import annotations

import base64
import hashlib

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import assert_self_contained

from engine import html


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Zoë 家族 👩‍👧.jpg", "Zoë 家族 👩‍👧.jpg"),
        ("two\nlines\tand\0more", r"two\nlines\tand\x00more"),
        ("turned\u202egpj.exe", r"turned\u202egpj.exe"),
        ("line\u2028end\x85", r"line\u2028end\x85"),
        (b"not\xff utf8".decode(errors="surrogateescape"), r"not\xff utf8"),
        ("half\ud800", r"half\ud800"),
    ],
)
def test_a_name_is_one_readable_line(name: str, shown: str) -> None:
    assert html.readable(name) == shown


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_any_name_becomes_one_line_that_can_be_written(name: str) -> None:
    shown = html.readable(name)
    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1


def test_texts_are_escaped_in_every_template_and_missing_values_are_errors() -> None:
    template = html.environment().from_string('<a title="{{ name }}">{{ name }}</a>{{ made }}')
    assert template.render(name="\"'<b>&", made=html.safe("<i></i>")) == (
        '<a title="&#34;&#39;&lt;b&gt;&amp;">&#34;&#39;&lt;b&gt;&amp;</a><i></i>'
    )
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        html.environment().from_string("{{ nothing }}").render()


def test_a_page_may_run_its_own_script_and_no_other() -> None:
    frame = html.environment().from_string(
        '{% extends "frame.html.jinja" %}{% block script %}let a = "<&>";{% endblock %}'
    )
    page = assert_self_contained(frame.render())
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    (policy,) = (tag["content"] for tag in page.all("meta") if tag.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in policy
    without = html.environment().from_string('{% extends "frame.html.jinja" %}').render()
    assert "script" not in without
