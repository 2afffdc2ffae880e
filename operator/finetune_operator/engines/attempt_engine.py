"""What an engine does for an attempt of an experiment: make its children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.names import attempt_job
from finetune_api.run_config import TrainingConfig
from finetune_operator.manifests.job_pod import JobPod
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.storage_mounts import model_mounts, written
from finetune_operator.observed import Manifest, Policy


@dataclass(frozen=True)
class Attempt:
    """One try at a run: who owns it, what its ranks are told, how long they may take to stop."""

    owner: Owner
    experiment: FineTuneExperiment
    config: TrainingConfig
    policy: Policy
    grace_seconds: int

    @property
    def name(self) -> str:
        """Return the name of all children that are made for this attempt alone."""
        return attempt_job(self.owner.name, self.owner.attempt)

    def pod(self) -> JobPod:
        """Return what its pods need beyond what all job pods have."""
        spec = self.experiment.spec
        return JobPod(
            verb=self.config.verb,
            config_map=self.name,
            compute=spec.compute,
            scheduling=spec.scheduling,
            mounts=model_mounts(spec, self.config.start) | written(self.config.location),
            scratch_size=spec.storage.scratch_size,
            grace_seconds=self.grace_seconds,
            overrides=spec.pod_overrides,
        )


class AttemptEngine(Protocol):
    """One way to run all ranks of an attempt together.

    Its child is observed as `JobFacts`, whatever its kind (`child_facts`), and is stopped by
    deleting it.
    """

    def render(self, attempt: Attempt) -> tuple[Manifest, ...]:
        """Return the children in the order in which they are applied."""
        ...

    def service(self, name: str, attempt: int) -> str:
        """Return the name of the headless Service through which ranks find each other."""
        ...
