"""The children of work that one pod does: NetworkPolicy, ConfigMap and Job."""

from __future__ import annotations

from finetune_api.compute_settings import Scheduling
from finetune_api.network_policy import NetworkPolicy
from finetune_api.run_config import RunConfig
from finetune_operator.manifests.attempt_network import attempt_network
from finetune_operator.manifests.child_job import child_job
from finetune_operator.manifests.job_pod import JobPod, job_pod
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.pod_template import pod_template
from finetune_operator.manifests.run_config_map import run_config_map
from finetune_operator.observed import Manifest, Policy


def one_pod(
    of: Owner,
    pod: JobPod,
    config: RunConfig,
    network: NetworkPolicy,
    policy: Policy,
    *,
    queue: Scheduling | None = None,
) -> list[Manifest]:
    """Return the children under the name of the pod's ConfigMap; the Job comes last."""
    name, template = pod.config_map, pod_template(of, job_pod(pod, policy), pod.overrides)
    return [
        *attempt_network(of, name, network, policy),
        run_config_map(of, name, config),
        child_job(of, name, template, queue=queue),
    ]
