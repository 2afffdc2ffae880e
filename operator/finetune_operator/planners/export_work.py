"""The work of a ModelExport: merge, verify and publish what an experiment left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.conditions import DEPENDENCIES_READY, MERGED, PUSHED, VERIFIED
from finetune_api.dataset import Dataset
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.model_export import ExportProgress, ModelExport
from finetune_api.names import DATASET, EXPERIMENT, export_job
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_operator.checks import names_are_free, results_have_a_place
from finetune_operator.manifests.export_job import export_job as export_children
from finetune_operator.manifests.identity import spec_digest
from finetune_operator.manifests.owned import owner
from finetune_operator.observed import JobFacts, Key, Manifest, Observed
from finetune_operator.planners.attempt_work import AttemptWork
from finetune_operator.planners.export_source import chosen_checkpoint, export_config
from finetune_operator.planners.failure_class import End
from finetune_operator.planners.recorded_attempt import (
    artifacts,
    first_refusal,
    not_yet,
    refused,
    seen_attempt,
    turned,
    warnings,
)
from finetune_operator.planners.references import Reference, reference
from finetune_operator.planners.settled import is_a
from finetune_operator.planners.work import Achievement, Obstacle
from finetune_operator.status import AS_EXPECTED, Situation, Verdict

_STAGES = ("Merging", "Verifying", "Pushing")
_CONDITION_OF = {
    "MergeFailed": MERGED,
    "CheckpointNotFound": MERGED,
    "VerificationFailed": VERIFIED,
    "TargetConflict": PUSHED,
    "TargetUnavailable": PUSHED,
    "AccessDenied": PUSHED,
}


class ExportWork(AttemptWork):
    """Write, verify and copy the artifact."""

    def obstacle(self) -> Obstacle | None:
        """Return what is missing, or what a check refuses."""
        found = _experiment(self.observed)
        said, waits_for = {DEPENDENCIES_READY: found.verdict}, (found.key,)
        if not isinstance(found.object, FineTuneExperiment):
            message = found.verdict.message
            return Obstacle(Situation.UNDER_WAY, "Preparing", message, said, waits_for)
        export = _export(self.observed)
        refusal = first_refusal(
            names_are_free(self.observed.foreign_names),
            results_have_a_place(export.spec.storage, self.observed.policy),
            results_have_a_place(found.object.spec.storage, self.observed.policy),
        )
        if refusal:
            return refused(refusal, said)
        if chosen_checkpoint(export, found.object) is None:
            choice = export.spec.source.experiment.checkpoint
            name = found.object.metadata.name
            message = (
                f"spec.source.experiment.checkpoint: FineTuneExperiment {name} keeps no "
                f"checkpoint {choice}; choose another"
            )
            said = said | turned("CheckpointNotFound", message, MERGED)
            return Obstacle(Situation.REFUSED, "CheckpointNotFound", message, said, waits_for)
        return None

    def job_name(self, number: int) -> str:
        """Return the name of the Job."""
        return export_job(self.observed.key.name, number)

    def children(self, number: int) -> tuple[Manifest, ...]:
        """Return ConfigMap and Job."""
        export = _export(self.observed)
        experiment = is_a(_experiment(self.observed).object, FineTuneExperiment)
        of = owner(self.observed, attempt=number, spec_digest=spec_digest(export.spec))
        license_of = _license(self.observed, experiment)
        config = export_config(of, export, experiment, self.observed.policy, license_of)
        return tuple(export_children(of, export, config, self.observed.policy))

    def achieved(self, outcome: Outcome) -> Achievement | None:
        """Record the artifact."""
        summary = outcome.export
        if summary is None:
            return None
        status = _export(self.observed).status
        updates = self.ended(FailureClass.COMPLETED.value) | {
            "source": summary.source,
            "artifact": summary.artifact,
            "verification": summary.verification,
            "targets": summary.targets,
            "pushed": _pushed(self.observed, outcome),
            "artifacts": artifacts(status.artifacts, outcome),
            "warnings": warnings(status.warnings, outcome),
            "progress": ExportProgress(percentage=100, stage="Ready"),
        }
        done = dict.fromkeys((DEPENDENCIES_READY, MERGED, VERIFIED, PUSHED), AS_EXPECTED)
        message = f"{summary.artifact.uri} is written and verified"
        return Achievement(Situation.FINISHED, "Ready", message, updates, done)

    def failed(self, end: End) -> Mapping[str, Verdict]:
        """Turn the condition that the cause belongs to."""
        name = _CONDITION_OF.get(end.reason)
        return turned(end.reason, end.message, name) if name else {}

    def stage(self, job: JobFacts, known: str) -> tuple[str, str]:
        """Return the stage the pod reports; until it does again, the one last reported."""
        phase = job.progress.phase if job.progress else known
        reason = phase if phase in _STAGES else "Starting"
        return reason, "the pod starts" if reason == "Starting" else reason.lower()

    def seen(self, job: JobFacts) -> dict[str, Any]:
        """Record the Job and its progress."""
        updates = seen_attempt(self.observed, job)
        if job.progress:
            known = _export(self.observed).status.progress
            told = ExportProgress(percentage=job.progress.percentage, stage=job.progress.phase)
            updates["progress"] = _timed(known, told, self.observed)
        return updates

    def verdicts(self, updates: Mapping[str, Any]) -> Mapping[str, Verdict]:
        """Return what is settled before the Job ends: its source, once an attempt is made."""
        found = AS_EXPECTED if "attempt" in updates else _dependencies(self.observed)
        return {DEPENDENCIES_READY: found} | not_yet(MERGED, VERIFIED, PUSHED)


def _export(observed: Observed) -> ModelExport:
    return is_a(observed.object, ModelExport)


def _experiment(observed: Observed) -> Reference:
    return reference(observed, EXPERIMENT, _export(observed).spec.source.experiment.name)


def _license(observed: Observed, experiment: FineTuneExperiment) -> str | None:
    """Return the license of the data, as long as its Dataset holds what was trained on."""
    pin = experiment.status.dataset
    key = Key(DATASET, observed.key.namespace, experiment.spec.dataset.name)
    found = observed.references.get(key)
    if pin is None or not isinstance(found, Dataset) or found.status.digest != pin.digest:
        return None
    return found.status.license


def _dependencies(observed: Observed) -> Verdict:
    """A source that was used once is not asked for again."""
    return AS_EXPECTED if observed.object.status.attempt.number else _experiment(observed).verdict


def _pushed(observed: Observed, outcome: Outcome) -> str | None:
    targets = _export(observed).spec.targets
    if not targets:
        return None
    found = outcome.export.targets if outcome.export else []
    return f"{sum(target.state == 'Pushed' for target in found)}/{len(targets)}"


def _timed(
    known: ExportProgress | None, told: ExportProgress, observed: Observed
) -> ExportProgress:
    """Keep the time of an unchanged answer: a status that differs by a clock is never written."""
    if known and known.model_copy(update={"update_time": None}) == told:
        return known
    return told.model_copy(update={"update_time": observed.now.replace(microsecond=0)})
