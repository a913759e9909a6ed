"""What a cloak does and does not do, in plain sentences: one place, for the terminal and for the report.

No figures: they depend on photos and trackers, and are in the README, from `cloak evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence

PUBLISH = "Publish no clean photo of the same face."


def protection(networks: Sequence[str]) -> tuple[str, str]:
    """What cloaks made on these networks protect against, and what not."""
    these = "this network" if len(networks) == 1 else "these networks"
    return (
        f"Cloaks made against {listed(networks)} mislead recognisers built on {these}: by network and budget from some "
        "of a person's photos to nearly all.",
        "Against others it is anything from most of a person's photos to none: see 'Does it protect?' in the README.",
    )


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
