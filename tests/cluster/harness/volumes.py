"""Volume claims over the bucket: a folder of the s3fs mount as a `local` PersistentVolume.

Pod Security `restricted` refuses host paths but not claims, and a claim's files are objects of
the bucket at the same time: both views of a checkpoint can be checked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.commands import output
from harness.kubectl import apply, fetch, kubectl, wait_until
from harness.locations import MOUNT, NODE_NAME, STATE

_LABEL = "finetune.dev/test-namespace"


def claim(namespace: str, name: str = "finetune-artifacts", size: str = "20Gi") -> Path:
    """Create a bound ReadWriteMany claim and return its folder on the host.

    Its objects have the key prefix `volumes/<namespace>/<name>/` in the bucket.
    """
    folder = MOUNT / "volumes" / namespace / name
    folder.mkdir(parents=True, exist_ok=True)
    _bind(namespace, name, size, folder)
    return folder


@contextmanager
def small_claim(namespace: str, name: str, mebibytes: int) -> Iterator[Path]:
    """Lend a claim over a file system that is full after so many MiB; yield its folder."""
    folder = STATE / "small-volumes" / namespace / name
    folder.mkdir(parents=True)
    output("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0777", "tmpfs", folder)
    try:
        _bind(namespace, name, f"{mebibytes}Mi", folder)
        yield folder
    finally:
        output("umount", "--lazy", folder)


def resize(folder: Path, mebibytes: int) -> None:
    """Give the file system of a small claim another size, whoever uses it meanwhile."""
    output("mount", "-o", f"remount,size={mebibytes}m", folder)


def _bind(namespace: str, name: str, size: str, folder: Path) -> None:
    apply([_volume(namespace, name, size, folder), _claim(namespace, name, size)])

    def bound() -> bool:
        answer = fetch("persistentvolumeclaim", name, namespace=namespace)
        return bool(answer.get("status", {}).get("phase") == "Bound")

    wait_until(f"claim {namespace}/{name} to be bound", bound, timeout=60)


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
