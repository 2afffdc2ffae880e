"""Decides what a Dataset needs next: one Job, until its snapshot exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.conditions import FAILURE_REASONS, SOURCE_RESOLVED, VALIDATED
from finetune_api.dataset import Dataset
from finetune_api.dataset_status import DatasetProgress
from finetune_api.names import dataset_job
from finetune_api.run_outcome import DatasetSummary, FailureClass, Outcome
from finetune_operator.checks import names_are_free, results_have_a_place
from finetune_operator.manifests.data_job import data_job
from finetune_operator.manifests.identity import location, spec_digest
from finetune_operator.manifests.owned import owner
from finetune_operator.manifests.quantities import readable_size
from finetune_operator.observed import JobFacts, Manifest, Observed, Plan
from finetune_operator.planners.attempt_life import lived
from finetune_operator.planners.attempt_work import AttemptWork
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.recorded_attempt import (
    artifact,
    artifacts,
    first_refusal,
    refused,
    seen_attempt,
    turned,
    warnings,
)
from finetune_operator.planners.settled import is_a, settled
from finetune_operator.planners.work import Achievement, Obstacle
from finetune_operator.status import AS_EXPECTED, NOT_YET, Situation, Verdict

_STAGES = ("Fetching", "Validating", "Writing")
_SOURCE_REASONS = frozenset(
    {"SourceNotFound", "AccessDenied", "AddressNotAllowed", "DigestMismatch", "ServiceUnavailable"}
)


def plan_dataset(observed: Observed) -> Plan:
    """Return the answer for a Dataset that is neither deleted nor final."""
    return lived(DatasetWork(observed))


def dataset_of(observed: Observed) -> Dataset:
    """Return the observed object as the Dataset it is."""
    return is_a(observed.object, Dataset)


class DatasetWork(AttemptWork):
    """Fetch, check, split and write the snapshot."""

    def obstacle(self) -> Obstacle | None:
        """Return what the operator refuses."""
        storage = dataset_of(self.observed).spec.storage
        refusal = first_refusal(
            names_are_free(self.observed.foreign_names),
            results_have_a_place(storage, self.observed.policy),
        )
        return refused(refusal) if refusal else None

    def job_name(self, number: int) -> str:
        """Return the name of the Job."""
        return dataset_job(self.observed.key.name, number)

    def children(self, number: int) -> tuple[Manifest, ...]:
        """Return ConfigMap and Job."""
        dataset = dataset_of(self.observed)
        default = self.observed.policy.default_location
        place = settled(location(dataset.spec.storage, default), "spec.storage")
        of = owner(self.observed, attempt=number, spec_digest=spec_digest(dataset.spec))
        return tuple(data_job(of, dataset, place, self.observed.policy))

    def achieved(self, outcome: Outcome) -> Achievement | None:
        """Record the snapshot."""
        snapshot = artifact(outcome, "snapshot")
        if snapshot is None or outcome.dataset is None:
            return None
        dataset = dataset_of(self.observed)
        ended = self.ended(FailureClass.COMPLETED.value)
        updates = (
            ended
            | _findings(dataset, outcome, outcome.dataset)
            | {
                "digest": snapshot.digest,
                "uri": snapshot.uri,
                "size": readable_size(snapshot.bytes),
                "license": dataset.spec.license,
                "progress": DatasetProgress(percentage=100, stage="Ready"),
            }
        )
        records = outcome.dataset.records
        message = f"{records.total} records: {records.train} train, {records.validation} validation"
        done = {SOURCE_RESOLVED: AS_EXPECTED, VALIDATED: AS_EXPECTED}
        return Achievement(Situation.FINISHED, "Ready", message, updates, done)

    def failed(self, end: End) -> Mapping[str, Verdict]:
        """Turn the condition that the cause belongs to; a finding is named by its own reason."""
        if end.reason in _SOURCE_REASONS:
            return turned(end.reason, end.message, SOURCE_RESOLVED)
        if end.failure is not FailureClass.DATA:
            return {}
        finding = _first_finding(end.outcome)
        return {SOURCE_RESOLVED: AS_EXPECTED} | turned(
            finding or end.reason, end.message, VALIDATED
        )

    def stage(self, job: JobFacts, known: str) -> tuple[str, str]:
        """Return the stage the pod reports; until it does again, the one last reported."""
        phase = job.progress.phase if job.progress else known
        reason = phase if phase in _STAGES else "Starting"
        return reason, "the pod starts" if reason == "Starting" else reason.lower()

    def seen(self, job: JobFacts) -> dict[str, Any]:
        """Record the Job and its progress."""
        updates = seen_attempt(self.observed, job)
        if job.progress:
            known = dataset_of(self.observed).status.progress
            told = DatasetProgress(percentage=job.progress.percentage, stage=job.progress.phase)
            updates["progress"] = _timed(known, told, self.observed)
        return updates

    def learned(self, job: JobFacts) -> dict[str, Any]:
        """Record the findings, so that a failure names rows and columns."""
        for pod in job.pods:
            if pod.outcome and pod.outcome.dataset:
                return _findings(dataset_of(self.observed), pod.outcome, pod.outcome.dataset)
        return {}

    def verdicts(self, _updates: Mapping[str, Any]) -> Mapping[str, Verdict]:
        """Nothing is judged before the Job has ended."""
        return {SOURCE_RESOLVED: NOT_YET, VALIDATED: NOT_YET}


def _findings(dataset: Dataset, outcome: Outcome, summary: DatasetSummary) -> dict[str, Any]:
    return {
        "record_type": summary.record_type,
        "layout": summary.layout,
        "records": summary.records,
        "lengths": summary.lengths,
        "sources": summary.sources,
        "columns": summary.columns,
        "findings": summary.findings,
        "artifacts": artifacts(dataset.status.artifacts, outcome),
        "warnings": warnings(dataset.status.warnings, outcome),
    }


def _first_finding(outcome: Outcome | None) -> str:
    """Return the name of the finding that failed the data, as the pod or its first error says."""
    if outcome is None:
        return ""
    if outcome.reason and outcome.reason not in FAILURE_REASONS:
        return outcome.reason
    found = outcome.dataset.findings if outcome.dataset else []
    return next((finding.reason for finding in found if finding.severity == "Error"), "")


def _timed(
    known: DatasetProgress | None, told: DatasetProgress, observed: Observed
) -> DatasetProgress:
    """Keep the time of an unchanged answer: a status that differs by a clock is never written."""
    if known and known.model_copy(update={"update_time": None}) == told:
        return known
    return told.model_copy(update={"update_time": observed.now.replace(microsecond=0)})
