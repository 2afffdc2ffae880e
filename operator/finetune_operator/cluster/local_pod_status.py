"""Pods of a local Job and what a kubelet would write into their status: values only."""

from __future__ import annotations

import hashlib
from typing import Any

from finetune_api.names import CONTAINER
from finetune_operator.cluster.local_objects import timestamp
from finetune_operator.observed import Manifest

INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"
NODE = "this-machine"
MAX_MESSAGE_BYTES = 4096


def pod_of(job: Manifest, index: int) -> Manifest:
    """Return the pod of one completion index."""
    metadata, template = job["metadata"], job["spec"]["template"]
    seed = f"{metadata['uid']}/{index}".encode()
    suffix = hashlib.sha256(seed).hexdigest()[:5]
    labels = template.get("metadata", {}).get("labels", {})
    annotations = template.get("metadata", {}).get("annotations", {})
    owner = {
        "apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"],
        "uid": metadata["uid"], "controller": True, "blockOwnerDeletion": False,
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name']}-{index}-{suffix}",
            "namespace": metadata["namespace"],
            "labels": {**labels, JOB_NAME: metadata["name"], INDEX: str(index)},
            "annotations": {**annotations, INDEX: str(index)},
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    }


def owner_uid(pod: Manifest) -> str:
    """Return the UID of the Job that a pod belongs to."""
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def index_of(pod: Manifest) -> int:
    """Return the completion index of a pod."""
    return int(pod["metadata"]["annotations"][INDEX])


def has_ended(pod: Manifest) -> bool:
    """Tell whether no process of the pod runs any more."""
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def unscheduled(message: str) -> Manifest:
    """Return the status of a pod that no node can take."""
    return {
        "phase": "Pending",
        "conditions": [_condition("PodScheduled", "False", "Unschedulable", message)],
    }


def waiting(reason: str, message: str) -> Manifest:
    """Return the status of a pod whose container cannot be made yet."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "conditions": [_condition("PodScheduled", "True")],
        "containerStatuses": [{"name": CONTAINER, "ready": False, "state": state}],
    }


def running() -> Manifest:
    """Return the status of a pod whose process was started."""
    state = {"running": {"startedAt": timestamp()}}
    return {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "startTime": timestamp(),
        "conditions": [_condition("PodScheduled", "True"), _condition("Ready", "True")],
        "containerStatuses": [{"name": CONTAINER, "ready": True, "state": state}],
    }


def ended(exit_code: int, last_word: bytes) -> Manifest:
    """Return the status of a pod whose process ended with this code and termination message."""
    message = last_word[:MAX_MESSAGE_BYTES].decode("utf-8", errors="replace")
    terminated: dict[str, Any] = {
        "exitCode": exit_code,
        "reason": "Completed" if exit_code == 0 else "Error",
        "finishedAt": timestamp(),
    }
    if message:
        terminated["message"] = message
    return {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "conditions": [_condition("PodScheduled", "True"), _condition("Ready", "False")],
        "containerStatuses": [
            {"name": CONTAINER, "ready": False, "state": {"terminated": terminated}}
        ],
    }


def lost() -> Manifest:
    """Return the status of a pod whose process ended together with an earlier `finetune`."""
    message = "the process that ran this pod ended; nothing of it runs any more"
    return {
        "phase": "Failed",
        "reason": "NodeLost",
        "conditions": [
            _condition("PodScheduled", "True"),
            _condition("DisruptionTarget", "True", "NodeLost", message),
        ],
    }


def job_condition(kind: str, reason: str = "", message: str = "") -> Manifest:
    """Return a condition of a Job that holds."""
    return _condition(kind, "True", reason, message)


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> Manifest:
    condition = {"type": kind, "status": status, "lastTransitionTime": timestamp()}
    return condition | ({"reason": reason, "message": message} if reason else {})
