"""Put the efficacy table of an evaluation into the README: RESULTS.json README.md [--check]

The table is written between <!-- efficacy: begin --> and <!-- efficacy: end -->. With --check nothing is written, and
the exit code is 1 where the README says something else than the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.evaluate.tables import readme_table, replaced


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    text = given.readme.read_text()
    try:
        new = replaced(text, "efficacy", readme_table(json.loads(given.results.read_text())))
    except ValueError as error:
        print(f"efficacy.py: {error}", file=sys.stderr)
        return 2
    if given.check:
        if new != text:
            print(f"{given.readme} differs from {given.results}: run tools/efficacy.py", file=sys.stderr)
        return int(new != text)
    given.readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
