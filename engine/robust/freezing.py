"""Parameters that stay as they are: those of the lower layers see what all faces have in common, and cost most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flax import nnx

from engine.extractors.order import layers


def lower(build: Callable[..., nnx.Module], share: float) -> frozenset[str]:
    """The names of the parameters of the first `share`, [0, 1), of a network's layers, counted from its input.

    Raises ValueError for a share outside its range.

    Example:
        >>> sorted(lower(mobileface.build, 0.06))
        ['stem/bias', 'stem/kernel', 'stem_prelu/slope']
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of frozen layers must be in [0, 1); got {share}")
    order = layers(build)
    return frozenset(_names(order[: round(share * len(order))]))


def named(build: Callable[..., nnx.Module], prefixes: Sequence[str]) -> frozenset[str]:
    """The names of all parameters that lie below a prefix, such as `block35` or `block35/0`.

    Raises ValueError for a prefix that no parameter has.
    """
    every = _names(layers(build))
    chosen: set[str] = set()
    for prefix in prefixes:
        below = {name for name in every if name == prefix or name.startswith(prefix.rstrip("/") + "/")}
        if not below:
            first = dict.fromkeys(name.split("/")[0] for name in every)
            raise ValueError(f"no parameter lies below {prefix!r}; there are {', '.join(first)}")
        chosen |= below
    return frozenset(chosen)


def _names(order: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    return [f"{path}/{name}".removeprefix("/") for path, names in order for name in names]
