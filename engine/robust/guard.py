"""The watch against catastrophic overfitting, in which a one-step adversary is beaten and a real one is not.

Training on FGSM examples can, within a few steps, produce a network that is robust to FGSM alone. The loss looks better
than ever while the harm that PGD does jumps (Wong et al., ICLR 2020, section 5.3; Andriushchenko and Flammarion,
NeurIPS 2020). So PGD is run on people held out. If it suddenly does more harm, the training goes back to the last
checkpoint. Its adversary then takes smaller steps, as those overshoot less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Guard:
    """Definition of a collapse, and what is done.

    rise: of the shift that PGD causes (0 to 2) over the lowest so far. fall: of the robust accuracy (0 to 1) below the
    highest so far. shrink: factor of the adversary's step size at every collapse. limit: collapses after which the
    training is given up. Raises ValueError for values outside their range.
    """

    rise: float = 0.2
    fall: float = 0.2
    shrink: float = 0.5
    limit: int = 5

    def __post_init__(self) -> None:
        if not (self.rise > 0 and self.fall > 0):
            raise ValueError(f"rise and fall must be positive; got {self.rise}, {self.fall}")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink must be in (0, 1); got {self.shrink}")
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1; got {self.limit}")


class History(NamedTuple):
    """Record so far: the lowest shift, the highest robust accuracy, and how often it collapsed."""

    shift: float
    accuracy: float
    collapses: int


class Overfitting(Exception):
    """The adversary is overfitted to however small its steps are."""


def init() -> History:
    """Nothing seen: 2 is the largest shift there is, and finite, as all has to be that is kept in a checkpoint."""
    return History(2.0, 0.0, 0)


def update(guard: Guard, history: History, *, shift: float, accuracy: float) -> tuple[History, bool]:
    """The history with one more look, and whether training has collapsed. Raises Overfitting at the last collapse.

    Example:
        >>> update(Guard(), History(shift=0.4, accuracy=0.9, collapses=0), shift=1.1, accuracy=0.2)
        (History(shift=0.4, accuracy=0.9, collapses=1), True)
    """
    if shift > history.shift + guard.rise or accuracy < history.accuracy - guard.fall:
        history = history._replace(collapses=history.collapses + 1)
        if history.collapses >= guard.limit:
            raise Overfitting(
                f"training collapsed {history.collapses} times: robust accuracy {accuracy:.2f} (was "
                f"{history.accuracy:.2f}), shift {shift:.2f} (was {history.shift:.2f}). Use the preset pgd, a smaller "
                "--epsilon or a smaller --learning-rate"
            )
        return history, True
    return history._replace(shift=min(shift, history.shift), accuracy=max(accuracy, history.accuracy)), False
