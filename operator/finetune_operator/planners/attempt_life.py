"""The life of an attempt, the same for every kind of work: the list of deciders is the algorithm.

Facts that later decisions need are recorded in a step that touches no child; the next step acts
on them. A crash between any two writes therefore neither loses a used retry nor counts it twice,
and never leads to two attempts that may run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from finetune_api.experiment_status import CheckpointStatus, ExperimentStatus
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import ChildRef, Event, JobFacts, Plan
from finetune_operator.planners.answer import Answer, planned
from finetune_operator.planners.attempt_end import completed, failed, last_word, resting, spent_up
from finetune_operator.planners.attempt_stops import (
    a_passed_deadline_is_recorded,
    a_suspended_attempt_is_stopped,
    a_wish_to_suspend_is_recorded,
    what_its_queue_stops_waits_again,
    what_passed_a_deadline_is_stopped,
)
from finetune_operator.planners.deadlines import next_deadline_seconds
from finetune_operator.planners.failure_class import end_of, vanished
from finetune_operator.planners.life import Life, life, lives
from finetune_operator.planners.pods_ready import waiting_message
from finetune_operator.planners.retry_budget import delay_seconds, start_delay_seconds
from finetune_operator.planners.work import REPLACED, SUSPENDED, Work
from finetune_operator.status import Situation


def lived(work: Work) -> Plan:
    """Return the answer of the first decider that has one; the last one always has."""
    present = life(work)
    answer = next(answer for decide in DECIDERS if (answer := decide(present)) is not None)
    return planned(work.observed, answer)


def a_good_end_is_recorded(life: Life) -> Answer | None:
    if not life.under_way or life.job is None or not life.job.complete:
        return None
    outcome = last_word(life.job)
    achieved = life.work.achieved(outcome) if outcome else None
    return completed(life, achieved, outcome) if outcome and achieved else None


def an_end_is_recorded_before_it_is_acted_on(life: Life) -> Answer | None:
    if not (life.under_way and _has_ended(life)):
        return None
    if remaining := life.remaining():
        return life.awaiting(f"{life.named} has ended; waiting for {_pods(len(remaining))}")
    name = life.work.job_name(life.recorded.number)
    return failed(life, end_of(life.job) if life.job else vanished(name))


def old_pods_are_gone_before_new_ones_start(life: Life) -> Answer | None:
    if life.under_way or not (life.remaining() or life.living()):
        return None
    left = _pods(len(life.remaining())) if life.remaining() else "the Job"
    message = f"waiting for {left} of {life.named} to go"
    return life.awaiting(message, reason=life.restarting, delete=life.living())


def pods_of_a_predecessor_are_gone_first(life: Life) -> Answer | None:
    """Host names and volumes would be shared with those of a deleted object of the same name."""
    if life.job is not None or not life.observed.predecessor_pods:
        return None
    kind, pods = life.observed.key.kind, _pods(life.observed.predecessor_pods)
    message = f"waiting for {pods} of a deleted {kind} of the same name"
    return Answer(Situation.UNDER_WAY, "Preparing", message, verdicts=life.verdicts())


def nothing_starts_while_suspended(life: Life) -> Answer | None:
    return None if life.under_way or life.rest is None else resting(life)


def nothing_starts_on_a_spent_budget(life: Life) -> Answer | None:
    spent = life.spending
    return spent_up(life, spent) if spent and spent.fails and not life.under_way else None


def nothing_starts_against_an_obstacle(life: Life) -> Answer | None:
    if life.under_way and life.job is not None:
        return None
    obstacle = life.work.obstacle()
    if obstacle is None:
        return None
    return Answer(
        obstacle.situation,
        obstacle.reason,
        obstacle.message,
        verdicts=life.verdicts() | dict(obstacle.verdicts),
        waits_for=obstacle.waits_for,
    )


def repeated_failures_are_spaced_out(life: Life) -> Answer | None:
    recorded, status = life.recorded, life.observed.object.status
    no_failure = recorded.ended in (SUSPENDED, REPLACED)
    if life.under_way or recorded.ended_time is None or no_failure:
        return None
    policy = life.observed.object.spec.run_policy
    stage, saved = life.work.component, _latest(life)
    history = (one for one in status.history if one.revision == max(1, status.revision))
    delay = delay_seconds(policy, history, stage=stage, saved_by=saved.attempt if saved else 0)
    if recorded.ended == FailureClass.START_TIMEOUT:
        delay = start_delay_seconds(status.restarts)
    due = (recorded.ended_time + timedelta(seconds=delay) - life.observed.now).total_seconds()
    if due <= 0:
        return None
    message = f"attempt {recorded.number} ended: {recorded.ended}; the next waits {delay:g} s"
    return Answer(
        Situation.UNDER_WAY,
        life.restarting,
        message,
        verdicts=life.verdicts(),
        requeue_seconds=due,
    )


def a_number_is_recorded_before_its_job_exists(life: Life) -> Answer | None:
    if life.under_way:
        return None
    number = life.recorded.number + 1
    updates = life.work.begun(number)
    message = _created(life, number)
    return Answer(
        Situation.UNDER_WAY,
        life.work.waiting_reason,
        message,
        updates,
        life.verdicts(updates),
        events=(Event("Normal", life.work.started_event, message),),
    )


def a_recorded_attempt_gets_its_children(life: Life) -> Answer | None:
    if life.job is not None:
        return None
    return Answer(
        Situation.UNDER_WAY,
        life.work.waiting_reason,
        _created(life, life.recorded.number),
        verdicts=life.verdicts(),
        apply=life.work.children(life.recorded.number),
    )


def a_living_attempt_is_reported(life: Life) -> Answer | None:
    job = life.job
    if job is None:
        return None
    updates = life.work.seen(job)
    reason, message = _stage(life)
    return Answer(
        Situation.UNDER_WAY,
        reason,
        message,
        updates,
        life.verdicts(updates),
        delete=_outdated(life),
        notices=life.work.notices(updates),
        pull_progress=job.bound and job.may_run,
        requeue_seconds=_soonest(life.patience_seconds(), next_deadline_seconds(life)),
    )


DECIDERS: tuple[Callable[[Life], Answer | None], ...] = (
    a_good_end_is_recorded,
    a_wish_to_suspend_is_recorded,
    a_suspended_attempt_is_stopped,
    a_passed_deadline_is_recorded,
    what_passed_a_deadline_is_stopped,
    what_its_queue_stops_waits_again,
    an_end_is_recorded_before_it_is_acted_on,
    old_pods_are_gone_before_new_ones_start,
    pods_of_a_predecessor_are_gone_first,
    nothing_starts_while_suspended,
    nothing_starts_on_a_spent_budget,
    nothing_starts_against_an_obstacle,
    repeated_failures_are_spaced_out,
    a_number_is_recorded_before_its_job_exists,
    a_recorded_attempt_gets_its_children,
    a_living_attempt_is_reported,
)


def _has_ended(life: Life) -> bool:
    """The Job controller judges its pods; a Job that was seen and is no more has ended as well."""
    job = life.job
    if job is None:
        return life.recorded.seen
    return not lives(job) or _is_lost(life, job)


def _is_lost(life: Life, job: JobFacts) -> bool:
    """The Job controller waits for pods on a node that is lost; we do so only for a time."""
    waited_for = life.remaining()
    return job.may_run and not (job.suspended or any(pod in waited_for for pod in job.pods))


def _soonest(*seconds: float | None) -> float | None:
    return min((due for due in seconds if due is not None), default=None)


def _stage(life: Life) -> tuple[str, str]:
    job = life.job
    if job is None or job.suspended or not job.bound:
        why = waiting_message(job, life.queue) if job else ""
        return life.work.waiting_reason, f"{life.named}: {why or 'no pod is on a node yet'}"
    reason, message = life.work.stage(job, life.reason)
    trouble = "" if job.progress else waiting_message(job, life.queue)
    return reason, f"{life.named}: {trouble or message}"


def _outdated(life: Life) -> tuple[ChildRef, ...]:
    """Return ended Jobs beyond the newest two, which are kept for their logs."""
    return tuple(
        job.ref
        for job in life.jobs()
        if job.attempt < life.recorded.number - 2 and not (job.gone or job.deleting)
    )


def _latest(life: Life) -> CheckpointStatus | None:
    status = life.observed.object.status
    if not isinstance(status, ExperimentStatus) or life.work.component != "attempt":
        return None
    return status.checkpoints.latest


def _created(life: Life, number: int) -> str:
    kind = "attempt" if life.work.component == "attempt" else "preparation"
    latest = _latest(life)
    onwards = f"; it goes on from step {latest.step}" if latest else ""
    return f"{kind} {number} is created{onwards}"


def _pods(count: int) -> str:
    return f"{count} pod" if count == 1 else f"{count} pods"
