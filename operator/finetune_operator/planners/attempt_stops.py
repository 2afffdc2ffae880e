"""What stops an attempt that could go on: a wish to suspend it, a deadline, its queue.

The wish is recorded before anything is stopped, so that what ends from then on costs no budget,
or the budget of the right class, whatever is seen of its pods.
"""

from __future__ import annotations

from dataclasses import replace

from finetune_api.conditions import SUSPENDED
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Event
from finetune_operator.planners.answer import Answer
from finetune_operator.planners.attempt_end import failed, stopped
from finetune_operator.planners.deadlines import (
    passed_deadline,
    recorded_deadline,
)
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.life import Life, lives
from finetune_operator.planners.retry_budget import spent
from finetune_operator.status import Situation, Verdict, condition, is_stopping


def a_wish_to_suspend_is_recorded(life: Life) -> Answer | None:
    """What ends from now on costs no budget, even if the wish is taken back."""
    rest = life.rest if life.under_way else None
    if rest is None or is_stopping(life.observed.object.status):
        return None
    answer = _stopping(life, rest)
    return replace(answer, events=(Event("Normal", rest.reason, answer.message),))


def a_suspended_attempt_is_stopped(life: Life) -> Answer | None:
    wish = condition(life.observed.object.status, SUSPENDED)
    if wish is None or not (life.under_way and is_stopping(life.observed.object.status)):
        return None
    if life.remaining() or (life.job and lives(life.job)):
        recorded = Verdict("Unknown", wish.reason, wish.message)
        return replace(_stopping(life, recorded), delete=life.living())
    return stopped(life)


def a_passed_deadline_is_recorded(life: Life) -> Answer | None:
    attempt = life.observed.object.status.attempt
    passed = passed_deadline(life) if life.under_way and attempt.stopping is None else None
    if passed is None:
        return None
    message = f"{life.named} is being stopped: {passed.message}"
    return Answer(
        Situation.UNDER_WAY,
        life.reason,
        message,
        {"attempt": attempt.model_copy(update={"stopping": passed.reason})},
        life.verdicts(),
        events=(Event("Warning", passed.reason, message),),
    )


def what_passed_a_deadline_is_stopped(life: Life) -> Answer | None:
    """Stopped with grace: what it checkpoints is known to whatever follows."""
    passed = recorded_deadline(life) if life.under_way else None
    if passed is None:
        return None
    if not (life.remaining() or (life.job and lives(life.job))):
        return failed(life, passed.end())
    return life.awaiting(f"{life.named} is being stopped: {passed.message}", delete=life.living())


def what_its_queue_stops_waits_again(life: Life) -> Answer | None:
    """The same attempt goes on when quota is back; its running time so far is kept."""
    status, job = life.observed.object.status, life.job
    attempt = status.attempt
    stopped = job is not None and job.suspended and lives(job) and attempt.started_time
    if not (life.under_way and life.queue and stopped):
        return None
    policy = life.observed.object.spec.run_policy
    restarts = spent(status.restarts, policy, FailureClass.DISRUPTION)
    message = f"{life.named}: queue {life.queue} took its quota back"
    if restarts is None:
        return failed(life, End(FailureClass.DISRUPTION, "Disrupted", message))
    waits = {"started_time": None, "created_time": life.now}
    updates = {
        "attempt": attempt.model_copy(update=waits),
        "restarts": restarts,
    } | life.work.held(attempt.started_time, {})
    return Answer(
        Situation.UNDER_WAY,
        life.work.waiting_reason,
        f"{message}; it goes on when it has quota again",
        updates,
        life.verdicts(updates),
        events=(Event("Warning", "Preempted", message),),
    )


def _stopping(life: Life, why: Verdict) -> Answer:
    message = f"{life.named} is being stopped: {why.message}"
    answer = life.awaiting(message, situation=Situation.STOPPING)
    said = Verdict("Unknown", why.reason, why.message)
    return replace(answer, verdicts=dict(answer.verdicts) | {SUSPENDED: said})
