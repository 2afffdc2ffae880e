"""The pod of a node's ranks: rendezvous environment, GPUs, shared memory, liveness."""

from __future__ import annotations

from finetune_api.compute_settings import TrainingCompute
from finetune_api.names import (
    CONTAINER,
    MASTER_PORT,
    METRICS_PORT_NAME,
    SHARED_MEMORY_DIR,
    master_address,
)
from finetune_operator.child_facts import INDEX_ANNOTATION
from finetune_operator.manifests.identity import processes_per_node
from finetune_operator.manifests.job_pod import JobPod, job_pod, resources
from finetune_operator.manifests.owned import Owner
from finetune_operator.manifests.quantities import quantity_bytes
from finetune_operator.observed import Manifest, Policy

_LEAST_SHARED_MEMORY_GIBIBYTES = 2


def rank_pod(of: Owner, pod: JobPod, compute: TrainingCompute, policy: Policy) -> Manifest:
    """Return the spec of a pod that runs one node's ranks of the attempt."""
    spec = job_pod(pod, policy)
    spec["subdomain"] = of.name
    shared = compute.shared_memory or _shared_memory(compute)
    spec["volumes"].append(
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared}}
    )
    container = next(item for item in spec["containers"] if item["name"] == CONTAINER)
    container["volumeMounts"].append({"name": "shared-memory", "mountPath": SHARED_MEMORY_DIR})
    container["env"].extend(_rendezvous(of, compute))
    container["livenessProbe"] = _liveness()
    if asked_for := _resources(compute, shared):
        container["resources"] = asked_for
    return spec


def _shared_memory(compute: TrainingCompute) -> str:
    return f"{max(_LEAST_SHARED_MEMORY_GIBIBYTES, compute.gpus_per_node)}Gi"


def _resources(compute: TrainingCompute, shared: str) -> Manifest:
    asked_for = resources(compute.resources, extra_memory=quantity_bytes(shared))
    if compute.gpus_per_node:
        gpus = {compute.gpu_resource_name: str(compute.gpus_per_node)}
        asked_for["limits"] = asked_for.get("limits", {}) | gpus
    return asked_for


def _rendezvous(of: Owner, compute: TrainingCompute) -> list[Manifest]:
    """Return the variables of torchrun, so that a custom command may be plain `torchrun`."""
    address = master_address(of.name, of.attempt)
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
