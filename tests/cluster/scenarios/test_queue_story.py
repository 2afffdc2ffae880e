"""A run in a queue on a real API server; the part of Kueue's controller is played here.

It cannot be installed in this cluster. What is played is what the real one was seen to do:
a Workload beside the Job that says why it waits, then `spec.suspend` of the Job, off and on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import kubectl as kube
from scenarios.after_faults import KIND, STEPS, unharmed
from scenarios.stories import (
    Ground,
    condition,
    experiment,
    rank_pods,
    read,
    running_since_checkpoint,
    wait_for,
)

WAITING = "couldn't assign flavors to pod set main: insufficient unused quota for cpu"
WORKLOADS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workloads.kueue.x-k8s.io"},
    "spec": {
        "group": "kueue.x-k8s.io",
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


@pytest.fixture(scope="module")
def queue(sums: Ground) -> Iterator[Ground]:
    """A namespace of a cluster that serves Workloads."""
    kube.apply(WORKLOADS)
    kube.kubectl("wait", "--for=condition=Established", "crd/workloads.kueue.x-k8s.io")
    yield sums
    kube.kubectl("delete", "crd", "workloads.kueue.x-k8s.io")


def _admit(queue: Ground, job: str, *, suspend: bool) -> None:
    patch = json.dumps({"spec": {"suspend": suspend}})
    kube.kubectl("patch", "job", job, "--type=merge", "-p", patch, namespace=queue.namespace)


def _refuse(queue: Ground, job: dict[str, Any]) -> None:
    """Write the Workload that says why the Job waits."""
    waiting = {"type": "QuotaReserved", "status": "False", "reason": "WaitingForQuota"}
    workload = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "Workload",
        "metadata": {
            "name": f"job-{job['metadata']['name']}-1a2b3",
            "labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]},
        },
        "status": {"conditions": [waiting | {"message": WAITING}]},
    }
    kube.apply(workload, namespace=queue.namespace)


def test_a_queued_run_waits_is_admitted_preempted_and_goes_on(
    queue: Ground, undisturbed: str
) -> None:
    queued = {"scheduling": {"queueName": "research"}}
    kube.apply(experiment("queued", steps=STEPS, **queued), namespace=queue.namespace)

    wait_for(
        KIND, "queued", queue.namespace, lambda b: condition(b, "Ready").get("reason") == "Queued"
    )
    job = kube.wait_until("the Job", lambda: _job(queue), timeout=60)
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert rank_pods(queue.namespace, "queued") == []
    _refuse(queue, job)
    told = wait_for(
        KIND, "queued", queue.namespace,
        lambda b: WAITING in condition(b, "QuotaReserved").get("message", ""), timeout=120,
    )  # fmt: skip
    assert condition(told, "QuotaReserved")["reason"] == "WaitingForQuota"

    _admit(queue, "queued-a1", suspend=False)
    running_since_checkpoint(queue.namespace, "queued", queue.files, step=20)
    _admit(queue, "queued-a1", suspend=True)
    wait_for(
        KIND, "queued", queue.namespace,
        lambda b: b["status"]["restarts"]["disruption"] == 1
        and condition(b, "Ready")["reason"] == "Queued",
    )  # fmt: skip
    _admit(queue, "queued-a1", suspend=False)

    unharmed(queue, "queued", undisturbed, disruption=1)


def _job(queue: Ground) -> dict[str, Any] | None:
    if not read(KIND, "queued", queue.namespace)["status"]["children"].get("job"):
        return None
    return kube.fetch("job", "queued-a1", namespace=queue.namespace)
