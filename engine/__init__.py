"""High-throughput image cloaking against face recognition.

`from engine import Cloaker` is the Python API; the command line is `cloak`. Importing this package alone is cheap: JAX
is loaded with the first of the names below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Cloaked", "CloakedFace", "Cloaker", "Detection", "Encoded", "Output", "Person", "Recipe", "WeakerWarning"]

if TYPE_CHECKING:
    from engine.bulk.cloaker import Cloaker
    from engine.bulk.person import Person
    from engine.bulk.results import Cloaked, CloakedFace, Encoded, WeakerWarning
    from engine.config import Detection, Output, Recipe


_HOMES = {
    "Cloaker": "engine.bulk.cloaker",
    "Person": "engine.bulk.person",
    **dict.fromkeys(("Cloaked", "CloakedFace", "Encoded", "WeakerWarning"), "engine.bulk.results"),
    **dict.fromkeys(("Detection", "Output", "Recipe"), "engine.config"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
