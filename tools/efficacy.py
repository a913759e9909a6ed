"""Put the efficacy table of an evaluation into a page: RESULTS.json PAGE.md [--name NAME] [--check]

Two blocks are filled, whichever of them the page has: <!-- NAME: begin --> to <!-- NAME: end --> with the whole table,
<!-- NAME-brief: begin --> to <!-- NAME-brief: end --> with three of its rows. With --check nothing is written, and the
exit code is 1 if the page says something else than the results. tools/test checks all tables of the READMEs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.evaluate.tables import readme_table, replaced


def filled(page: str, results: dict, name: str) -> str:
    """The page with its blocks filled. Raises ValueError if it has none, or the results have no such table."""
    blocks = [block for block in (name, f"{name}-brief") if f"<!-- {block}: " in page] or [name]
    for block in blocks:
        page = replaced(page, block, readme_table(results, brief=block != name))
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--name", default="efficacy")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    text = options.page.read_text()
    try:
        new = filled(text, json.loads(options.results.read_text()), options.name)
    except ValueError as error:
        print(f"efficacy.py: {error}", file=sys.stderr)
        return 2
    if options.check:
        if new != text:
            print(f"{options.page} differs from {options.results}: run tools/efficacy.py", file=sys.stderr)
        return int(new != text)
    options.page.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
