"""Galleries larger than any at hand, by the theory of extreme values.

How many of N strangers are nearer to a test photo than its own person depends on the far tail of the strangers'
similarities alone. Some faces are like many others, so each test photo has a threshold and a scale of its own. The
threshold is the similarity that a tenth of the strangers pass, the scale how much they pass it by on average. In these
units the photos' tails are alike, so they are joined. A generalised Pareto distribution (Balkema & de Haan 1974;
Pickands 1975) is fitted to the end of the joint tail. The fit is by probability weighted moments (Hosking & Wallis
1987). One photo's tail alone would not do: its few largest similarities leave the shape open, which decides everything
at a million.

All of it holds for strangers like those in the sample. Relatives and doubles beyond the sample are no part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binom, genpareto

SHARE = 0.1
"""Share of the strangers above a photo's threshold."""
LEAST = 20
"""Fewest strangers above it."""
END = 0.03
"""Share of the joint tail that is fitted, the end; the rest is counted."""
FEW = 10
"""Fewest similarities that are fitted."""
SHAPES = (-1.0, 0.5)
"""Shapes that are believed: a steeper end than the uniform distribution's, or a tail without a variance, is noise."""

Scores = Float[np.ndarray, "m n"]
"""Similarity of each of m tests to each of n strangers; larger is more similar."""
Vector = Float[np.ndarray, "m"]


@dataclass(frozen=True)
class Tail:
    """Upper tails of m tests. threshold, scale: of each. share: of the strangers above a threshold.

    joint: all excesses over the thresholds in units of the scales, sorted. cut: where its end begins, a share `end` of
    it. shape, width: of the generalised Pareto distribution there.
    """

    threshold: Vector
    scale: Vector
    share: float
    joint: Float[np.ndarray, "k"]
    cut: float
    end: float
    shape: float
    width: float

    def beyond(self, scores: Vector) -> Vector:
        """The chance that a stranger is more similar than so much, for scores at or above the thresholds."""
        excess = (scores - self.threshold) / self.scale
        counted = 1 - np.searchsorted(self.joint, excess, side="right") / len(self.joint)
        fitted = self.end * genpareto.sf(excess - self.cut, self.shape, scale=self.width)
        return self.share * np.where(excess > self.cut, fitted, counted)


def fewest() -> int:
    """How many strangers a fit needs."""
    return round(LEAST / SHARE)


def fitted(scores: Scores) -> Tail:
    """The tails of the most similar SHARE of the strangers. Raises ValueError for fewer strangers than `fewest`."""
    count = round(SHARE * scores.shape[1])
    if count < LEAST:
        raise ValueError(f"a tail is fitted to at least {fewest()} strangers; got {scores.shape[1]}")
    top = np.partition(scores, -count - 1, axis=1)[:, -count - 1 :].astype(np.float64)
    threshold = top[:, 0]  # partition has the least of the top there
    excess = top[:, 1:] - threshold[:, None]
    scale = np.maximum(excess.mean(axis=1), 1e-12)
    joint = np.sort((excess / scale[:, None]).ravel())
    most = max(round(END * len(joint)), FEW)
    cut = float(joint[-most - 1])
    shape, width = pareto(joint[-most:] - cut)
    return Tail(threshold, scale, count / scores.shape[1], joint, cut, most / len(joint), shape, width)


def pareto(excess: Float[np.ndarray, "k"]) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution of sorted excesses over a threshold.

    The estimators of Hosking & Wallis (1987), of the mean and the mean weighted by the chance to be exceeded. The
    shape has their sign turned, as SciPy has it, and stays within SHAPES.
    """
    count = len(excess)
    first = max(float(excess.mean()), 1e-12)
    second = float((excess * (count - np.arange(1, count + 1)) / (count - 1)).mean())
    slack = first - 2 * second
    shape = float(np.clip(2 - first / slack, *SHAPES)) if slack > 0 else SHAPES[1]
    return shape, first * (1 - shape)


def chances(scores: Scores, similarities: Vector, tail: Tail) -> Vector:
    """The chance that one more stranger is more similar to a test than its own person is.

    similarities: to the person. Below the threshold the strangers are counted, above it the tail says.
    """
    counted = (scores > similarities[:, None]).mean(axis=1)
    return np.where(similarities >= tail.threshold, tail.beyond(similarities), counted)


def among_guesses(chances: Vector, ahead: Int[np.ndarray, "m"], *, more: int, guesses: int) -> Vector:
    """The chance that a person is among the best guesses once `more` strangers have joined.

    ahead: how many people are more similar already. Strangers are independent of each other.

    Example:
        >>> among_guesses(np.array([0.0, 0.5]), np.array([0, 0]), more=1, guesses=1)
        array([1. , 0.5])
    """
    return np.asarray(binom.cdf(guesses - 1 - ahead, more, np.clip(chances, 0, 1)))
