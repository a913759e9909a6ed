"""Packages that only a conversion needs: imported when they are, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, *, package: str) -> ModuleType:
    """The module of an optional package. Raises ImportError naming the package and the extra `convert`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(package, str(error)) from error


def missing(package: str, reason: str) -> ImportError:
    """The error for a package that cannot be imported, naming it and the extra `convert`."""
    return ImportError(
        f"reading this file needs the package {package}: pip install 'fawkes-engine[convert]' ({reason})"
    )
