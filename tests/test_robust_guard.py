"""engine.robust.guard: a collapse in the history is seen, an ordinary history is not one."""

from __future__ import annotations

import pytest

from engine.robust import guard
from engine.robust.guard import Guard, Overfitting

COLLAPSE = [(1.5, 0.1), (0.9, 0.6), (0.7, 0.8), (0.65, 0.85), (1.3, 0.2)]
"""What one-step training looks like when it goes wrong: shift under PGD, robust accuracy."""


def collapses(rows: list[tuple[float, float]]) -> list[bool]:
    history, verdicts = guard.init(), []
    for shift, accuracy in rows:
        history, collapsed = guard.update(Guard(), history, shift=shift, accuracy=accuracy)
        verdicts.append(collapsed)
    return verdicts


def test_a_collapse_is_seen_when_it_happens() -> None:
    assert collapses(COLLAPSE) == [False, False, False, False, True]


def test_either_figure_alone_shows_it() -> None:
    assert collapses([(0.6, 0.9), (0.85, 0.9)]) == [False, True]
    assert collapses([(0.6, 0.9), (0.6, 0.65)]) == [False, True]


def test_noise_and_slow_gains_are_no_collapse() -> None:
    assert not any(collapses([(1.2, 0.1), (0.8, 0.5), (0.9, 0.45), (0.7, 0.6), (0.85, 0.5)]))


def test_a_collapse_does_not_lower_the_bar() -> None:
    history, _ = guard.update(Guard(), guard.init(), shift=0.6, accuracy=0.9)
    after, collapsed = guard.update(Guard(), history, shift=1.4, accuracy=0.1)
    assert collapsed
    assert (after.shift, after.accuracy, after.collapses) == (0.6, 0.9, 1)


def test_it_gives_up_at_the_limit() -> None:
    history, _ = guard.update(Guard(limit=2), guard.init(), shift=0.6, accuracy=0.9)
    history, _ = guard.update(Guard(limit=2), history, shift=1.4, accuracy=0.1)
    with pytest.raises(Overfitting, match="collapsed 2 times"):
        guard.update(Guard(limit=2), history, shift=1.4, accuracy=0.1)


@pytest.mark.parametrize("values", [{"rise": 0.0}, {"fall": -1.0}, {"shrink": 1.0}, {"limit": 0}])
def test_settings_that_cannot_be_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Guard(**values)
