"""The command `cloak`, also as `python -m engine`: an interrupt while it is still being loaded is no traceback."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command. Returns its exit code."""
    try:
        from engine import cli

        return cli.main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
