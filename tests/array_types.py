"""A type checker for tests: what annotations say of arrays, their shapes and types, holds in every call.

By --jaxtyping-packages in pyproject.toml it wraps every function of the engine. Other annotations are left to the
static checker, which sees them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from beartype import beartype

ARRAY = re.compile(r"\b(Float|Int|UInt|Bool|Shaped|Num|Key|Complex|Inexact)\d*\[|\bPRNGKeyArray\b")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checked in the arguments and results whose annotations name arrays."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in hints.items() if ARRAY.search(str(hint))}
    return beartype(function)
