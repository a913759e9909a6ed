"""What trackers see with: photos to embeddings. The engine's extractors, and recognisers as they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32


class Recogniser(Protocol):
    """name: in tables. extractors: networks of the engine's registry that it is, under the registry's names: a library
    that runs the same weights names them too, so that it is never called held out when it is not.
    """

    name: str
    extractors: tuple[str, ...]

    def embed(self, photos: Sequence[Path]) -> list[Float32[np.ndarray, "d"] | None]:
        """The embedding of the central face of each photo; None where this recogniser finds no face."""
        ...
