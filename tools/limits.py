"""Put the section "What this does not do" into a page, between its marks: limits.py PAGE.md"""

from __future__ import annotations

import sys
from pathlib import Path

from engine.bulk.claims import limits_markdown
from engine.evaluate.tables import replaced

if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(replaced(page.read_text(), "limits", limits_markdown()))
