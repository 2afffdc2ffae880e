"""Class, counters and policy: once more or final, and after which delay."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_api.run_outcome import FailureClass
from finetune_api.run_policy import OnGpuOutOfMemory, RunPolicy, TrainingRunPolicy
from finetune_api.status_parts import AttemptRecord, Restarts

_COUNTERS: dict[FailureClass, str] = {
    FailureClass.DISRUPTION: "disruption",
    FailureClass.EXTERNAL_SERVICE: "external_service",
    FailureClass.UNKNOWN: "unknown",
    FailureClass.PEER_LOST: "peer_lost",
    FailureClass.HANG: "hang",
    FailureClass.GPU_OUT_OF_MEMORY: "gpu_out_of_memory",
    FailureClass.START_TIMEOUT: "start_timeout",
}
"""Classes that are repeated; a class not named here never is."""


def spent(restarts: Restarts, policy: RunPolicy, failure: FailureClass) -> Restarts | None:
    """Return the counters after one more restart of a class; None if it has none left."""
    counter = _COUNTERS.get(failure)
    if counter is None:
        return None
    budget = _budget(policy, counter)
    used: int = getattr(restarts, counter)
    return restarts.model_copy(update={counter: used + 1}) if used < budget else None


def _budget(policy: RunPolicy, counter: str) -> int:
    if counter != "gpu_out_of_memory":
        return int(getattr(policy.retries, counter, policy.retries.unknown))
    reduces = isinstance(policy, TrainingRunPolicy) and (
        policy.on_gpu_out_of_memory is OnGpuOutOfMemory.REDUCE_BATCH
    )
    given = getattr(policy.retries, counter, None)
    return (given or REDUCTIONS) if reduces else 0


REDUCTIONS = 3
"""Halvings of the micro-batch where the spec names no number."""
FIRST_START_DELAY, LONGEST_START_DELAY = 60.0, 1800.0


def start_delay_seconds(restarts: Restarts) -> float:
    """Return the wait after a start that took too long: somebody else may start meanwhile."""
    doubled: float = FIRST_START_DELAY * 2 ** max(0, restarts.start_timeout - 1)
    return min(LONGEST_START_DELAY, doubled)


def delay_seconds(
    policy: RunPolicy, history: Iterable[AttemptRecord], *, stage: str, saved_by: int
) -> float:
    """Return the wait before the next attempt, in seconds after the end of the last.

    The first restart is immediate; further ones without a newer checkpoint than that of attempt
    `saved_by` wait `backoffSeconds`, doubling up to `maxBackoffSeconds`.
    """
    fruitless = sum(
        record.stage == stage and record.number > saved_by and bool(record.failure_class)
        for record in history
    )
    if fruitless <= 1:
        return 0.0
    return float(min(policy.max_backoff_seconds, policy.backoff_seconds * 2 ** (fruitless - 2)))
