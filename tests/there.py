"""What a test knows to be there: of values that may be None."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def there(value: T | None) -> T:
    """The value, which must not be None."""
    assert value is not None
    return value


def all_there(values: Iterable[T | None]) -> list[T]:
    """The values, none of which may be None."""
    return [there(value) for value in values]
