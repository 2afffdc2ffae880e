"""What is left of an object that has ended: Jobs that still run, ended ones after their time."""

from __future__ import annotations

from datetime import timedelta

from finetune_api.conditions import COMPLETE
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.names import POD_GROUP, attempt_job
from finetune_operator.manifests.pod_group import POD_GROUP_VERSION
from finetune_operator.observed import ChildRef, Observed, Plan
from finetune_operator.planners.life import lives
from finetune_operator.status import holds, is_final


def leftovers(observed: Observed) -> tuple[ChildRef, ...]:
    """Return the Jobs to delete now; their pods go with them, the object and its status stay."""
    kept = [job for job in observed.jobs if not (job.gone or job.deleting)]
    seconds = _seconds_left(observed)
    expired = seconds is not None and seconds <= 0
    return tuple(job.ref for job in kept if expired or lives(job))


def groups_left(observed: Observed, decided: Plan) -> tuple[ChildRef, ...]:
    """Return the PodGroups whose attempts are over: they go when the next attempt is made, or with
    their Jobs.
    """
    found = observed.object
    if not (isinstance(found, FineTuneExperiment) and POD_GROUP in found.spec.scheduling.kinds):
        return ()
    if is_final(found.status):
        attempts = {job.ref for job in observed.jobs if job.component == "attempt"}
        return tuple(_group(observed, ref.name) for ref in decided.delete if ref in attempts)
    made = any(child["kind"] == POD_GROUP for child in decided.apply)
    before = found.status.attempt.number - 1
    return (_group(observed, attempt_job(observed.key.name, before)),) if made and before else ()


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


def _group(observed: Observed, name: str) -> ChildRef:
    return ChildRef(POD_GROUP_VERSION, POD_GROUP, observed.key.namespace, name, "", "")
