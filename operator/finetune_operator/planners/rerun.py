"""A new rerun token: what runs is stopped with grace, then a new revision begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from finetune_api.conditions import READY
from finetune_api.experiment_status import ExperimentStatus
from finetune_api.finetune_experiment import FineTuneExperiment, RerunFrom
from finetune_api.status_parts import ObjectStatus, RevisionRecord
from finetune_operator.observed import Event, Observed, Plan
from finetune_operator.planners.answer import Answer, planned
from finetune_operator.planners.life import Life, life
from finetune_operator.planners.work import REPLACED, Work
from finetune_operator.status import Situation, condition, is_final

MOST_REVISIONS = 5
_CARRIED = ("observed_generation", "fence", "attempt", "history", "children", "conditions")
"""Fields that belong to the object, not to a revision."""
_CONTINUED = (
    *("preparation", "dataset", "validation_dataset", "test_dataset", "start", "model", "plan"),
    *("truncation", "checkpoints", "metrics", "best", "artifacts"),
)
"""Fields that a revision which goes on from a checkpoint takes over."""


def wants_rerun(observed: Observed) -> bool:
    """Tell whether the spec names a token that no revision has begun with."""
    status, token = observed.object.status, observed.object.spec.rerun
    return bool(status.revision) and token is not None and token != status.rerun


def rerun(observed: Observed, works: Iterable[type[Work]]) -> Plan:
    """Return the next step towards the new revision: record the end, stop, begin."""
    lives = [life(work(observed)) for work in works]
    under_way = [one for one in lives if one.under_way]
    if under_way:
        updates = {k: v for one in under_way for k, v in one.work.ended(REPLACED).items()}
        return planned(observed, _ending(lives[0], "what runs is stopped", updates))
    left = [pod for one in lives for pod in one.remaining()]
    living = tuple(job for one in lives for job in one.living())
    if left or living:
        answer = _ending(lives[0], f"waiting for {len(left)} of its pods to end", {})
        dues = [due for one in lives if (due := one.patience_seconds()) is not None]
        due = min(dues, default=None)
        return planned(observed, replace(answer, delete=living, requeue_seconds=due))
    return planned(observed, _begun(observed))


def _ending(first: Life, what: str, updates: dict[str, Any]) -> Answer:
    token = first.observed.object.spec.rerun
    message = f"spec.rerun is {token}: {what}, then it starts anew"
    return Answer(Situation.UNDER_WAY, "Preparing", message, updates, first.verdicts(updates))


def _begun(observed: Observed) -> Answer:
    found = observed.object
    revision = found.status.revision + 1
    message = f"revision {revision} begins: spec.rerun is {found.spec.rerun}"
    return Answer(
        Situation.UNDER_WAY,
        "Preparing",
        message,
        new_revision(observed),
        events=(Event("Normal", "RevisionStarted", message),),
    )


def new_revision(observed: Observed) -> dict[str, Any]:
    """Return the status fields a revision begins with."""
    found, status = observed.object, observed.object.status
    fresh = type(status)()
    kept = _CARRIED + (_CONTINUED if _goes_on(observed) else ())
    updates = {name: getattr(fresh, name) for name in type(status).model_fields if name not in kept}
    attempt = status.attempt
    if attempt.number:
        ended = {"ended": REPLACED, "stopping": None, "started_time": None}
        updates["attempt"] = attempt.model_copy(update=ended)
    return updates | {
        "revision": status.revision + 1,
        "rerun": found.spec.rerun,
        "revisions": [_record(status), *status.revisions][:MOST_REVISIONS],
    }


def _goes_on(observed: Observed) -> bool:
    """A run without a verified checkpoint begins at its start, whatever was asked for."""
    found = observed.object
    return (
        isinstance(found, FineTuneExperiment)
        and found.spec.rerun_from is RerunFrom.LAST_CHECKPOINT
        and found.status.preparation.complete
        and found.status.checkpoints.latest is not None
    )


def _record(status: ObjectStatus) -> RevisionRecord:
    ready = condition(status, READY)
    result = status.result if isinstance(status, ExperimentStatus) else None
    artifact = status.artifacts[-1] if status.artifacts else None
    return RevisionRecord(
        revision=status.revision,
        rerun=status.rerun,
        outcome=ready.reason if ready and is_final(status) else REPLACED,
        completion_time=status.completion_time,
        uri=result.uri if result else (artifact.uri if artifact else None),
        digest=result.digest if result else (artifact.digest if artifact else None),
    )
