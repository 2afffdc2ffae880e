"""For what an attempt is ended though it could go on: deadlines, a hang, a spent budget.

Deadlines compare with times that the operator itself recorded. Suspended time and time in a queue
cost nothing; clocks of two machines are never compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import JobFacts
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.life import Life
from finetune_operator.planners.pods_ready import waiting_message
from finetune_operator.planners.spending import EXHAUSTED
from finetune_operator.planners.stall import stall

START, ACTIVE, QUEUE = "StartTimeout", "DeadlineExceeded", "QueueDeadlineExceeded"
HANG = "Hang"
_CLASSES = {
    START: FailureClass.START_TIMEOUT,
    HANG: FailureClass.HANG,
    EXHAUSTED: FailureClass.BUDGET,
}
_LATER = {
    HANG: "its ranks showed no sign of life within the limit of runPolicy.hangTimeoutSeconds",
    EXHAUSTED: "runPolicy.budget was spent",
}
"""What is said of an end whose cause cannot be looked at any more."""


@dataclass(frozen=True)
class Deadline:
    """A deadline: what its passing is called, when that is, and how it is said."""

    reason: str
    time: datetime
    message: str

    def end(self) -> End:
        """Return the end of an attempt that passed it."""
        failure = _CLASSES.get(self.reason, FailureClass.DEADLINE)
        return End(failure, self.reason, self.message)


def passed_deadline(life: Life) -> Deadline | None:
    """Return the first deadline that has passed."""
    return next((one for one in _deadlines(life) if one.time <= life.observed.now), None)


def recorded_deadline(life: Life) -> Deadline | None:
    """Return the deadline for whose sake the attempt is being stopped; it may be lifted since."""
    reason = life.observed.object.status.attempt.stopping
    if reason is None or life.work.component != "attempt":
        return None
    live = (one for one in _deadlines(life, stopping=True) if one.reason == reason)
    lifted = _LATER.get(reason, "a deadline of runPolicy had passed")
    return next(live, Deadline(reason, life.now, lifted))


def next_deadline_seconds(life: Life) -> float | None:
    """Return the time until the next deadline passes, or None."""
    dues = [(one.time - life.observed.now).total_seconds() for one in _deadlines(life)]
    spent = life.spending.seconds_left() if life.spending else None
    return min(dues if spent is None else [*dues, spent], default=None)


def _is_starting(life: Life, job: JobFacts) -> bool:
    told = job.progress
    joined = told is not None and 0 < told.ranks_expected <= told.ranks_joined
    return not joined and life.work.stage(job, life.reason)[0] == "Starting"


def _deadlines(life: Life, *, stopping: bool = False) -> Iterator[Deadline]:
    if life.work.component != "attempt" or life.job is None:
        return
    status, policy = life.observed.object.status, life.observed.object.spec.run_policy
    attempt = status.attempt
    started, why = attempt.started_time, waiting_message(life.job, life.queue)
    because = f": {why}" if why else ""
    if started is None:
        if policy.queue_deadline_seconds and attempt.created_time and not life.job.bound:
            yield Deadline(
                QUEUE,
                attempt.created_time + timedelta(seconds=policy.queue_deadline_seconds),
                f"no pod got a node within runPolicy.queueDeadlineSeconds "
                f"{policy.queue_deadline_seconds}{because}",
            )
        return
    if policy.active_deadline_seconds:
        left = policy.active_deadline_seconds - status.active_seconds
        yield Deadline(
            ACTIVE,
            started + timedelta(seconds=left),
            f"it ran for runPolicy.activeDeadlineSeconds {policy.active_deadline_seconds}",
        )
    if policy.start_deadline_seconds and (stopping or _is_starting(life, life.job)):
        yield Deadline(
            START,
            started + timedelta(seconds=policy.start_deadline_seconds),
            f"not all of it was up within runPolicy.startDeadlineSeconds "
            f"{policy.start_deadline_seconds}{because}",
        )
    if life.spending and life.spending.fails:
        yield Deadline(EXHAUSTED, life.now, life.spending.message)
    if silence := stall(life.job, policy):
        yield Deadline(HANG, life.now, silence)
