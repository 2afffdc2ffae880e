"""The preparation of a FineTuneExperiment as a work: a Job on CPU before a GPU is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.conditions import CHECKPOINT_AVAILABLE, DEPENDENCIES_READY, PLANNED
from finetune_api.experiment_status import PreparationStatus
from finetune_api.names import preparation_job
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_operator.checks import Refusal
from finetune_operator.manifests.identity import location, spec_digest
from finetune_operator.manifests.owned import owner
from finetune_operator.manifests.prepare_job import prepare_job
from finetune_operator.observed import JobFacts, Key, Manifest
from finetune_operator.planners.experiment_of import experiment_of
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.preparation_needs import Needs
from finetune_operator.planners.recorded_attempt import (
    artifact,
    artifacts,
    refused,
    turned,
    warnings,
)
from finetune_operator.planners.run_checks import run_refusal
from finetune_operator.planners.settled import settled
from finetune_operator.planners.work import Achievement, Obstacle, Recorded, Work
from finetune_operator.status import AS_EXPECTED, NOT_YET, Situation, Verdict


class PreparationWork(Work):
    """Pin the snapshot, tokenise, resolve automatic values."""

    component = "prepare"
    waiting_reason = "Preparing"
    started_event = "PreparationStarted"
    heeds_suspend = False

    def recorded(self) -> Recorded:
        """Return the preparation in status."""
        status = experiment_of(self.observed).status
        preparation = status.preparation
        return Recorded(
            number=preparation.attempt,
            ended=preparation.ended,
            ended_time=preparation.ended_time,
            seen=status.children.prepare_job == self.job_name(preparation.attempt),
        )

    def begun(self, number: int) -> dict[str, Any]:
        """Record what is prepared: this spec, and the snapshot as it is now."""
        experiment = experiment_of(self.observed)
        digest = spec_digest(experiment.spec)
        children = experiment.status.children.model_copy(update={"prepare_job": None})
        return {
            "preparation": PreparationStatus(
                attempt=number,
                spec_digest=digest,
                revision=max(1, experiment.status.revision),
            ),
            "children": children,
        } | Needs(self.observed).pins()

    def ended(self, ended: str) -> dict[str, Any]:
        """Record the end of a preparation."""
        end = {"ended": ended, "ended_time": self.observed.now.replace(microsecond=0)}
        return {
            "preparation": experiment_of(self.observed).status.preparation.model_copy(update=end)
        }

    def obstacle(self) -> Obstacle | None:
        """Return what is missing, or what a check refuses."""
        needs = Needs(self.observed)
        said = {DEPENDENCIES_READY: needs.verdict}
        keys = tuple(one.key for one in needs.all)
        if refusal := run_refusal(self.observed):
            return _refusal(refusal, said)
        if needs.missing:
            message = needs.verdict.message
            return Obstacle(Situation.UNDER_WAY, "Preparing", message, said, keys)
        suited = needs.refusal()
        return _refusal(suited, said, keys) if suited else None

    def job_name(self, number: int) -> str:
        """Return the name of the Job."""
        revision = max(1, self.observed.object.status.revision)
        return preparation_job(self.observed.key.name, revision, number)

    def children(self, number: int) -> tuple[Manifest, ...]:
        """Return ConfigMap and Job."""
        experiment = experiment_of(self.observed)
        default = self.observed.policy.default_location
        place = settled(location(experiment.spec.storage, default), "spec.storage")
        digest = experiment.status.preparation.spec_digest
        of = owner(self.observed, attempt=number, component="prepare", spec_digest=digest)
        snapshots = Needs(self.observed).snapshots()
        return tuple(prepare_job(of, experiment, snapshots, place, self.observed.policy))

    def achieved(self, outcome: Outcome) -> Achievement | None:
        """Record the resolved values."""
        prepared, summary = artifact(outcome, "prepared"), outcome.preparation
        status = experiment_of(self.observed).status
        if prepared is None or summary is None or status.dataset is None:
            return None
        counts = summary.dataset.model_dump(include={"train", "validation", "test"})
        done = {"complete": True, "uri": prepared.uri, "digest": prepared.digest}
        done["ended"] = FailureClass.COMPLETED.value
        updates = {
            "preparation": status.preparation.model_copy(update=done),
            "dataset": status.dataset.model_copy(update=counts),
            "model": summary.model,
            "plan": summary.plan,
            "truncation": summary.truncation,
            "artifacts": artifacts(status.artifacts, outcome),
            "warnings": warnings(status.warnings, outcome),
        }
        steps = summary.plan.total_steps
        message = f"{steps} steps are planned" if steps else "an evaluation is planned"
        said = {PLANNED: AS_EXPECTED}
        return Achievement(Situation.UNDER_WAY, "Preparing", message, updates, said)

    def failed(self, end: End) -> Mapping[str, Verdict]:
        """Say why nothing can be planned."""
        return turned(end.reason, end.message, PLANNED)

    def stage(self, _job: JobFacts, _known: str) -> tuple[str, str]:
        """Return Preparing."""
        return "Preparing", "data is tokenised and automatic values are resolved on CPU"

    def seen(self, job: JobFacts) -> dict[str, Any]:
        """Record the Job."""
        names = {"prepare_job": job.ref.name}
        return {"children": self.observed.object.status.children.model_copy(update=names)}

    def verdicts(self, _updates: Mapping[str, Any]) -> Mapping[str, Verdict]:
        """Nothing is planned yet; what is depended on is judged while it is needed."""
        return {
            DEPENDENCIES_READY: Needs(self.observed).verdict
            if self.recorded().number == 0
            else AS_EXPECTED,
            PLANNED: NOT_YET,
            CHECKPOINT_AVAILABLE: NOT_YET,
        }


def _refusal(
    refusal: Refusal, said: Mapping[str, Verdict], waits_for: tuple[Key, ...] = ()
) -> Obstacle:
    """Return the obstacle; a check that speaks of a reference is made again when that changes."""
    turned_down = dict(said) | turned(refusal.reason, refusal.message, PLANNED)
    obstacle = refused(refusal, turned_down)
    return Obstacle(
        obstacle.situation, obstacle.reason, obstacle.message, obstacle.verdicts, waits_for
    )
