"""The Job around job pods: runs once, replaces no pod, fails as a whole."""

from __future__ import annotations

from finetune_api.compute_settings import Scheduling
from finetune_api.names import CONTAINER, QUEUE_LABEL, QUEUE_PRIORITY_LABEL
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
    of: Owner, name: str, template: Manifest, *, pods: int = 1, queue: Scheduling | None = None
) -> Manifest:
    """Return an Indexed Job that starts `pods` pods once; the next try is another Job."""
    job = owned(of, api_version="batch/v1", kind="Job", name=name)
    return queued(job | {"spec": job_spec(template, pods)}, queue)


def job_spec(template: Manifest, pods: int) -> Manifest:
    """Return the spec of a Job that replaces no pod and fails as a whole."""
    return {
        "completionMode": "Indexed",
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": template,
    }


def queued(child: Manifest, queue: Scheduling | None) -> Manifest:
    """Return the child as its queue wants it: created suspended, with the labels of the queue.

    From then on its queue alone decides, see https://kueue.sigs.k8s.io/docs/tasks/run/jobs/.
    """
    if queue is None or queue.local_queue is None:
        return child
    labels = {QUEUE_LABEL: queue.local_queue, QUEUE_PRIORITY_LABEL: queue.queue_priority_class_name}
    given = {name: value for name, value in labels.items() if value}
    metadata = child["metadata"]
    return child | {
        "metadata": metadata | {"labels": metadata["labels"] | given},
        "spec": child["spec"] | {"suspend": True},
    }


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
