"""The layers of a network in the order in which it defines them, which in ours is the order in which they run.

Flax sorts the parameters of a network by name, so their own order says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx


def layers(build: Callable[..., nnx.Module]) -> list[tuple[str, list[str]]]:
    """(path, names of its parameters) of every layer with parameters of its own; nothing is computed.

    Example:
        >>> layers(mobileface.build)[0]
        ('stem', ['kernel', 'bias'])
    """
    order: list[tuple[str, list[str]]] = []

    def noted() -> nnx.Module:
        network = build(rngs=None)
        order.extend(_layers(network, ""))  # here, because what eval_shape returns is sorted by name
        return network

    nnx.eval_shape(noted)
    return order


def _layers(module: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    items = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    children = [(f"{path}/{name}".removeprefix("/"), name, value) for name, value in items]
    if names := [str(name) for _, name, value in children if isinstance(value, nnx.Param)]:
        yield path, names
    for below, _, value in children:
        if isinstance(value, nnx.Module):
            yield from _layers(value, below)
