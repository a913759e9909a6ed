"""Named experiments, one a file. Each gives a table, a figure and what they say in words.

`catalogue.PRESETS` has them all in the order of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from matplotlib.figure import Figure

from engine.evaluate.study import CloakSet, Study

Value = str | float | int


@dataclass(frozen=True)
class Findings:
    """rows: the table, the same keys in each; rates in [0, 1]. figure: as drawn or as SVG; None if a table says all.

    sentences: what was found, in plain words with figures. deviations: how it differs from the published protocol.
    """

    rows: Sequence[dict[str, Value]]
    figure: Figure | str | None
    sentences: Sequence[str]
    deviations: Sequence[str] = field(default_factory=tuple)


class Preset(NamedTuple):
    """name: for --presets. title: a heading. source: what it repeats. question: one sentence.

    cloaks: the sets of cloaks it needs. embeddings: about how many photos it shows to trackers for the first time,
    besides the clean ones. seconds: about how long it computes besides (training), on two cores. default: part of an
    evaluation for which no presets are named.
    """

    name: str
    title: str
    source: str
    question: str
    cloaks: Callable[[Study], Sequence[CloakSet]]
    embeddings: Callable[[Study], int]
    seconds: Callable[[Study], float]
    run: Callable[[Study], Findings]
    default: bool = False
