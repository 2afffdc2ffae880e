"""What all job pods share: one restricted container without API token, scratch, configuration."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.compute_settings import Compute, Resources, Scheduling
from finetune_api.meta import ConfigMapRef
from finetune_api.names import (
    CLAIMS_DIR,
    CLAIMS_DIR_ENV,
    CONFIG_DIR,
    CONFIG_ENV,
    CONFIG_KEY,
    CONTAINER,
    METRICS_PORT,
    METRICS_PORT_NAME,
    PORT_ENV,
    SCRATCH_DIR,
    SCRATCH_DIR_ENV,
    SECRETS_DIR,
    SECRETS_DIR_ENV,
    TEMPLATE_DIR,
    TEMPLATE_ENV,
    TEMPLATE_KEY,
    TERMINATION_LOG,
    TERMINATION_LOG_ENV,
)
from finetune_api.pod_overrides import PodOverrides
from finetune_operator.manifests.pod_template import RESTRICTED
from finetune_operator.manifests.quantities import memory_quantity, quantity_bytes
from finetune_operator.manifests.storage_mounts import Mounts
from finetune_operator.observed import Manifest, Policy

DEFAULT_SCRATCH = "20Gi"
GRACE_SECONDS = 30
_TEMPLATE_MOUNT = {"name": "template", "mountPath": TEMPLATE_DIR, "readOnly": True}
_UID = 65532
"""The user `nonroot` of the usual minimal images; any other works as well."""


@dataclass(frozen=True)
class JobPod:
    """What one kind of job pod needs beyond what all have."""

    verb: str
    config_map: str
    compute: Compute
    scheduling: Scheduling
    mounts: Mounts
    scratch_size: str | None = None
    grace_seconds: int = GRACE_SECONDS
    template: ConfigMapRef | None = None
    """template is a chat template of the user's own."""
    overrides: PodOverrides | None = None


def job_pod(pod: JobPod, policy: Policy) -> Manifest:
    """Return the pod's spec."""
    spec: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pod.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pod, policy)],
        "volumes": [
            {"name": "config", "configMap": {"name": pod.config_map}},
            {"name": "scratch", "emptyDir": {"sizeLimit": pod.scratch_size or DEFAULT_SCRATCH}},
            *pod.mounts.volumes(),
            *_template_volumes(pod.template),
        ],
    }
    return spec | _placement(pod.compute, pod.scheduling)


def resources(wanted: Resources | None, *, extra_memory: int = 0) -> Manifest:
    """Return requests and limits; `extra_memory` in bytes is added to the memory limit.

    A memory limit that is absent equals the memory request: a pod that takes more than it asked
    for would otherwise put other people's pods at risk.
    """
    requests = dict((wanted.requests if wanted else None) or {})
    limits = dict((wanted.limits if wanted else None) or {})
    if memory := limits.get("memory") or requests.get("memory"):
        limits["memory"] = memory_quantity(quantity_bytes(memory) + extra_memory)
    found = {"requests": requests, "limits": limits}
    return {name: amounts for name, amounts in found.items() if amounts}


def _container(pod: JobPod, policy: Policy) -> Manifest:
    compute = pod.compute
    container: Manifest = {
        "name": CONTAINER,
        "image": compute.image or policy.image,
        "imagePullPolicy": str(compute.image_pull_policy or policy.image_pull_policy),
        "command": ["python", "-m", "finetune_trainer", pod.verb],
        "env": [*_environment(pod.template), *_extra_environment(compute)],
        "ports": [{"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT}],
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "securityContext": RESTRICTED | {"readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "scratch", "mountPath": SCRATCH_DIR},
            *pod.mounts.volume_mounts(),
            *([_TEMPLATE_MOUNT] if pod.template else []),
        ],
    }
    asked_for = resources(compute.resources)
    return container | ({"resources": asked_for} if asked_for else {})


def _template_volumes(template: ConfigMapRef | None) -> list[Manifest]:
    if template is None:
        return []
    items = [{"key": template.key, "path": TEMPLATE_KEY}]
    return [{"name": "template", "configMap": {"name": template.name, "items": items}}]


def _environment(template: ConfigMapRef | None) -> list[Manifest]:
    values = {
        CONFIG_ENV: f"{CONFIG_DIR}/{CONFIG_KEY}",
        CLAIMS_DIR_ENV: CLAIMS_DIR,
        SECRETS_DIR_ENV: SECRETS_DIR,
        SCRATCH_DIR_ENV: SCRATCH_DIR,
        TERMINATION_LOG_ENV: TERMINATION_LOG,
        PORT_ENV: str(METRICS_PORT),
        "HOME": f"{SCRATCH_DIR}/home",
        "TMPDIR": f"{SCRATCH_DIR}/tmp",  # noqa: S108 - the pod's own scratch volume
        "HF_HOME": f"{SCRATCH_DIR}/hf",
    }
    if template:
        values[TEMPLATE_ENV] = f"{TEMPLATE_DIR}/{TEMPLATE_KEY}"
    return [{"name": name, "value": value} for name, value in values.items()]


def _extra_environment(compute: Compute) -> list[Manifest]:
    return [{"name": variable.name, "value": variable.value} for variable in compute.env or ()]


def _placement(compute: Compute, scheduling: Scheduling) -> Manifest:
    """Return what the spec says of identity and place; what it does not say is left out."""
    placement = {
        "imagePullSecrets": [{"name": name} for name in compute.image_pull_secrets or ()],
        "serviceAccountName": compute.service_account_name,
        "runtimeClassName": compute.runtime_class_name,
        "nodeSelector": compute.node_selector,
        "tolerations": [
            toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
            for toleration in compute.tolerations or ()
        ],
        "priorityClassName": scheduling.priority_class_name,
        "schedulerName": scheduling.scheduler_name,
    }
    return {name: value for name, value in placement.items() if value}
