"""Packages that only a conversion needs: imported when they are, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, *, package: str) -> ModuleType:
    """The module of an optional package. Raises ImportError naming the package and the extra `convert`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"reading this file needs the package {package}: pip install 'fawkes-engine[convert]' ({error})"
        ) from error
