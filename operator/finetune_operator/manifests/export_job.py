"""The children of a ModelExport's attempt: a ConfigMap and a Job with one pod."""

from __future__ import annotations

from finetune_api.model_export import ModelExport
from finetune_api.names import export_job as export_job_name
from finetune_api.run_config import ExportJobConfig
from finetune_operator.manifests.job_pod import JobPod
from finetune_operator.manifests.one_pod import one_pod
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.storage_mounts import export_mounts, model_mounts, read
from finetune_operator.observed import Manifest, Policy


def export_job(
    of: Owner, export: ModelExport, config: ExportJobConfig, policy: Policy
) -> list[Manifest]:
    """Return ConfigMap and Job that write, verify and publish the artifact."""
    name, spec = export_job_name(of.name, of.attempt), export.spec
    mounts = (
        export_mounts(spec, config.location)
        | read(config.checkpoint_location)
        | model_mounts(config.experiment_spec, config.start)
    )
    pod = JobPod(
        verb=config.verb,
        config_map=name,
        compute=spec.compute,
        scheduling=spec.scheduling,
        mounts=mounts,
        scratch_size=spec.storage.scratch_size,
        overrides=spec.pod_overrides,
    )
    return one_pod(of, pod, config, spec.network_policy, policy, queue=spec.scheduling)
