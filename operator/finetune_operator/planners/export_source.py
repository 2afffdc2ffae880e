"""What a ModelExport takes from its experiment: the checkpoint, and facts for card and merge."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_api.experiment_status import MetricStatus
from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.model_export import ModelExport
from finetune_api.names import EXPORT, storage_prefix
from finetune_api.run_config import ExportJobConfig
from finetune_api.run_outcome import CheckpointRef
from finetune_api.storage import Location, Storage
from finetune_operator.manifests.identity import identity, location
from finetune_operator.manifests.owned import Owner
from finetune_operator.observed import Policy
from finetune_operator.planners.kept_checkpoints import kept_checkpoints
from finetune_operator.planners.settled import settled


def chosen_checkpoint(export: ModelExport, experiment: FineTuneExperiment) -> CheckpointRef | None:
    """Return the checkpoint to export, or None if the experiment keeps no such one."""
    return kept_checkpoints(experiment).get(export.spec.source.experiment.checkpoint)


def export_config(
    of: Owner,
    export: ModelExport,
    experiment: FineTuneExperiment,
    policy: Policy,
    dataset_license: str | None,
) -> ExportJobConfig:
    """Return the configuration of an export of a complete experiment."""
    status, source, own = experiment.status, experiment.metadata, export.metadata
    report = next((found for found in status.artifacts if found.name == "report"), None)
    return ExportJobConfig(
        identity=identity(of),
        spec=export.spec,
        location=_place(export.spec.storage, policy),
        prefix=storage_prefix(EXPORT, own.namespace, own.name, own.uid),
        experiment=source.name,
        experiment_uid=source.uid,
        experiment_spec=experiment.spec,
        dataset=settled(status.dataset, "status.dataset"),
        dataset_license=dataset_license,
        start=status.start,
        model=settled(status.model, "status.model"),
        plan=settled(status.plan, "status.plan"),
        metrics=_numbers(m for m in status.metrics if m.step),
        baseline=_numbers(m for m in status.metrics if not m.step),
        checkpoint=settled(chosen_checkpoint(export, experiment), "the checkpoint"),
        checkpoint_kind=settled(status.result, "status.result").kind,
        checkpoint_location=_place(experiment.spec.storage, policy),
        prepared_uri=status.preparation.uri,
        prepared_digest=status.preparation.digest,
        report_uri=report.uri if report else "",
    )


def _place(storage: Storage, policy: Policy) -> Location:
    return settled(location(storage, policy.default_location), "spec.storage")


def _numbers(metrics: Iterable[MetricStatus]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}
