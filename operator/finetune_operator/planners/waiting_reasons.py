"""What keeps a pod from running, in the words of our conditions."""

from __future__ import annotations

_REASONS = {
    "Unschedulable": "Unschedulable",
    "SchedulerError": "Unschedulable",
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "CreateContainerConfigError": "SecretNotFound",
    "FailedMount": "VolumeNotMounted",
    "FailedAttachVolume": "VolumeNotMounted",
    "FailedCreate": "PodForbidden",
}
"""Reasons of containers, scheduling and events."""
_TOLD_BY_WORDS = (
    ("FailedCreate", "exceeded quota", "QuotaExceeded"),
    ("FailedMount", 'secret "', "SecretNotFound"),
    ("FailedMount", "secret key", "SecretNotFound"),
    ("FailedMount", 'configmap "', "SecretNotFound"),
    ("Unschedulable", "persistentvolumeclaim", "VolumeNotMounted"),
)
"""Kubernetes gives one reason to what has two remedies; only its sentence tells them apart."""


def waiting_reason(reason: str, message: str) -> str:
    """Return the reason of PodsReady that a reason and sentence of Kubernetes stand for."""
    words = message.lower()
    for given, part, meant in _TOLD_BY_WORDS:
        if reason == given and part in words:
            return meant
    return _REASONS.get(reason, "Pending")
