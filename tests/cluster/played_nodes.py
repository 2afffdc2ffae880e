"""Nodes and volumes that nobody has: what a scheduler asks for before it binds a pod."""

from __future__ import annotations

from typing import Any

from harness.bare_api import BareApi

Manifest = dict[str, Any]


def node(name: str, **labels: str) -> Manifest:
    """Return a node that is ready and has six cores."""
    room = {"cpu": "6", "memory": "64Gi", "pods": "110"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": room, "capacity": room, "conditions": [ready]},
    }  # fmt: skip


def join(api: BareApi, *nodes: Manifest) -> None:
    """Create nodes, with their statuses and without the taint that every new node gets."""
    for each in nodes:
        for part in ((), ("--subresource=status",)):
            api.apply(each, words=("--force-conflicts", *part))
        name = each["metadata"]["name"]
        api.kubectl("taint", "node", name, "node.kubernetes.io/not-ready:NoSchedule-")


def claim(name: str, namespace: str) -> list[Manifest]:
    """Return a claim and the volume that it is bound to."""
    spec = {
        "accessModes": ["ReadWriteMany"], "storageClassName": "",
        "volumeName": f"{namespace}-{name}",
    }  # fmt: skip
    bound = {"name": name, "namespace": namespace}
    claimed = {"resources": {"requests": {"storage": "1Gi"}}}
    offered = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": "/none"}, "claimRef": bound}
    volume = offered | {"accessModes": spec["accessModes"], "storageClassName": ""}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume",
         "metadata": {"name": spec["volumeName"]}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": bound,
         "spec": spec | claimed},
    ]  # fmt: skip
