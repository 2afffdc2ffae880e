"""What a Job or Pod says of itself: trimmed manifests for the cache, facts for decisions.

Everything in a pod's status that its containers can write is untrusted input: an outcome that
does not fit its model is treated as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    CONTAINER,
    FENCE_ANNOTATION,
    JOB_SET,
    JOB_SET_NAME_LABEL,
    JOB_SET_UID_LABEL,
    OWNER_UID_ANNOTATION,
    PLAN_DIGEST_ANNOTATION,
    REVISION_LABEL,
)
from finetune_api.reported_values import read_report
from finetune_api.run_outcome import MAX_BYTES, Outcome
from finetune_api.run_progress import Progress
from finetune_operator.observed import ChildRef, JobFacts, Manifest, PodFacts

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
_ANNOTATIONS = (INDEX_ANNOTATION, OWNER_UID_ANNOTATION, PLAN_DIGEST_ANNOTATION, FENCE_ANNOTATION)
_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_COMPLETE = {JOB_SET: "Completed"}
"""The condition of a good end where it is not that of a Job."""
CREATING = "ContainerCreating"
"""The reason of a container that waits for volumes, its sandbox or its image."""
_PHASES = ("Pending", "Running", "Succeeded", "Failed")
_MESSAGE = 256

Phase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]


def project(manifest: Manifest) -> Manifest:
    """Return the part of a Job or Pod that facts are made from, in the manifest's own shape."""
    metadata = {name: manifest["metadata"][name] for name in _METADATA if name in _meta(manifest)}
    annotations = _meta(manifest).get("annotations") or {}
    metadata["annotations"] = {k: v for k, v in annotations.items() if k in _ANNOTATIONS}
    status = manifest.get("status") or {}
    kept: Manifest = {
        "apiVersion": manifest.get("apiVersion", ""),
        "kind": manifest.get("kind", ""),
        "metadata": metadata,
        "status": {"conditions": [_condition(item) for item in status.get("conditions") or ()]},
    }
    if kept["kind"] in ("Job", JOB_SET):
        kept["spec"] = {"suspend": bool((manifest.get("spec") or {}).get("suspend"))}
    if kept["kind"] == "Pod":
        kept["spec"] = {
            "nodeName": (manifest.get("spec") or {}).get("nodeName", ""),
            "containers": _memory_limits(_memory_limit(manifest)),
        }
        kept["status"] |= {
            "phase": status.get("phase", "Unknown"),
            "reason": status.get("reason", ""),
            "podIP": status.get("podIP", ""),
            "containerStatuses": [_container(item) for item in _containers(status)],
        }
    return kept


def pod_facts(manifest: Manifest, *, gone: bool = False) -> PodFacts:
    """Return the facts of a Pod, projected or whole."""
    metadata, status = _meta(manifest), manifest.get("status") or {}
    conditions = _conditions(status)
    terminated = _terminated(status)
    deletion = metadata.get("deletionTimestamp")
    return PodFacts(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        phase=_phase(status),
        index=_number((metadata.get("annotations") or {}).get(INDEX_ANNOTATION)),
        bound=bool((manifest.get("spec") or {}).get("nodeName")),
        ready=_is_true(conditions, "Ready"),
        deleting=deletion is not None,
        deleting_since=_time(deletion),
        deletion_asked=_deletion_asked(metadata),
        gone=gone,
        disrupted=_is_true(conditions, "DisruptionTarget"),
        out_of_memory=terminated.get("reason") == "OOMKilled",
        memory_limit=_memory_limit(manifest),
        exit_code=terminated.get("exitCode"),
        outcome=outcome(terminated.get("message")),
        reason=str(status.get("reason") or ""),
        waiting=_waiting(status, conditions),
        ip=str(status.get("podIP") or ""),
    )


def job_facts(
    manifest: Manifest,
    pods: Iterable[PodFacts] = (),
    *,
    gone: bool = False,
    progress: Progress | None = None,
    message: str = "",
    inner: Manifest | None = None,
) -> JobFacts:
    """Return the facts of a Job, projected or whole, with those of its pods.

    A JobSet is a Job by another name; `inner` is the Job inside, which fails first and says why.
    """
    metadata = _meta(manifest)
    labels = metadata.get("labels") or {}
    conditions = _conditions(manifest.get("status") or {})
    if inner:
        conditions |= _conditions(inner.get("status") or {})
    judged = conditions.get("FailureTarget") or {}
    failure = conditions.get("Failed") or judged
    return JobFacts(
        ref=child_ref(manifest),
        attempt=_number(labels.get(ATTEMPT_LABEL)),
        component="prepare" if labels.get(COMPONENT_LABEL) == "prepare" else "attempt",
        revision=_number(labels.get(REVISION_LABEL)) or 1,
        spec_digest=(metadata.get("annotations") or {}).get(PLAN_DIGEST_ANNOTATION, ""),
        created=_time(metadata.get("creationTimestamp")),
        complete=_is_true(conditions, _COMPLETE.get(manifest.get("kind", ""), "Complete")),
        failed=_is_true(conditions, "Failed") or _is_true(conditions, "FailureTarget"),
        failure_message=str(failure.get("message", "")),
        failed_since=_time(judged.get("lastTransitionTime")),
        suspended=bool((manifest.get("spec") or {}).get("suspend")),
        deleting=metadata.get("deletionTimestamp") is not None,
        gone=gone,
        inner=child_ref(inner) if inner else None,
        pods=tuple(sorted(pods, key=lambda pod: (pod.index, pod.name))),
        progress=progress,
        message=message,
    )


