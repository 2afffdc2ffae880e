"""Narrows what an earlier decider has made sure of; anything else is a bug, said as one."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def settled(value: T | None, what: str) -> T:
    """Return a value that is there by now; raises ValueError if it is not."""
    if value is None:
        raise ValueError(f"{what} is not settled yet")
    return value


def is_a(value: object, kind: type[T]) -> T:
    """Return a value as the kind it is; raises TypeError if it is another."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} is not a {kind.__name__}")
    return value
