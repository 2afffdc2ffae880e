"""Whether the pods of a Job run, and what keeps them from it."""

from __future__ import annotations

from finetune_operator.observed import JobFacts
from finetune_operator.planners.waiting_reasons import waiting_reason
from finetune_operator.status import AS_EXPECTED, NOT_YET, Verdict

_FOREIGN_HOLD = "Job {} is suspended, not by this operator: whoever did that has to let it go on"
_NOTHING_WRONG = ("ContainerCreating", "PodInitializing", "Schedulable", "")
"""Volcano calls schedulable what has room while another pod of its gang has none."""


def pods_ready(job: JobFacts | None, total: int) -> Verdict:
    """Return the condition PodsReady of an attempt with `total` pods."""
    if job is None:
        return NOT_YET
    if job.pods and sum(pod.ready for pod in job.pods) >= total:
        return AS_EXPECTED
    reason, message = _trouble(job)
    return Verdict("False", waiting_reason(reason, message), message)


def quota_reserved(job: JobFacts | None, queue: str | None) -> Verdict:
    """Return the condition QuotaReserved of an attempt in a queue, or in none."""
    if queue is None:
        return AS_EXPECTED
    if job is None or job.gone:
        return NOT_YET
    return (
        Verdict("False", "WaitingForQuota", waiting_message(job, queue))
        if job.suspended
        else AS_EXPECTED
    )


def waiting_message(job: JobFacts, queue: str | None) -> str:
    """Return what keeps the pods of a Job from running, or an empty text."""
    if job.suspended:
        why = "the queue has no quota for it yet" if queue else _FOREIGN_HOLD.format(job.ref.name)
        return f"{why}{f': {job.message}' if job.message else ''}"
    reason, message = _trouble(job)
    return f"{reason}: {message}" if reason and message else reason or message


def _trouble(job: JobFacts) -> tuple[str, str]:
    for pod in job.pods:
        if pod.waiting and pod.waiting[0] not in _NOTHING_WRONG:
            return pod.waiting
    reason, _, message = job.message.partition(": ")
    return (reason, message) if message else ("", job.message)
