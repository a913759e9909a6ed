"""Input that a network expects."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """Crop and scaling of one network's input.

    size: side of its input in pixels. window: the square crop [lo, hi) on both axes, in pixels of the canvas
    (`engine.config.CANVAS` wide; ArcFace's 112-pixel template lies at 32..144). Pixels in [0, 1] become
    (x * 255 - mean) / scale, channels reversed first if `bgr` (mean is then in that order too). down: canvas pixels
    that the crop lies lower than `window`, for a network whose crops are not centred as ArcFace's are.

    Raises ValueError for an empty window, a size or scale that is not positive, and numbers that are not finite.
    """

    size: int
    window: tuple[float, float]
    mean: tuple[float, float, float]
    scale: float
    bgr: bool = False
    down: float = 0.0

    def __post_init__(self) -> None:
        """Checks what a checkpoint's manifest or a caller wrote."""
        if not all(map(math.isfinite, (self.size, *self.window, *self.mean, self.scale))):
            raise ValueError(f"what a network expects of its input must be finite numbers; got {self}")
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel; got {self.size}")
        if not self.window[0] < self.window[1]:
            raise ValueError(f"window must be (lo, hi) with lo < hi, in canvas pixels; got {self.window}")
        if not self.scale > 0:
            raise ValueError(f"scale must be positive; got {self.scale}")
        if not math.isfinite(self.down):
            raise ValueError(f"down must be a finite number of canvas pixels; got {self.down}")

    @property
    def window_yx(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The crop as `engine.extractors.crop` takes it: (lo, hi) of y, then of x, in canvas pixels."""
        lo, hi = self.window
        return (lo + self.down, hi + self.down), self.window
