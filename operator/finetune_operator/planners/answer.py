"""Builds the plan that an answer means: the complete new status, children, events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.conditions import CONDITION_TYPES, READY
from finetune_api.status_parts import ObjectStatus
from finetune_operator.observed import ChildRef, Event, Key, Manifest, Observed, Plan
from finetune_operator.status import Situation, Verdict, as_json, condition, judged, verdicts

_COMING_AND_GOING = frozenset({"Training", "Evaluating"})
"""Reasons that follow each other all through a run; their change is no event."""
_WORRYING = frozenset({Situation.FAILED, Situation.REFUSED})


@dataclass(frozen=True)
class Answer:
    """What one decider says; `answer` turns it into a plan."""

    situation: Situation
    reason: str
    message: str
    updates: Mapping[str, Any] = field(default_factory=dict)
    """updates are the fields of the status that change."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """verdicts of conditions beyond those that the situation implies."""
    apply: tuple[Manifest, ...] = ()
    delete: tuple[ChildRef, ...] = ()
    events: tuple[Event, ...] = ()
    """events instead of the one that a change of the reason of Ready is."""
    notices: tuple[Event, ...] = ()
    """notices are events beside it."""
    requeue_seconds: float | None = None
    pull_progress: bool = False
    waits_for: tuple[Key, ...] = ()


def planned(observed: Observed, answer: Answer) -> Plan:
    """Return the plan; the status differs from the stored one only by what the answer says."""
    stored = observed.object.status
    status = stored.model_copy(
        update=_first_revision(observed) | dict(answer.updates) | _observation(observed)
    )
    said = verdicts(answer.situation, answer.reason, answer.message) | dict(answer.verdicts)
    conditions = judged(
        stored.conditions,
        said,
        types=CONDITION_TYPES[observed.key.kind],
        generation=observed.object.metadata.generation,
        now=observed.now.replace(microsecond=0),
    )
    return Plan(
        status=as_json(status.model_copy(update={"conditions": conditions})),
        apply=answer.apply,
        delete=answer.delete,
        events=(answer.events or tuple(_transition(stored, answer))) + answer.notices,
        requeue_seconds=answer.requeue_seconds,
        pull_progress=answer.pull_progress,
        waits_for=answer.waits_for,
    )


def unchanged(
    observed: Observed, *, delete: tuple[ChildRef, ...] = (), due: float | None = None
) -> Plan:
    """Return a plan that writes nothing but the generation it has seen."""
    stored, generation = observed.object.status, observed.object.metadata.generation
    if stored.observed_generation == generation or not stored.conditions:
        return Plan(status=as_json(stored), delete=delete, requeue_seconds=due)
    conditions = [
        known.model_copy(update={"observed_generation": generation}) for known in stored.conditions
    ]
    seen = {"conditions": conditions, "observed_generation": generation}
    status = as_json(stored.model_copy(update=seen))
    return Plan(status=status, delete=delete, requeue_seconds=due)


def _first_revision(observed: Observed) -> dict[str, Any]:
    if observed.object.status.revision:
        return {}
    return {"revision": 1, "rerun": observed.object.spec.rerun}


def _observation(observed: Observed) -> dict[str, Any]:
    stored = observed.object.status
    fences = [fence for fence in (stored.fence, observed.fence) if fence is not None]
    return {
        "observed_generation": observed.object.metadata.generation,
        "fence": max(fences, default=None),
    }


def _transition(stored: ObjectStatus, answer: Answer) -> Iterable[Event]:
    before = condition(stored, READY)
    known = before.reason if before else ""
    if known == answer.reason or {known, answer.reason} <= _COMING_AND_GOING:
        return
    kind = "Warning" if answer.situation in _WORRYING else "Normal"
    yield Event("Warning" if kind == "Warning" else "Normal", answer.reason, answer.message)
