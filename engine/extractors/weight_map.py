"""From the tensors of a source network to the parameters of ours: the map is data, any mismatch is one error."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import jax
import numpy as np

_BRACES = re.compile(r"\{([^{}]*)\}")


def expand(pattern: str) -> list[str]:
    """Bash's brace expansion without nesting: `a{1..3}/{w,b}` is a1/w, a1/b, a2/w, ...; `{1..9..2}` has a step."""
    parts = _BRACES.split(pattern)
    return ["".join(choice) for choice in itertools.product(*(_options(i, part) for i, part in enumerate(parts)))]


def _options(index: int, part: str) -> list[str]:
    if index % 2 == 0:
        return [part]
    if match := re.fullmatch(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?", part):
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        return [str(n) for n in range(first, last + 1, step)]
    return part.split(",")


def weight_map(name: str) -> dict[str, str]:
    """Source tensor to parameter path ("block35/0/project/kernel"), from weight_maps/<name>.toml.

    Names may hold `*`, see `resolve`. Raises ValueError if the two sides of a rule expand to different counts or a
    name occurs twice.
    """
    return expand_rules(
        {source: parameter for source, parameter in document(name).items() if isinstance(parameter, str)}, name=name
    )


def document(name: str) -> dict[str, Any]:
    """weight_maps/<name>.toml as it is: rules at the top, and beside them what else its source needs."""
    path = resources.files("engine.extractors") / "weight_maps" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def expand_rules(rules: Mapping[str, str], *, name: str) -> dict[str, str]:
    """Both sides of every rule with their braces expanded, in step; `name` is for the ValueErrors of `weight_map`."""
    mapping: dict[str, str] = {}
    for source, parameter in rules.items():
        sources, parameters = expand(source), expand(parameter)
        if len(sources) != len(parameters):
            raise ValueError(f"{name}: {source!r} expands to {len(sources)} names, {parameter!r} to {len(parameters)}")
        for left, right in zip(sources, parameters, strict=True):
            if left in mapping or right in mapping.values():
                raise ValueError(f"{name}: {left!r} or {right!r} is mapped twice")
            mapping[left] = right
    return mapping


def resolve(mapping: Mapping[str, str], parameters: Iterable[str]) -> dict[str, str]:
    """The mapping with its `*` filled in: each stands for one part of a parameter's path, the same on both sides.

    A rule with `*` is kept once for every one of `parameters` that it fits, so one map serves every depth of a network.
    """
    resolved: dict[str, str] = {}
    for source, pattern in mapping.items():
        if "*" not in pattern:
            resolved[source] = pattern
            continue
        form = re.compile(r"([^/]+)".join(re.escape(part) for part in pattern.split("*")))
        for path in parameters:
            if match := form.fullmatch(path):
                parts = source.split("*")
                stars = (*match.groups(), "")
                resolved["".join(part + star for part, star in zip(parts, stars, strict=True))] = path
    return resolved


def fill(
    abstract: Mapping[str, jax.ShapeDtypeStruct], tensors: Mapping[str, np.ndarray], mapping: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The source's tensors under our names: every parameter of `abstract`, each of the right shape.

    `abstract` maps parameter paths to shapes; `mapping` may hold `*`, see `resolve`. Every tensor must be used. Raises
    ValueError with all that is missing, extra or mis-shaped in one message.
    """
    mapping = resolve(mapping, abstract)
    filled = {path: tensors[source] for source, path in mapping.items() if source in tensors}
    problems = [f"missing in the source: {source}" for source in mapping if source not in tensors]
    problems += [
        f"not in the weight map: {source} {value.shape}" for source, value in tensors.items() if source not in mapping
    ]
    problems += [f"no such parameter: {path}" for path in mapping.values() if path not in abstract]
    problems += [f"parameter without a source: {path}" for path in abstract if path not in mapping.values()]
    problems += [
        f"shape of {path}: expected {tuple(abstract[path].shape)}, got {value.shape}"
        for path, value in filled.items()
        if path in abstract and tuple(abstract[path].shape) != value.shape
    ]
    if problems:
        raise ValueError("the source's weights do not fit the network:\n  " + "\n  ".join(problems))
    return filled
