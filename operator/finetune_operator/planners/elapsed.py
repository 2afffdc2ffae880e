"""Running time, from times that the operator itself recorded."""

from __future__ import annotations

from datetime import datetime


def seconds_since(started: datetime | None, now: datetime) -> int:
    """Return whole seconds, 0 for what has not begun."""
    return max(0, int((now - started).total_seconds())) if started else 0
