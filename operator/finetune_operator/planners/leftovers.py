"""What is left of an object that has ended: Jobs that still run, ended ones after their time."""

from __future__ import annotations

from datetime import timedelta

from finetune_api.conditions import COMPLETE
from finetune_operator.observed import ChildRef, Observed
from finetune_operator.planners.life import lives
from finetune_operator.status import holds


def leftovers(observed: Observed) -> tuple[ChildRef, ...]:
    """Return the Jobs to delete now; their pods go with them, the object and its status stay."""
    kept = [job for job in observed.jobs if not (job.gone or job.deleting)]
    seconds = _seconds_left(observed)
    expired = seconds is not None and seconds <= 0
    return tuple(job.ref for job in kept if expired or lives(job))


def cleanup_seconds(observed: Observed) -> float | None:
    """Return the time until the Jobs are to be deleted, or None if none is left."""
    kept = any(not (job.gone or job.deleting) for job in observed.jobs)
    seconds = _seconds_left(observed)
    return seconds if kept and seconds is not None and seconds > 0 else None


def _seconds_left(observed: Observed) -> float | None:
    status, policy = observed.object.status, observed.object.spec.run_policy
    if status.completion_time is None:
        return None
    good = holds(status, COMPLETE)
    kept_for = policy.ttl_seconds_after_finished if good else policy.retain_on_failure_seconds
    due = status.completion_time + timedelta(seconds=kept_for)
    return (due - observed.now).total_seconds()
