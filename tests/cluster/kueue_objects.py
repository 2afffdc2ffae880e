"""Where a real Kueue lies, and its objects: one queue that counts pods, in any namespace."""

from __future__ import annotations

import os
from typing import Any

Manifest = dict[str, Any]

KUEUE = os.environ.get("FINETUNE_TEST_KUEUE", "")
NEEDED = (
    "FINETUNE_TEST_KUEUE names no folder of a Kueue; "
    "`python3 -m harness controllers` in tests/cluster builds one"
)

QUEUE = "research"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_PLENTY = 1000
_VERSION = "kueue.x-k8s.io/v1beta2"


def flavor() -> Manifest:
    """Return what every quota is counted in."""
    return {"apiVersion": _VERSION, "kind": "ResourceFlavor", "metadata": {"name": "default"}}


def topology(name: str, label: str) -> list[Manifest]:
    """Return a Topology with one level, and a flavor of nodes that stand in it."""
    levels = {"levels": [{"nodeLabel": label}]}
    nodes = {"nodeLabels": {"pool": name}, "topologyName": name}
    kinds = {"Topology": levels, "ResourceFlavor": nodes}
    return [
        {"apiVersion": _VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        for kind, spec in kinds.items()
    ]


def cluster_queue(
    name: str = QUEUE, *, pods: int = _PLENTY, stop: str = "None", flavor: str = "default"
) -> Manifest:
    """Return a ClusterQueue; what is more urgent takes the quota of what is less."""
    quotas = {"cpu": _PLENTY, "memory": f"{_PLENTY}Gi", "nvidia.com/gpu": _PLENTY, "pods": pods}
    resources = [{"name": each, "nominalQuota": quota} for each, quota in quotas.items()]
    group = {
        "coveredResources": list(quotas),
        "flavors": [{"name": flavor, "resources": resources}],
    }
    spec = {
        "namespaceSelector": {},
        "stopPolicy": stop,
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [group],
    }
    return {
        "apiVersion": _VERSION, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec,
    }  # fmt: skip


def local_queue(cluster_queue: str = QUEUE, *, name: str = QUEUE) -> Manifest:
    """Return the queue of one namespace."""
    return {
        "apiVersion": _VERSION, "kind": "LocalQueue", "metadata": {"name": name},
        "spec": {"clusterQueue": cluster_queue},
    }  # fmt: skip


def priority_class(name: str, value: int) -> Manifest:
    """Return a WorkloadPriorityClass."""
    return {
        "apiVersion": _VERSION, "kind": "WorkloadPriorityClass", "metadata": {"name": name},
        "value": value, "description": name,
    }  # fmt: skip


def queued_job(name: str, queue: str, pods: int, priority: str = "") -> Manifest:
    """Return somebody else's Job in a queue; no node ever runs its pods."""
    labels = {QUEUE_LABEL: queue}
    labels |= {"kueue.x-k8s.io/priority-class": priority} if priority else {}
    container = {
        "name": "main", "image": "none", "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
    }  # fmt: skip
    pod = {"restartPolicy": "Never", "containers": [container], "nodeSelector": {"none": "none"}}
    spec = {
        "parallelism": pods, "completions": pods, "suspend": True, "template": {"spec": pod},
    }  # fmt: skip
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }  # fmt: skip
