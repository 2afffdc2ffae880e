"""A work as it stands: what is recorded, what is seen, and who may still run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from finetune_api.conditions import PODS_READY, QUOTA_RESERVED, READY
from finetune_operator.observed import ChildRef, JobFacts, Observed, PodFacts
from finetune_operator.planners.answer import Answer
from finetune_operator.planners.pods_ready import pods_ready, quota_reserved
from finetune_operator.planners.spending import EXHAUSTED, Spending
from finetune_operator.planners.work import Recorded, Work
from finetune_operator.status import Situation, Verdict, condition


@dataclass(frozen=True)
class Life:
    """One work of one object at one moment."""

    observed: Observed
    work: Work
    recorded: Recorded
    job: JobFacts | None
    """job of the present attempt, remembered ones included; None = not known."""

    @property
    def now(self) -> datetime:
        """Return the present moment as it is written: whole seconds."""
        return self.observed.now.replace(microsecond=0)

    @property
    def under_way(self) -> bool:
        """Tell whether an attempt is recorded whose end is not."""
        return self.recorded.number > 0 and self.recorded.ended is None

    @property
    def rest(self) -> Verdict | None:
        """Return condition Suspended as long as nothing of this work may run, or None."""
        if not self.work.heeds_suspend:
            return None
        if self.observed.object.spec.run_policy.suspend:
            message = "runPolicy.suspend is true; set it to false to go on"
            return Verdict("True", "SuspendRequested", message)
        if self.spending and self.spending.suspends:
            return Verdict("True", EXHAUSTED, self.spending.message)
        return None

    @property
    def spending(self) -> Spending | None:
        """Return what this work has spent of a budget; None if it takes nothing that costs."""
        return self.work.spending()

    @property
    def queue(self) -> str | None:
        """Return the queue its Jobs wait in; preparations wait in none."""
        in_queue = self.work.component == "attempt"
        return self.observed.object.spec.scheduling.local_queue if in_queue else None

    @property
    def reason(self) -> str:
        """Return the present reason of Ready, the one of waiting before the first write."""
        ready = condition(self.observed.object.status, READY)
        return ready.reason if ready else self.work.waiting_reason

    @property
    def named(self) -> str:
        """Return what messages call the present attempt."""
        kind = "attempt" if self.work.component == "attempt" else "preparation"
        return f"{kind} {self.recorded.number}"

    @property
    def restarting(self) -> str:
        """Return the reason of Ready between two attempts."""
        return "Restarting" if self.work.component == "attempt" else self.work.waiting_reason

    def jobs(self) -> tuple[JobFacts, ...]:
        """Return the Jobs of all attempts of this work."""
        return tuple(job for job in self.observed.jobs if job.component == self.work.component)

    def remaining(self) -> tuple[PodFacts, ...]:
        """Return the pods of any attempt that may still run and are waited for."""
        return tuple(pod for job in self.jobs() for pod in job.pods if self._is_waited_for(pod))

    def patience_seconds(self) -> float | None:
        """Return the time until the next overdue pod no longer blocks, or None."""
        dues = (self._due_seconds(pod) for pod in self.remaining())
        return min((due for due in dues if due is not None), default=None)

    def living(self) -> tuple[ChildRef, ...]:
        """Return the Jobs that nobody has ended yet."""
        return tuple(job.ref for job in self.jobs() if lives(job))

    def awaiting(
        self,
        message: str,
        *,
        situation: Situation = Situation.UNDER_WAY,
        reason: str = "",
        delete: tuple[ChildRef, ...] = (),
    ) -> Answer:
        """Return the answer while pods end; the step is repeated when one is overdue."""
        return Answer(
            situation,
            reason or self.reason,
            message,
            verdicts=self.verdicts(),
            delete=delete,
            requeue_seconds=self.patience_seconds(),
            pull_progress=bool(self.remaining()),
        )

    def verdicts(self, updates: Mapping[str, Any] | None = None) -> dict[str, Verdict]:
        """Return the conditions beside the six of all kinds while the work is under way."""
        job = self.job if self.under_way else None
        return {
            **self.work.verdicts(updates or {}),
            QUOTA_RESERVED: quota_reserved(job, self.queue),
            PODS_READY: pods_ready(job, self.work.pods()),
        }

    def _is_waited_for(self, pod: PodFacts) -> bool:
        """A pod whose deletion is long overdue is on a lost node; storage is fenced against it."""
        due = self._due_seconds(pod)
        return pod.may_run and (due is None or due > 0)

    def _due_seconds(self, pod: PodFacts) -> float | None:
        if pod.deleting_since is None:
            return None
        patience = timedelta(seconds=self.observed.policy.node_lost_seconds)
        return (pod.deleting_since + patience - self.observed.now).total_seconds()


def life(work: Work) -> Life:
    """Return the life of a work; a Job that exists is preferred to one that is remembered."""
    recorded = work.recorded()
    found = [
        job
        for job in work.observed.jobs
        if recorded.number
        and (job.component, job.attempt) == (work.component, recorded.number)
        # The numbers of preparations begin again with each revision.
        and (work.component == "attempt" or job.revision == _revision(work))
    ]
    return Life(work.observed, work, recorded, min(found, key=lambda job: job.gone, default=None))


def _revision(work: Work) -> int:
    return max(1, work.observed.object.status.revision)


def lives(job: JobFacts) -> bool:
    """Tell whether a Job goes on unless it is stopped."""
    return not (job.gone or job.deleting or job.complete or job.failed)
