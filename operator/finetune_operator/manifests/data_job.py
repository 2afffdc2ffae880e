"""The children of a Dataset's attempt: a ConfigMap and a Job with one pod."""

from __future__ import annotations

from finetune_api.dataset import Dataset
from finetune_api.names import DATASET, dataset_job, storage_prefix
from finetune_api.run_config import DatasetJobConfig
from finetune_api.storage import Location
from finetune_operator.manifests.identity import identity
from finetune_operator.manifests.job_pod import JobPod
from finetune_operator.manifests.one_pod import one_pod
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.storage_mounts import dataset_mounts
from finetune_operator.observed import Manifest, Policy


def data_job(of: Owner, dataset: Dataset, location: Location, policy: Policy) -> list[Manifest]:
    """Return ConfigMap and Job of the attempt."""
    name, metadata = dataset_job(of.name, of.attempt), dataset.metadata
    config = DatasetJobConfig(
        identity=identity(of),
        spec=dataset.spec,
        location=location,
        prefix=storage_prefix(DATASET, metadata.namespace, metadata.name, metadata.uid),
        allowed_addresses=list(policy.addresses_allowed),
    )
    pod = JobPod(
        verb=config.verb,
        config_map=name,
        compute=dataset.spec.compute,
        scheduling=dataset.spec.scheduling,
        mounts=dataset_mounts(dataset.spec, location),
        scratch_size=dataset.spec.storage.scratch_size,
        overrides=dataset.spec.pod_overrides,
    )
    spec = dataset.spec
    return one_pod(of, pod, config, spec.network_policy, policy, queue=spec.scheduling)
