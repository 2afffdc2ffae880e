"""The life of a run: retries, deadlines, suspension."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.meta import ApiModel, Rule


class Retries(ApiModel):
    """Budgets per failure class, totals of a revision; other classes are never repeated."""

    disruption: int = Field(default=100, ge=0, le=10000)
    """disruption: drain, eviction, preemption, node loss; a cap of its own."""
    external_service: int = Field(default=3, ge=0, le=1000)
    """externalService: a store or hub kept failing (exit 30)."""
    unknown: int = Field(default=3, ge=0, le=1000)
    """unknown: exit 1 and signals without a better cause."""
    start_timeout: int = Field(default=5, ge=0, le=10000)
    """startTimeout: not everything was up within startDeadlineSeconds."""


class OnGpuOutOfMemory(StrEnum):
    """What follows when a GPU's memory is exhausted."""

    FAIL = "Fail"
    REDUCE_BATCH = "ReduceBatch"


class OnBudgetExhausted(StrEnum):
    """What follows when a budget is spent."""

    SUSPEND = "Suspend"
    FAIL = "Fail"


class Budget(ApiModel):
    """What the GPUs of a revision may cost; at 80 % there is an event, at 100 % the run stops."""

    gpu_hours: float | None = Field(default=None, gt=0, le=1e9)
    """gpuHours of all attempts: time on nodes x GPUs; preparations take none."""
    cost: float | None = Field(default=None, gt=0, le=1e9)
    """cost in money; needs a price, own or the administrator's."""
    gpu_hour_price: float | None = Field(default=None, gt=0, le=1e6)
    """gpuHourPrice instead of the administrator's; without cost the money is only shown."""
    currency: Annotated[str, StringConstraints(max_length=3, pattern="^[A-Z]{3}$")] | None = None
    """currency of gpuHourPrice."""
    on_exhausted: OnBudgetExhausted = OnBudgetExhausted.SUSPEND
    """onExhausted: both stop with a checkpoint; Suspend goes on when the limit is raised."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.gpuHours) || has(self.cost)", "a budget needs gpuHours or cost"),
        Rule(
            "!has(self.currency) || has(self.gpuHourPrice)",
            "currency is that of gpuHourPrice; the administrator's prices have their own",
        ),
    )


class TrainingRetries(Retries):
    """Budgets per failure class of an experiment."""

    gpu_out_of_memory: int | None = Field(default=None, ge=1, le=100)
    """gpuOutOfMemory with onGpuOutOfMemory ReduceBatch only; absent = 3."""

    peer_lost: int = Field(default=5, ge=0, le=1000)
    """peerLost: exit 40 without a better cause; all ranks restart from the newest checkpoint."""
    hang: int = Field(default=3, ge=0, le=1000)
    """hang: silence beyond twice the limit of hangTimeoutSeconds, seen by the operator."""


class RunPolicy(ApiModel):
    """Suspension and retries."""

    suspend: bool = False
    """suspend stops the run: SIGTERM, checkpoint, pods deleted; false again continues it."""
    backoff_seconds: int = Field(default=10, ge=1, le=86400)
    """backoffSeconds is the first delay of an attempt, doubling; the first restart is at once."""
    max_backoff_seconds: int = Field(default=600, ge=1, le=86400)
    """maxBackoffSeconds is the longest delay of a new attempt."""
    start_deadline_seconds: int = Field(default=1800, ge=0)
    """startDeadlineSeconds from the first pod on a node until all of the attempt works; then it is
    stopped and what it holds is freed; 0 = off."""
    active_deadline_seconds: int = Field(default=0, ge=0)
    """activeDeadlineSeconds is the longest running time over all attempts, waiting for nodes
    excluded; the run then stops with a checkpoint and fails; 0 = off."""
    queue_deadline_seconds: int = Field(default=0, ge=0)
    """queueDeadlineSeconds is the longest wait of an attempt for its first node; 0 = off."""
    ttl_seconds_after_finished: int = Field(default=604800, ge=0)
    """ttlSecondsAfterFinished: the Jobs of a success, and their pods, are deleted after it."""
    retain_on_failure_seconds: int = Field(default=604800, ge=0)
    """retainOnFailureSeconds: the same after a failure; until then ended pods stay readable and
    hold no GPU."""
    retries: Retries = Retries()
    """retries are budgets per failure class."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.backoffSeconds <= self.maxBackoffSeconds",
            "backoffSeconds must not exceed maxBackoffSeconds",
        ),
    )


class TrainingRunPolicy(RunPolicy):
    """Suspension, retries and patience of an experiment."""

    retries: TrainingRetries = TrainingRetries()
    """retries are budgets per failure class."""
    grace_period_seconds: int | None = Field(default=None, ge=10, le=86400)
    """gracePeriodSeconds is from SIGTERM to SIGKILL; absent = 3 x slowest save, at least 30."""
    on_gpu_out_of_memory: OnGpuOutOfMemory = OnGpuOutOfMemory.FAIL
    """onGpuOutOfMemory: ReduceBatch makes the next attempt with half the tokens per micro-batch;
    the samples of a step, and so the update, stay the same."""
    hang_timeout_seconds: int = Field(default=600, ge=0, le=86400)
    """hangTimeoutSeconds without a sign of life, and ten median steps, ends a pod's ranks with
    their stacks in the log and restarts all; after twice that the operator does; 0 = off."""
    budget: Budget | None = None
    """budget limits the spending of all attempts of a revision."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.retries.gpuOutOfMemory) || self.onGpuOutOfMemory == 'ReduceBatch'",
            "retries.gpuOutOfMemory acts with onGpuOutOfMemory ReduceBatch only",
        ),
    )
