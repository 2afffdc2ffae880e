"""What an engine does for an attempt of an experiment: make its children, and stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.run_config import TrainingConfig
from finetune_operator.manifests.owned import Owner
from finetune_operator.observed import ChildRef, JobFacts, Manifest, Policy


@dataclass(frozen=True)
class Attempt:
    """One try at a run: who owns it, what its ranks are told, how long they may take to stop."""

    owner: Owner
    experiment: FineTuneExperiment
    config: TrainingConfig
    policy: Policy
    grace_seconds: int


class AttemptEngine(Protocol):
    """One way to run all ranks of an attempt together."""

    def render(self, attempt: Attempt) -> tuple[Manifest, ...]:
        """Return the children in the order in which they are applied."""
        ...

    def stop(self, job: JobFacts) -> tuple[ChildRef, ...]:
        """Return what is deleted to end the attempt; its pods get their grace period."""
        ...
