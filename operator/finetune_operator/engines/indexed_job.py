"""The default engine: an Indexed Job, one pod per node, and a headless Service."""

from __future__ import annotations

from finetune_api.names import attempt_job
from finetune_operator.engines.attempt_engine import Attempt
from finetune_operator.manifests.attempt_network import attempt_network
from finetune_operator.manifests.child_job import child_job
from finetune_operator.manifests.job_pod import JobPod
from finetune_operator.manifests.rank_pod import rank_pod
from finetune_operator.manifests.rendezvous_service import rendezvous_service
from finetune_operator.manifests.run_config_map import run_config_map
from finetune_operator.manifests.storage_mounts import model_mounts, written
from finetune_operator.observed import ChildRef, JobFacts, Manifest


class IndexedJobEngine:
    """Runs an attempt as one Job of the batch API."""

    def render(self, attempt: Attempt) -> tuple[Manifest, ...]:
        """Return Service, ConfigMap and Job; the Job comes last, as its pods need the others."""
        of, spec = attempt.owner, attempt.experiment.spec
        name = attempt_job(of.name, of.attempt)
        pod = JobPod(
            verb=attempt.config.verb,
            config_map=name,
            compute=spec.compute,
            scheduling=spec.scheduling,
            mounts=model_mounts(spec, attempt.config.start) | written(attempt.config.location),
            scratch_size=spec.storage.scratch_size,
            grace_seconds=attempt.grace_seconds,
        )
        ranks = rank_pod(of, pod, spec.compute, attempt.policy)
        return (
            rendezvous_service(of),
            *attempt_network(of, name, spec.network_policy, attempt.policy),
            run_config_map(of, name, attempt.config),
            child_job(of, name, ranks, pods=spec.compute.nodes, queue=spec.scheduling),
        )

    def stop(self, job: JobFacts) -> tuple[ChildRef, ...]:
        """Return the Job, unless it is gone or going already."""
        return () if job.gone or job.deleting else (job.ref,)
