"""How the end of an attempt is recorded: once more, final, or resting."""

from __future__ import annotations

from typing import Any

from finetune_api.conditions import PODS_READY
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_api.status_parts import AttemptRecord
from finetune_operator.observed import Event, JobFacts
from finetune_operator.planners.answer import Answer
from finetune_operator.planners.failure_class import End, failure_of
from finetune_operator.planners.life import Life
from finetune_operator.planners.retry_budget import spent
from finetune_operator.planners.work import SUSPENDED, Achievement
from finetune_operator.status import NOT_APPLICABLE, Situation, with_record

_LONGEST_RECORD = 256


def last_word(job: JobFacts) -> Outcome | None:
    """Return what the pod of rank 0 says it reached; None unless it says Completed."""
    for pod in job.pods:
        if pod.index == 0 and failure_of(pod) is FailureClass.COMPLETED:
            return pod.outcome
    return None


def completed(life: Life, achieved: Achievement) -> Answer:
    """Record a good end."""
    record = _record(life, "Completed", exit_code=0)
    updates = dict(achieved.updates) | {"history": _history(life, record)}
    finished = achieved.situation is Situation.FINISHED
    if finished:
        updates["completion_time"] = life.now
    said = life.verdicts(updates) | dict(achieved.verdicts)
    return Answer(
        achieved.situation,
        achieved.reason,
        achieved.message,
        updates,
        said | ({PODS_READY: NOT_APPLICABLE} if finished else {}),
    )


def failed(life: Life, end: End) -> Answer:
    """Record a bad end: a restart while the class has budget, else the end of all."""
    status, policy = life.observed.object.status, life.observed.object.spec.run_policy
    restarts = spent(status.restarts, policy.retries, end.failure)
    record = _record(life, end.reason, end=end)
    updates = _learned(life) | life.work.ended(end.failure.value)
    updates["history"] = _history(life, record)
    if restarts is None:
        updates["completion_time"] = life.now
        said = life.verdicts(updates) | dict(life.work.failed(end))
        final = said | {PODS_READY: NOT_APPLICABLE}
        return Answer(Situation.FAILED, end.reason, end.message, updates, final)
    message = f"attempt {life.recorded.number} ended: {_described(end)}"
    return Answer(
        Situation.UNDER_WAY,
        life.restarting,
        message,
        updates | {"restarts": restarts},
        life.verdicts(updates),
        events=(Event("Warning", life.work.lost_event, message),),
    )


def stopped(life: Life) -> Answer:
    """Record the end of an attempt that was stopped on request."""
    record = _record(life, SUSPENDED)
    updates = _learned(life) | life.work.ended(SUSPENDED)
    return resting(life, updates | {"history": _history(life, record)})


def resting(life: Life, updates: dict[str, Any] | None = None) -> Answer:
    """Say that nothing runs on request; if the wish was taken back, that it goes on."""
    said = life.verdicts(updates)
    if life.suspended:
        message = "runPolicy.suspend is true; set it to false to go on"
        return Answer(Situation.SUSPENDED, SUSPENDED, message, updates or {}, said)
    message = f"attempt {life.recorded.number} was stopped; the next one is created"
    return Answer(Situation.UNDER_WAY, life.work.waiting_reason, message, updates or {}, said)


def _learned(life: Life) -> dict[str, Any]:
    return life.work.learned(life.job) if life.job else {}


def _history(life: Life, record: AttemptRecord) -> list[AttemptRecord]:
    return with_record(life.observed.object.status.history, record)


def _record(
    life: Life, outcome: str, *, end: End | None = None, exit_code: int | None = None
) -> AttemptRecord:
    attempt = life.observed.object.status.attempt
    return AttemptRecord(
        number=life.recorded.number,
        stage=life.work.component,
        start_time=attempt.started_time if life.work.component == "attempt" else None,
        end_time=life.now,
        outcome=outcome,
        failure_class=end.failure.value if end else "",
        exit_code=end.exit_code if end else exit_code,
        rank=end.rank if end else None,
        last_step=end.step if end else None,
        message=end.message[:_LONGEST_RECORD] if end else "",
    )


def _described(end: End) -> str:
    facts = [f"rank {end.rank}"] if end.rank is not None else []
    facts += [f"exit code {end.exit_code}"] if end.exit_code is not None else []
    where = f" ({', '.join(facts)})" if facts else ""
    return f"{end.failure.value}{where}: {end.message}"
