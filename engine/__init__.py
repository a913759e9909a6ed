"""High-throughput image cloaking against face recognition.

`from engine import Cloaker` is the Python API; the command line is `cloak`. Importing this package alone is cheap: JAX
is loaded with the first of the names below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Cloaked", "CloakedFace", "Cloaker", "Detection", "Recipe"]

if TYPE_CHECKING:
    from engine.bulk.cloaker import Cloaked, CloakedFace, Cloaker
    from engine.config import Detection, Recipe


def __getattr__(name: str) -> object:
    if name in ("Cloaker", "Cloaked", "CloakedFace"):
        from engine.bulk import cloaker

        return getattr(cloaker, name)
    if name in ("Detection", "Recipe"):
        from engine import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
