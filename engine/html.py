"""The pages that are written for people: one frame, one style, everything in the file itself, every text escaped.

A page needs no network. Its policy (Content-Security-Policy, CSP Level 3) forbids it to fetch anything. It forbids any
script but the page's own, which is named by its hash. The templates are in engine/templates.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from engine.terminal import readable


def safe(markup: str) -> Markup:
    """Markup that a template or a figure has already escaped, put in a page as it is. Never for a text of others."""
    return Markup(markup)


def data_uri(data: bytes, kind: str) -> str:
    """A file as an address that holds it. kind: "image/jpeg" and so on."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@cache
def environment() -> Environment:
    """Templates with autoescape on, whatever their names end in; a value that is not given is an error."""
    templates = Environment(
        loader=PackageLoader("engine", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["readable"] = readable
    templates.filters["csp_hash"] = _csp_hash
    templates.filters["json"] = json.dumps
    return templates


def render(template: str, **values: object) -> str:
    """A template of engine/templates, filled in."""
    return environment().get_template(template).render(values)


def stream(template: str, **values: object) -> Iterator[str]:
    """A template filled in piece by piece, as iterators among the values yield: a page is never whole in memory."""
    return environment().get_template(template).generate(values)


@cache
def version(*templates: str) -> str:
    """Hash of templates' sources: what was written with others is of another version."""
    loader = environment().loader
    assert loader is not None
    sources = [loader.get_source(environment(), name)[0] for name in templates]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def _csp_hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()
