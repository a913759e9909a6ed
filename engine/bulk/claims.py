"""Effects and limits of a cloak, in plain sentences: one place, for the terminal, the report and a README.

Figures depend on photos and trackers. The only ones here are those of LIMITS, each with the command that measured it;
tests/test_claims.py holds them to benchmarks/results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from engine.config import RHO, Recipe

PUBLISH = "Publish no clean photo of the same face."
UNMEASURED = "How far these cloaks mislead recognisers is not measured; `cloak evaluate` does it."
LARGE = 300
"""Longer side of a face box, in pixels, from which on cloaks are seen at full size (benchmarks/README.md)."""
BOLD = 0.01
"""DSSIM above which a cloak is easier to see: between the budgets of the modes mid and high."""


class Limit(NamedTuple):
    """what: in a few words. why: sentences. command: what measured the figures in them, "" if there are none."""

    what: str
    why: str
    command: str = ""


LIMITS: tuple[Limit, ...] = (
    Limit(
        "Photos that are out already",
        "A cloak changes new files only. What was scraped before stays as it was, and a published photo cannot be "
        "cloaked again when better recognisers come.",
    ),
    Limit(
        "Photos that others publish",
        "Every clean photo of you helps the tracker. With one scraped photo in ten clean, protection on networks that "
        "took part fell from 82 to 43 %. With one in four it was 8 %.",
        "cloak evaluate FACES --out DIR --presets leaked",
    ),
    Limit(
        "Recognisers that took no part",
        "Nobody knows which recogniser will see a photo. Against seven that took no part, protection was 69 % with a "
        "linear head and 70 % with 1-NN on average. On one of them, sface, a linear head was misled 18 % of the time.",
        "python benchmarks/transfer.py FACES --out DIR --skip 10 --users 10 --leave-one-out /turn=1",
    ),
    Limit(
        "Recognisers that took part",
        "They can resist too. With a linear head protection was 99 % on dlib and 37 % on sface, although relations of "
        "both took part.",
        "cloak evaluate FACES --out DIR --presets protection",
    ),
    Limit(
        "The cloaked photo itself",
        "A cloak spoils what a tracker learns from a photo; it does not hide who is in it. On networks that took part, "
        "14 % of cloaked photos still lay nearest to clean photos of their person. On mobileface, which took no part, "
        "it was 56 %.",
        "cloak evaluate FACES --out DIR --presets space",
    ),
    Limit(
        "Trackers that adapt",
        "A network can practise on this engine's cloaks of other people. Against the default's six networks, practised "
        "so, protection fell from 81 to 11 % on average. That is with a linear head; with 1-NN it fell from 80 to "
        "12 %.",
        "cloak evaluate FACES --out DIR --presets adaptive",
    ),
    Limit(
        "Purification",
        "Strong blur takes much of a cloak out and costs a tracker no accuracy. On two networks that took part, a "
        "Gaussian blur of sigma 1 took protection from 88 to 83 %. Sigma 2 left 45 %, and JPEG at quality 75 left "
        "86 %.",
        "cloak evaluate FACES --out DIR --presets purification",
    ),
    Limit(
        "Being noticed",
        "Whoever has this engine can tell some cloaked photos from clean ones. The best of nine detectors found 43 % "
        "of them at 5 % false alarms.",
        "cloak evaluate FACES --out DIR --presets detection",
    ),
    Limit(
        "Faces that are not found",
        "A face without a box in the report is as it was: in a mirror, on a poster, in a crowd.",
    ),
    Limit("Films", "Films are not read. Every frame of one is a clean photo."),
    Limit(
        "Everything but the face",
        "Hair, clothes, places, company, captions and names stay, and people recognise you as before.",
    ),
)


def protection(recipe: Recipe) -> tuple[str, ...]:
    """Protection by cloaks of this recipe: of the default one in any mode, with more steps too; others tell nothing."""
    default = Recipe()
    alike = replace(recipe, rho=default.rho, steps=default.steps, seed=default.seed) == default
    enough = recipe.rho >= min(RHO.values()) and recipe.steps >= default.steps
    return by_networks(recipe.names) if alike and enough else (UNMEASURED,)


def by_networks(networks: Sequence[str]) -> tuple[str, ...]:
    """Protection by cloaks of which only the networks are known: against these, and against others."""
    if sorted(networks) != sorted(Recipe().names):
        return (UNMEASURED,)
    return (
        f"These cloaks were made on {listed(networks)}.",
        "At mode mid recognisers built on one of these, and trained on such photos, missed 35 to 100 % of a person's "
        "clean photos.",
        "Those built on another network missed 18 to 100 %: see 'Does it protect?' in the README.",
    )


def measured(sides: Sequence[float], dssim: float, shifts: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """Measurements of a cloaked photo, and unknowns: pairs of a heading and sentences.

    sides: longer side of each face box in pixels. dssim: the largest. shifts: by network how far the embedding of the
    face that moved least went on the canvas, empty if nothing was measured.
    """
    pairs = [("How visible", visible(max(sides), dssim))]
    if shifts:
        least, most = min(shifts.values()), max(shifts.values())
        moved = f"{least:.2f}" if least == most else f"{least:.2f} to {most:.2f}"
        text = (
            f"{listed(list(shifts))}. Before this file was written the embedding had moved by {moved}. "
            "0 is not at all and 2 is the most. JPEG and HEIC take some of it back: `cloak verify` measures the file."
        )
        pairs.append(("Against which networks", f"{text} Whether you are still named was not tried."))
    unknown = "Which recogniser will see this photo, how it was trained, and which clean photos of you it has."
    pairs.append(("Not known", f"{unknown} A face without a box is not cloaked."))
    return tuple(pairs)


def visible(side: float, dssim: float) -> str:
    """How well a cloak can be seen, by the longer side of the face in pixels and its DSSIM in the file."""
    text = f"Around the face the file differs from the photo by a DSSIM of {dssim:.4f}; 0 is no change, 1 the most."
    if side >= LARGE:
        return (
            f"{text} On a face of {side:.0f} pixels that can be seen at full size, as patches at nose, mouth and eyes."
        )
    if dssim > BOLD:
        return f"{text} That can be seen if you look for it."
    return (
        f"{text} On average the eye sees less of it than of JPEG at quality 75, in single spots more: brows, nose and "
        "mouth look redrawn."
    )


def limits_markdown() -> str:
    """LIMITS as a list for a README."""
    lines = []
    for limit in LIMITS:
        command = f" (`{limit.command}`)" if limit.command else ""
        lines.append(f"- **{limit.what}.** {limit.why}{command}\n")
    return "".join(lines)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
