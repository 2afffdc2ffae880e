"""What a pod says of itself: untrusted, whatever image it runs."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, StringConstraints

LARGEST_INTEGER = 2**53
"""JSON readers agree on integers up to here; a status holds 64 bits."""
Word = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z]*$")]
"""A word that may become a condition's reason, and so a label of metrics."""
MetricName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Report = TypeVar("Report", bound=BaseModel)


def read_report(model: type[Report], text: str | bytes) -> Report:
    """Return what a pod reported; raise ValueError unless a status can hold all of it.

    Characters that would steer the terminal of whoever reads a message become blanks.
    """
    try:
        content = _holdable(json.loads(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return model.model_validate_json(json.dumps(content))


def _holdable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_printable(name): _holdable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_holdable(item) for item in value]
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError("an integer above 2^53")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    return value


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)
