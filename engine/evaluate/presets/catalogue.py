"""All presets by name, in the order of the report."""

from __future__ import annotations

from engine.evaluate.presets import (
    Preset,
    budget,
    labels,
    leaked,
    oblivious,
    protection,
    purification,
    quality,
    space,
    sybil,
    transfer,
)

PRESETS: dict[str, Preset] = {
    module.PRESET.name: module.PRESET
    for module in (
        protection,
        quality,
        space,
        budget,
        labels,
        transfer,
        leaked,
        sybil,
        oblivious,
        purification,
    )
}
