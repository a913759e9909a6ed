"""All presets by name, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

from engine.evaluate.presets import (
    Preset,
    adaptive,
    attack,
    budget,
    detection,
    gain,
    gallery,
    labels,
    leaked,
    oblivious,
    protection,
    purification,
    quality,
    scratch,
    services,
    space,
    sybil,
    transfer,
    verification,
)

PRESETS: dict[str, Preset] = {
    module.PRESET.name: module.PRESET
    for module in (
        protection,
        quality,
        space,
        budget,
        labels,
        gallery,
        transfer,
        scratch,
        services,
        leaked,
        sybil,
        oblivious,
        adaptive,
        detection,
        purification,
    )
}

PRACTISED = frozenset({adaptive.PRESET.name, detection.PRESET.name, sybil.PRESET.name})
"""Presets that need all of the public that was asked for."""

OF_EXTRACTOR: tuple[Preset, ...] = (verification.PRESET, attack.PRESET, gain.PRESET)
"""Presets of `cloak evaluate-extractor`; the study's recipe names the extractor and the one it is compared with."""


def chosen(names: Sequence[str] | None) -> list[Preset]:
    """The presets of these names in the order of the report, the default ones without any, all of them for "all".

    Raises ValueError for an unknown name, naming the presets there are.
    """
    if names is None:
        return [preset for preset in PRESETS.values() if preset.default]
    unknown = [name for name in names if name not in PRESETS and name != "all"]
    if unknown:
        raise ValueError(f"no preset is called {unknown[0]!r}; there are {', '.join(PRESETS)}, and all")
    return [preset for name, preset in PRESETS.items() if name in names or "all" in names]
