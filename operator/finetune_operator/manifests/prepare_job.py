"""The children of an experiment's preparation: a ConfigMap and a Job with one pod, no GPU."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.finetune_experiment import FineTuneExperiment
from finetune_api.names import EXPERIMENT, preparation_job, storage_prefix
from finetune_api.run_config import PreparationConfig, SnapshotRef
from finetune_api.storage import Location
from finetune_operator.manifests.identity import drawn_seed, identity
from finetune_operator.manifests.job_pod import JobPod
from finetune_operator.manifests.one_pod import one_pod
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.storage_mounts import Mounts, model_mounts, read, written
from finetune_operator.observed import Manifest, Policy


@dataclass(frozen=True)
class Snapshots:
    """The data of a run; without own Datasets for them, splits of the first serve as both."""

    dataset: SnapshotRef
    validation: SnapshotRef | None = None
    test: SnapshotRef | None = None

    def mounts(self) -> Mounts:
        """Return what reading them needs."""
        mounts = Mounts()
        for snapshot in (self.dataset, self.validation, self.test):
            mounts |= read(snapshot.location) if snapshot else Mounts()
        return mounts


def prepare_job(
    of: Owner,
    experiment: FineTuneExperiment,
    snapshots: Snapshots,
    location: Location,
    policy: Policy,
) -> list[Manifest]:
    """Return ConfigMap and Job that pin the data, tokenise it and resolve automatic values."""
    spec, metadata = experiment.spec, experiment.metadata
    name = preparation_job(of.name, of.revision, of.attempt)
    seed = spec.training.seed
    config = PreparationConfig(
        identity=identity(of),
        spec=spec,
        dataset=snapshots.dataset,
        validation=snapshots.validation,
        test=snapshots.test,
        start=experiment.status.start,
        location=location,
        prefix=storage_prefix(EXPERIMENT, metadata.namespace, metadata.name, metadata.uid),
        seed=drawn_seed(metadata.uid, of.revision) if seed is None else seed,
        models_allowed=list(policy.models_allowed),
    )
    pod = JobPod(
        verb=config.verb,
        config_map=name,
        compute=spec.compute,
        scheduling=spec.scheduling,
        mounts=model_mounts(spec, config.start) | snapshots.mounts() | written(location),
        scratch_size=spec.storage.scratch_size,
        overrides=spec.pod_overrides,
        template=spec.prompt.template_ref,
    )
    return one_pod(of, pod, config, spec.network_policy, policy)
