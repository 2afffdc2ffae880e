"""Volume claims over the bucket: a folder of the s3fs mount as a `local` PersistentVolume.

Pod Security `restricted` refuses host paths but not claims, and a claim's files are objects of
the bucket at the same time: both views of a checkpoint can be checked.
"""

from pathlib import Path
from typing import Any

from harness.kubectl import apply, fetch, kubectl, wait_until
from harness.locations import MOUNT, NODE_NAME

_LABEL = "finetune.dev/test-namespace"


def claim(namespace: str, name: str = "finetune-artifacts", size: str = "20Gi") -> Path:
    """Create a bound ReadWriteMany claim and return its folder on the host.

    Its objects have the key prefix `volumes/<namespace>/<name>/` in the bucket.
    """
    folder = MOUNT / "volumes" / namespace / name
    folder.mkdir(parents=True, exist_ok=True)
    apply([_volume(namespace, name, size, folder), _claim(namespace, name, size)])

    def bound() -> bool:
        answer = fetch("persistentvolumeclaim", name, namespace=namespace)
        return bool(answer.get("status", {}).get("phase") == "Bound")

    wait_until(f"claim {namespace}/{name} to be bound", bound, timeout=30)
    return folder


def release_volumes(namespace: str) -> None:
    """Delete the volumes of a namespace that is gone; the files stay until the cluster goes."""
    kubectl("delete", "persistentvolume", f"--selector={_LABEL}={namespace}", "--wait=false")


def volume_name(namespace: str, name: str) -> str:
    """Name of the volume behind a claim."""
    return f"{namespace}-{name}"


def _volume(namespace: str, name: str, size: str, folder: Path) -> dict[str, Any]:
    on_the_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(namespace, name), "labels": {_LABEL: namespace}},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "local": {"path": str(folder)},
            "claimRef": {"namespace": namespace, "name": name},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [on_the_node]}]}
            },
        },
    }


def _claim(namespace: str, name: str, size: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": volume_name(namespace, name),
            "resources": {"requests": {"storage": size}},
        },
    }