def child_ref(manifest: Manifest) -> ChildRef:
    """Return the reference that a delete of this very object needs."""
    metadata = _meta(manifest)
    return ChildRef(
        api_version=manifest.get("apiVersion", ""),
        kind=manifest.get("kind", ""),
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
    )


def controller(manifest: Manifest) -> Mapping[str, Any]:
    """Return the controlling owner reference, or an empty mapping."""
    owners = _meta(manifest).get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), {})


def job_uid(pod: Manifest) -> str:
    """Return the UID of the Job or JobSet that a pod belongs to."""
    labels = _meta(pod).get("labels") or {}
    return str(labels.get(JOB_SET_UID_LABEL) or controller(pod).get("uid", ""))


def vanished_job(pod: Manifest) -> Manifest:
    """Return what a pod still says of its Job: name, labels, and nothing of how it ended."""
    metadata, holder = _meta(pod), controller(pod)
    labels = metadata.get("labels") or {}
    name = labels.get(JOB_SET_NAME_LABEL)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2" if name else "batch/v1",
        "kind": JOB_SET if name else "Job",
        "metadata": {
            "name": name or holder.get("name", ""),
            "namespace": metadata["namespace"],
            "uid": job_uid(pod),
            "labels": labels,
        },
        "status": {},
    }


def outcome(message: object) -> Outcome | None:
    """Return the outcome in a termination message, or None if it is none."""
    if not isinstance(message, str) or len(message.encode()) > MAX_BYTES:
        return None
    try:
        return read_report(Outcome, message)
    except ValueError:
        return None


def _meta(manifest: Manifest) -> Manifest:
    return cast(Manifest, manifest["metadata"])


def _condition(item: Manifest) -> Manifest:
    names: tuple[str, ...] = ("type", "status", "reason")
    if item.get("type") == "FailureTarget":
        names += ("lastTransitionTime",)
    kept = {name: item[name] for name in names if name in item}
    return kept | {"message": str(item.get("message") or "")[:_MESSAGE]}


def _conditions(status: Manifest) -> dict[str, Manifest]:
    return {item.get("type", ""): item for item in status.get("conditions") or ()}


def _is_true(conditions: Mapping[str, Manifest], name: str) -> bool:
    return conditions.get(name, {}).get("status") == "True"


def _memory_limit(manifest: Manifest) -> str:
    """Return the memory limit of a pod's trainer, or an empty text."""
    for item in (manifest.get("spec") or {}).get("containers") or ():
        if item.get("name") == CONTAINER:
            return str(((item.get("resources") or {}).get("limits") or {}).get("memory", ""))
    return ""


def _memory_limits(limit: str) -> list[Manifest]:
    return [{"name": CONTAINER, "resources": {"limits": {"memory": limit}}}] if limit else []


def _containers(status: Manifest) -> list[Manifest]:
    found = status.get("containerStatuses") or ()
    return [item for item in found if item.get("name") == CONTAINER]


def _container(item: Manifest) -> Manifest:
    state = item.get("state") or {}
    kept: Manifest = {}
    if terminated := state.get("terminated"):
        kept["terminated"] = {
            name: terminated[name]
            for name in ("exitCode", "reason", "message")
            if name in terminated
        }
    if waiting := state.get("waiting"):
        message = str(waiting.get("message") or "")[:_MESSAGE]
        kept["waiting"] = {"reason": waiting.get("reason", ""), "message": message}
    return {"name": CONTAINER, "state": kept}


def _terminated(status: Manifest) -> Manifest:
    for item in _containers(status):
        if terminated := (item.get("state") or {}).get("terminated"):
            return cast(Manifest, terminated)
    return {}


def _waiting(status: Manifest, conditions: Mapping[str, Manifest]) -> tuple[str, str] | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason", "")), str(scheduled.get("message", ""))[:_MESSAGE]
    for item in _containers(status):
        if waiting := (item.get("state") or {}).get("waiting"):
            reason = str(waiting.get("reason", ""))
            if reason == CREATING and _is_true(conditions, "PodReadyToStartContainers"):
                return None  # volumes and network are there: the image is pulled
            return reason, str(waiting.get("message") or "")[:_MESSAGE]
    return None


def _phase(status: Manifest) -> Phase:
    phase = status.get("phase")
    return cast(Phase, phase) if phase in _PHASES else "Unknown"


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdigit() else 0


def _deletion_asked(metadata: Manifest) -> datetime | None:
    """Return when the deletion was asked for: its timestamp is when the time to stop is over."""
    over = _time(metadata.get("deletionTimestamp"))
    return over and over - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)


def _time(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
