"""How the end of an attempt is recorded: once more, final, or resting."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finetune_api import conditions
from finetune_api.conditions import PODS_READY
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_api.status_parts import AttemptRecord, AttemptStatus
from finetune_operator.observed import Event, JobFacts
from finetune_operator.planners.answer import Answer
from finetune_operator.planners.failure_class import End, failure_of
from finetune_operator.planners.life import Life
from finetune_operator.planners.retry_budget import spent
from finetune_operator.planners.spending import EXHAUSTED, Spending
from finetune_operator.planners.work import SUSPENDED, Achievement
from finetune_operator.status import NOT_APPLICABLE, Situation, with_record

_LONGEST_RECORD = 256
_NO_FAILURE = (FailureClass.COMPLETED, FailureClass.CHECKPOINTED)


def last_word(job: JobFacts) -> Outcome | None:
    """Return what the pod of rank 0 says it reached; None unless it says Completed."""
    for pod in job.pods:
        if pod.index == 0 and failure_of(pod) is FailureClass.COMPLETED:
            return pod.outcome
    return None


def completed(life: Life, achieved: Achievement, outcome: Outcome) -> Answer:
    """Record a good end."""
    end = End(FailureClass.COMPLETED, "Completed", "", exit_code=0, step=outcome.step)
    updates = _recorded(life, end, dict(achieved.updates))
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
        notices=life.work.notices(updates),
    )


def failed(life: Life, end: End) -> Answer:
    """Record a bad end: a restart while the class has budget, else the end of all."""
    status, policy = life.observed.object.status, life.observed.object.spec.run_policy
    helps = life.work.can_help(end.failure)
    restarts = spent(status.restarts, policy, end.failure) if helps else None
    updates = _recorded(life, end, _learned(life) | life.work.ended(end.failure.value))
    if restarts is None:
        updates["completion_time"] = life.now
        said = life.verdicts(updates) | dict(life.work.failed(end))
        final = said | {PODS_READY: NOT_APPLICABLE}
        notices = life.work.notices(updates)
        return Answer(Situation.FAILED, end.reason, end.message, updates, final, notices=notices)
    message = f"attempt {life.recorded.number} ended: {_described(end)}"
    return Answer(
        Situation.UNDER_WAY,
        life.restarting,
        message,
        updates | {"restarts": restarts},
        life.verdicts(updates),
        events=(Event("Warning", life.work.lost_event, message),),
        notices=life.work.notices(updates),
    )


def stopped(life: Life) -> Answer:
    """Record the end of an attempt that was stopped on request."""
    first = next((pod for pod in life.job.pods if pod.index == 0), None) if life.job else None
    step = first.outcome.step if first and first.outcome else None
    code = first.exit_code if first else None
    end = End(FailureClass.CHECKPOINTED, SUSPENDED, "", exit_code=code, step=step)
    return resting(life, _recorded(life, end, _learned(life) | life.work.ended(SUSPENDED)))


def resting(life: Life, updates: dict[str, Any] | None = None) -> Answer:
    """Say that nothing runs on request; if the wish was taken back, that it goes on."""
    said, rest = life.verdicts(updates), life.rest
    if rest is not None:
        verdicts = said | {conditions.SUSPENDED: rest}
        return Answer(Situation.SUSPENDED, SUSPENDED, rest.message, updates or {}, verdicts)
    message = f"attempt {life.recorded.number} was stopped; the next one is created"
    return Answer(Situation.UNDER_WAY, life.work.waiting_reason, message, updates or {}, said)


def spent_up(life: Life, spent: Spending) -> Answer:
    """Record that no attempt may follow: the last one ended with the budget."""
    said = life.verdicts() | {PODS_READY: NOT_APPLICABLE}
    updates = {"completion_time": life.now}
    return Answer(Situation.FAILED, EXHAUSTED, spent.message, updates, said)


def _learned(life: Life) -> dict[str, Any]:
    return life.work.learned(life.job) if life.job else {}


def _recorded(life: Life, end: End, updates: dict[str, Any]) -> dict[str, Any]:
    """Return the updates with the attempt's record, its start and its children if unseen."""
    status, started = life.observed.object.status, None
    if life.job is not None:
        updates = {"children": life.work.seen(life.job)["children"]} | updates
    if life.work.component == "attempt":
        started = status.attempt.started_time or _unseen_start(life.job)
        attempt: AttemptStatus = updates["attempt"]
        updates["attempt"] = attempt.model_copy(update={"started_time": started})
        updates |= life.work.held(started, updates) | {"start_time": status.start_time or started}
    failure = end.failure.value if end.failure not in _NO_FAILURE else ""
    record = AttemptRecord(
        number=life.recorded.number,
        revision=max(1, status.revision),
        stage=life.work.component,
        start_time=started,
        end_time=life.now,
        outcome=end.reason,
        failure_class=failure,
        exit_code=end.exit_code,
        rank=end.rank,
        last_step=end.step,
        message=end.message[:_LONGEST_RECORD],
    ).model_copy(update=life.work.measured(end))
    return updates | {"history": with_record(updates.get("history", status.history), record)}


def _unseen_start(job: JobFacts | None) -> datetime | None:
    """Return about when the pods of a Job came to their nodes, if they did and nobody looked.

    Pods that a queue has stopped do not count: their time was recorded then.
    """
    return job.created if job and job.bound else None


def _described(end: End) -> str:
    facts = [f"rank {end.rank}"] if end.rank is not None else []
    facts += [f"exit code {end.exit_code}"] if end.exit_code is not None else []
    where = f" ({', '.join(facts)})" if facts else ""
    return f"{end.failure.value}{where}: {end.message}"
