"""The pod of a node's ranks: rendezvous, network, GPUs, shared memory, liveness."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.compute_settings import TrainingCompute
from finetune_api.names import (
    CONTAINER,
    MASTER_PORT,
    METRICS_PORT_NAME,
    SCRATCH_DIR,
    SHARED_MEMORY_DIR,
)
from finetune_api.network_profile import NetworkProfile
from finetune_operator.child_facts import INDEX_ANNOTATION
from finetune_operator.manifests.identity import processes_per_node
from finetune_operator.manifests.job_pod import JobPod, job_pod, resources
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.quantities import quantity_bytes
from finetune_operator.observed import Manifest, Policy

_LEAST_SHARED_MEMORY_GIBIBYTES = 2
_COMMUNICATION = {
    # 3: the process ends, its launcher reports a lost peer; nothing waits for a dead collective.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_FR_DUMP_ON_TIMEOUT": "1",
    "TORCH_FR_DUMP_TEMP_FILE": f"{SCRATCH_DIR}/flight-recorder-",
}
"""Collectives fail as soon as a peer does, and leave the last 2,000 of them behind (NCCL's flight
recorder)."""


@dataclass(frozen=True)
class Rendezvous:
    """How the ranks of an attempt find each other; what makes the pods may name them itself."""

    master: str
    subdomain: str | None = None


def rank_pod(
    of: Owner, pod: JobPod, compute: TrainingCompute, policy: Policy, meet: Rendezvous
) -> Manifest:
    """Return the spec of a pod that runs one node's ranks of the attempt."""
    spec = job_pod(pod, policy)
    if meet.subdomain:
        spec["subdomain"] = meet.subdomain
    profile = network_profile(compute, policy)
    shared = compute.shared_memory or _shared_memory(compute)
    spec["volumes"].append(
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared}}
    )
    container = next(item for item in spec["containers"] if item["name"] == CONTAINER)
    container["volumeMounts"].append({"name": "shared-memory", "mountPath": SHARED_MEMORY_DIR})
    container["env"] += [*_communication(compute, profile), *_rendezvous(of, compute, meet.master)]
    container["livenessProbe"] = _liveness()
    if asked_for := _resources(compute, shared, profile):
        container["resources"] = asked_for
    if profile.capabilities:
        added = {"drop": ["ALL"], "add": list(profile.capabilities)}
        container["securityContext"] = container["securityContext"] | {"capabilities": added}
    return spec


def network_profile(compute: TrainingCompute, policy: Policy) -> NetworkProfile:
    """Return the administrator's profile that is named, or the empty one."""
    if compute.network_profile is None:
        return NetworkProfile()
    return policy.network_profiles[compute.network_profile]


def _communication(compute: TrainingCompute, profile: NetworkProfile) -> list[Manifest]:
    """Return defaults and the profile's variables; those of the spec win over both."""
    given = {variable.name for variable in compute.env or ()}
    values = {**_COMMUNICATION, **profile.environment}
    return [{"name": n, "value": value} for n, value in values.items() if n not in given]


def _shared_memory(compute: TrainingCompute) -> str:
    return f"{max(_LEAST_SHARED_MEMORY_GIBIBYTES, compute.gpus_per_node)}Gi"


def _resources(compute: TrainingCompute, shared: str, profile: NetworkProfile) -> Manifest:
    asked_for = resources(compute.resources, extra_memory=quantity_bytes(shared))
    gpus = {compute.gpu_resource_name: str(compute.gpus_per_node)} if compute.gpus_per_node else {}
    if devices := profile.resources | gpus:
        asked_for["limits"] = asked_for.get("limits", {}) | devices
    return asked_for


def _rendezvous(of: Owner, compute: TrainingCompute, address: str) -> list[Manifest]:
    """Return the variables of torchrun, so that a custom command may be plain `torchrun`."""
    values = {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(MASTER_PORT),
        "PET_NNODES": str(compute.nodes),
        "PET_NPROC_PER_NODE": str(processes_per_node(compute)),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": str(MASTER_PORT),
        "PET_RDZV_ID": f"{of.object.metadata.uid}/{of.attempt}",
    }
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}}
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        {"name": "PET_NODE_RANK", "valueFrom": index},
    ]


def _liveness() -> Manifest:
    """Return a probe that catches a stopped launcher only: hangs of ranks are its watchdog's."""
    return {
        "httpGet": {"path": "/livez", "port": METRICS_PORT_NAME},
        "initialDelaySeconds": 60,
        "periodSeconds": 30,
        "timeoutSeconds": 10,
        "failureThreshold": 10,
    }
