"""A training whose pods are played, for tests of what its status tells over time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from builders import EXPERIMENT, ended_pod, job, pod, prepared, published
from finetune_api.experiment_status import ExperimentStatus
from finetune_api.run_outcome import FailureClass
from finetune_api.run_progress import Progress
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.observed import Observed, Policy
from finetune_operator.planners import plan
from observed_runs import ALL_RUN, seen


class PlayedRun:
    """A run whose pods are played: attempts begin, take steps, die; the clock goes on."""

    def __init__(self, policy: Policy | None = None, **changes: Any) -> None:
        status = prepared()
        status["preparation"]["specDigest"] = spec_digest(seen(**changes).object.spec)
        found = seen(status, **changes)
        self.seen: Observed = replace(found, policy=policy or found.policy)
        self.number = 0

    def step(self, *jobs: Any, seconds: int = 0) -> ExperimentStatus:
        """Let time pass and make one reconcile step."""
        now = self.seen.now + timedelta(seconds=seconds)
        observed = replace(self.seen, jobs=jobs, now=now)
        self.seen = published(observed, plan(observed))
        return self.status

    def attempt(self, *pods: Any, **facts: Any) -> Any:
        """Return the Job of the present attempt."""
        return job(EXPERIMENT, self.number, *(pods or ALL_RUN), **facts)

    def begins(self, seconds: int = 0) -> None:
        """Record a new attempt and see its pods on nodes."""
        self.step(seconds=seconds)
        self.number += 1
        self.step(self.attempt())

    def trains(
        self, step: int, first: int, spent: float, *, seconds: int, **more: Any
    ) -> ExperimentStatus:
        """Let rank 0 report a step."""
        said = {"phase": "Training", "step": step, "total_steps": 100} | more
        told = Progress(
            run=f"uid-experiment/{self.number}", first_step=first, step_seconds=spent, **said
        )
        return self.step(self.attempt(progress=told), seconds=seconds)

    def dies(self, seconds: int = 0, **facts: Any) -> ExperimentStatus:
        """Let a rank die and its peer be stopped."""
        pods = (ended_pod(0, FailureClass.UNKNOWN, **facts), pod(1, "Failed", exit_code=75))
        return self.step(self.attempt(*pods, failed=True), seconds=seconds)

    @property
    def status(self) -> ExperimentStatus:
        """The status as it was written last."""
        status = self.seen.object.status
        assert isinstance(status, ExperimentStatus)
        return status

    @property
    def told(self) -> tuple[float | None, int, float | None]:
        """Ratio, lost steps and time to recover."""
        found = self.status.efficiency
        assert found is not None
        return found.training_ratio, found.lost_steps, found.recovery_seconds
