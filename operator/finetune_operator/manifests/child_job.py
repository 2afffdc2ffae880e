"""The Job around job pods: runs once, replaces no pod, fails as a whole."""

from __future__ import annotations

from finetune_api.compute_settings import Scheduling
from finetune_api.names import (
    CONTAINER,
    OWNER_UID_ANNOTATION,
    QUEUE_LABEL,
    QUEUE_PRIORITY_LABEL,
)
from finetune_api.run_outcome import EXIT_CODES, FailureClass
from finetune_operator.manifests.owned import Owner, owned
from finetune_operator.observed import Manifest

_FATAL = (
    FailureClass.CONFIGURATION,
    FailureClass.DATA,
    FailureClass.ACCESS,
    FailureClass.GPU_OUT_OF_MEMORY,
    FailureClass.RESOURCES_EXHAUSTED,
    FailureClass.NOT_FINITE,
    FailureClass.EXTERNAL_SERVICE,
)
"""Classes that name a cause.

Neither 40 nor 75 belongs here: a Job that its queue suspends would fail for good if a pod that
ends then shows a listed code.
"""


def child_job(
    of: Owner, name: str, pod_spec: Manifest, *, pods: int = 1, queue: Scheduling | None = None
) -> Manifest:
    """Return an Indexed Job that starts `pods` pods once; the next try is another Job.

    In a queue it is created suspended; from then on its queue alone decides, see
    https://kueue.sigs.k8s.io/docs/tasks/run/jobs/.
    """
    spec = {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": {
            "metadata": {
                "labels": of.labels(),
                "annotations": {OWNER_UID_ANNOTATION: of.object.metadata.uid},
            },
            "spec": pod_spec,
        },
    }
    job = owned(of, api_version="batch/v1", kind="Job", name=name) | {"spec": spec}
    if queue and queue.queue_name:
        spec["suspend"] = True
        job["metadata"]["labels"] |= _queue_labels(queue)
    return job


def _queue_labels(queue: Scheduling) -> Manifest:
    labels = {QUEUE_LABEL: queue.queue_name, QUEUE_PRIORITY_LABEL: queue.queue_priority_class_name}
    return {name: value for name, value in labels.items() if value}


def _failure_rules() -> list[Manifest]:
    disruption = {"type": "DisruptionTarget", "status": "True"}
    exit_codes = {
        "containerName": CONTAINER,
        "operator": "In",
        "values": sorted(EXIT_CODES[failure] for failure in _FATAL),
    }
    return [
        {"action": "FailJob", "onPodConditions": [disruption]},
        {"action": "FailJob", "onExitCodes": exit_codes},
    ]
