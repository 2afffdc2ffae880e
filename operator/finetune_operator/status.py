"""Conditions over time: what a situation says, and when each condition last changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from finetune_api.conditions import COMPLETE, FAILED, READY, RECONCILING, STALLED, SUSPENDED
from finetune_api.meta import Condition, ConditionStatus
from finetune_api.status_parts import AttemptRecord, ObjectStatus
from finetune_operator.observed import Manifest

_WISHES = frozenset({"SuspendRequested", "BudgetExhausted"})
"""Reasons of condition Suspended; while it is Unknown, what runs is being stopped."""
LONGEST_MESSAGE = 1024
MOST_ATTEMPTS = 10


class Situation(Enum):
    """Rows of the table of conditions that kstatus, Argo CD and people read."""

    UNDER_WAY = "UnderWay"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    FINISHED = "Finished"
    REFUSED = "Refused"
    """REFUSED by a check of the operator: recovers when the cause is gone."""
    FAILED = "Failed"


@dataclass(frozen=True)
class Verdict:
    """What a condition says, without when it began to say so."""

    status: ConditionStatus
    reason: str
    message: str = ""


PENDING = Verdict("Unknown", "Pending")
NOT_YET = Verdict("False", "Pending")
NOT_APPLICABLE = Verdict("False", "NotApplicable")
AS_EXPECTED = Verdict("True", "AsExpected")


def verdicts(situation: Situation, reason: str, message: str) -> dict[str, Verdict]:
    """Return what the six conditions that all kinds share say in a situation."""
    false, true = Verdict("False", reason, message), Verdict("True", reason, message)
    calm = dict.fromkeys((STALLED, COMPLETE, FAILED, SUSPENDED), NOT_YET)
    at_rest = dict.fromkeys((RECONCILING, COMPLETE, SUSPENDED), NOT_APPLICABLE)
    stopping = Verdict("Unknown", "SuspendRequested", "the run is being stopped")
    stopped = Verdict("True", "SuspendRequested", "runPolicy.suspend is true")
    return {
        Situation.UNDER_WAY: calm | {READY: false, RECONCILING: true},
        Situation.STOPPING: calm | {READY: false, RECONCILING: true, SUSPENDED: stopping},
        Situation.SUSPENDED: calm | {READY: false, RECONCILING: NOT_APPLICABLE, SUSPENDED: stopped},
        Situation.FINISHED: at_rest
        | {READY: true, COMPLETE: true, STALLED: NOT_APPLICABLE, FAILED: NOT_APPLICABLE},
        Situation.REFUSED: at_rest | {READY: false, STALLED: true, FAILED: NOT_YET},
        Situation.FAILED: at_rest | {READY: false, STALLED: true, FAILED: true},
    }[situation]


def judged(
    known: Iterable[Condition],
    said: Mapping[str, Verdict],
    *,
    types: Iterable[str],
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Return all conditions of a kind; what is not said stays as it was known."""
    before = {condition.type: condition for condition in known}
    return [
        _condition(name, before.get(name), said.get(name), generation=generation, now=now)
        for name in types
    ]


def condition(status: ObjectStatus, name: str) -> Condition | None:
    """Return the condition of a type, or None before the first write."""
    return next((found for found in status.conditions if found.type == name), None)


def holds(status: ObjectStatus, name: str) -> bool:
    """Tell whether the condition is True."""
    found = condition(status, name)
    return found is not None and found.status == "True"


def is_final(status: ObjectStatus) -> bool:
    """Tell whether this revision has ended, well or badly."""
    return holds(status, COMPLETE) or holds(status, FAILED)


def is_stopping(status: ObjectStatus) -> bool:
    """Tell whether a stop was recorded and its end was not."""
    found = condition(status, SUSPENDED)
    return found is not None and found.status == "Unknown" and found.reason in _WISHES


def with_record(history: list[AttemptRecord], record: AttemptRecord) -> list[AttemptRecord]:
    """Return the history with one more ended attempt, newest first, bounded."""
    return [record, *history][:MOST_ATTEMPTS]


def as_json(status: ObjectStatus) -> Manifest:
    """Return the status as it is written.

    Empty maps are left out: server-side apply makes null of a map that is applied empty where it
    held fields before, and the schema refuses null.
    """
    content = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))
    return {name: part for name, part in content.items() if part != {}}


def _condition(
    name: str, before: Condition | None, said: Verdict | None, *, generation: int, now: datetime
) -> Condition:
    if said is None:
        said = Verdict(before.status, before.reason, before.message) if before else PENDING
    unchanged = before is not None and before.status == said.status
    return Condition(
        type=name,
        status=said.status,
        reason=said.reason,
        message=said.message[:LONGEST_MESSAGE],
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and unchanged else now,
    )
