"""Who decides for a queue in a story: the part of Kueue played here, or a real Kueue.

The real one runs where FINETUNE_TEST_KUEUE names its folder, see harness/controller_build.py.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from harness import kubectl as kube
from harness.controller import KUEUE_SETTINGS, controller
from harness.locations import KUBECONFIG
from kueue_objects import KUEUE, cluster_queue, flavor, local_queue

_GROUP = "kueue.x-k8s.io"
_WORKLOADS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"workloads.{_GROUP}"},
    "spec": {
        "group": _GROUP,
        "scope": "Namespaced",
        "names": {"kind": "Workload", "plural": "workloads", "singular": "workload"},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


class QueueController(Protocol):
    """What a story asks of a queue."""

    run: str
    """name of its run: the files of another one would be taken for its own."""
    words: str
    """words of its reason to wait, as the status quotes them."""

    def refuse(self, job: dict[str, Any]) -> None:
        """Say why the Job waits."""
        ...

    def admit(self, job: str) -> None:
        """Give the Job its quota."""
        ...

    def take_back(self, job: str) -> None:
        """Take the quota back."""
        ...


class PlayedQueue:
    """Does what the real one was seen to do: a Workload, then `spec.suspend`, off and on."""

    run = "in-a-played-queue"
    words = "couldn't assign flavors to pod set main: insufficient unused quota for cpu"

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def refuse(self, job: dict[str, Any]) -> None:
        """Write the Workload that says why the Job waits."""
        waiting = {"type": "QuotaReserved", "status": "False", "reason": "WaitingForQuota"}
        workload = {
            "apiVersion": f"{_GROUP}/v1beta1",
            "kind": "Workload",
            "metadata": {
                "name": f"job-{job['metadata']['name']}-1a2b3",
                "labels": {f"{_GROUP}/job-uid": job["metadata"]["uid"]},
            },
            "status": {"conditions": [waiting | {"message": self.words}]},
        }
        kube.apply(workload, namespace=self._namespace)

    def admit(self, job: str) -> None:
        """Start the Job."""
        self._suspend(job, False)

    def take_back(self, job: str) -> None:
        """Stop the Job."""
        self._suspend(job, True)

    def _suspend(self, job: str, suspend: bool) -> None:
        patch = json.dumps({"spec": {"suspend": suspend}})
        kube.kubectl("patch", "job", job, "--type=merge", "-p", patch, namespace=self._namespace)


class RealQueue:
    """Changes the quota of a ClusterQueue and leaves the rest to Kueue."""

    run = "in-a-real-queue"
    words = "insufficient quota for pods in flavor"

    def refuse(self, _job: dict[str, Any]) -> None:
        """The queue begins without quota for a pod."""

    def admit(self, _job: str) -> None:
        """Give the queue quota, and let it go on if it was held."""
        kube.apply(cluster_queue(stop="None"))

    def take_back(self, _job: str) -> None:
        """Evict what runs and hold the queue."""
        kube.apply(cluster_queue(stop="HoldAndDrain"))


@contextmanager
def played(namespace: str) -> Iterator[QueueController]:
    """Serve Workloads and play their controller."""
    kube.apply(_WORKLOADS)
    try:
        kube.kubectl("wait", "--for=condition=Established", f"crd/workloads.{_GROUP}")
        yield PlayedQueue(namespace)
    finally:
        kube.kubectl("delete", "crd", f"workloads.{_GROUP}")


@contextmanager
def real(namespace: str) -> Iterator[QueueController]:
    """Run Kueue with one queue that has no quota for a pod yet."""
    with (
        tempfile.TemporaryDirectory(prefix="kueue-") as folder,
        controller(Path(KUEUE), KUEUE_SETTINGS, KUBECONFIG, Path(folder, "kueue")),
    ):
        kube.apply([flavor(), cluster_queue(pods=0)])
        kube.apply(local_queue(), namespace=namespace)
        yield RealQueue()
