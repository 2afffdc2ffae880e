"""Decides whether a new status is written now, later, or not at all.

What people and programs wait for is written at once. Numbers that only creep are held back, so
that many running experiments never use up the write budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.observed import Key, Manifest

LEAST_SECONDS = 10.0
"""Shortest time between two writes that carry only progress."""
LONGEST_SECONDS = 60.0
"""A percentage that does not move is still confirmed this often."""
CREEPING_FIELDS = ("progress", "efficiency", "cost")
"""Parts of a status whose change alone is no transition."""


@dataclass(frozen=True)
class Verdict:
    """Write now, or look again after `later_seconds`; neither: there is nothing to write."""

    now: bool = False
    later_seconds: float | None = None


class StatusWrites:
    """Remembers when the progress of each key was last written."""

    def __init__(self) -> None:
        self._written: dict[Key, datetime] = {}
        self._least_seconds = LEAST_SECONDS

    def share_budget(self, active: int, progress_writes_per_second: float) -> None:
        """Stretch the interval so that all active runs together keep within their share."""
        self._least_seconds = max(LEAST_SECONDS, active / progress_writes_per_second)

    def verdict(self, key: Key, stored: Manifest, planned: Manifest, now: datetime) -> Verdict:
        """Compare the stored status with the planned one."""
        if stored == planned:  # by far the most frequent case, without a copy of either
            return Verdict()
        stored, planned = _present(stored), _present(planned)
        if stored == planned:
            return Verdict()
        if _without_creeping(stored) != _without_creeping(planned):
            return Verdict(now=True)
        waited = self._seconds_since_write(key, now)
        moved = _percentage(stored) != _percentage(planned)
        wanted = self._least_seconds if moved else max(LONGEST_SECONDS, self._least_seconds)
        if waited is None or waited >= wanted:
            return Verdict(now=True)
        return Verdict(later_seconds=wanted - waited)

    def note(self, key: Key, now: datetime) -> None:
        """Remember that the status of `key` was written."""
        self._written[key] = now

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a deleted object."""
        self._written.pop(key, None)

    def _seconds_since_write(self, key: Key, now: datetime) -> float | None:
        written = self._written.get(key)
        return None if written is None else (now - written).total_seconds()


def _present(status: Any) -> Any:
    """Drop nulls, which the API server does not store."""
    if isinstance(status, dict):
        return {name: _present(part) for name, part in status.items() if part is not None}
    if isinstance(status, list):
        return [_present(part) for part in status]
    return status


def _without_creeping(status: Manifest) -> Manifest:
    return {name: part for name, part in status.items() if name not in CREEPING_FIELDS}


def _percentage(status: Manifest) -> Any:
    return (status.get("progress") or {}).get("percentage")
