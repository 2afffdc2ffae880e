"""The Job around job pods: runs once, replaces no pod, fails as a whole."""

from __future__ import annotations

from finetune_api.names import CONTAINER, OWNER_UID_ANNOTATION
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


def child_job(of: Owner, name: str, pod_spec: Manifest, *, pods: int = 1) -> Manifest:
    """Return an Indexed Job that starts `pods` pods once; the next try is another Job."""
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
    return owned(of, api_version="batch/v1", kind="Job", name=name) | {"spec": spec}


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
