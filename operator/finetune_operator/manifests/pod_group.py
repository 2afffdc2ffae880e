"""The PodGroup of an attempt: Volcano starts all of its pods or none."""

from __future__ import annotations

from finetune_api.compute_settings import Scheduling
from finetune_api.names import POD_GROUP
from finetune_operator.manifests.owned import Owner, owned
from finetune_operator.observed import Manifest

VOLCANO = "volcano"
"""The name of Volcano's scheduler."""
POD_GROUP_VERSION = "scheduling.volcano.sh/v1beta1"
GROUP_ANNOTATION = "scheduling.k8s.io/group-name"
"""Puts a pod into a PodGroup, whatever controls the pod."""


def pod_group(of: Owner, name: str, pods: int, scheduling: Scheduling) -> Manifest:
    """Return the PodGroup of `pods` pods; without a queue it is in Volcano's default one."""
    wanted = {
        "minMember": pods,
        "queue": scheduling.queue_name,
        "priorityClassName": scheduling.priority_class_name,
    }
    manifest = owned(of, api_version=POD_GROUP_VERSION, kind=POD_GROUP, name=name)
    return manifest | {"spec": {field: value for field, value in wanted.items() if value}}
