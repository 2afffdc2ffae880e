"""Pods that the cluster refuses: the wait names the reason, and ends by itself once repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness import kubectl as kube
from harness.container_runtime import ctr, has_image
from harness.images import TRAINER_IMAGE
from scenarios.stories import (
    RESOURCES,
    Ground,
    Manifest,
    condition,
    dataset,
    wait_for,
    wait_for_condition,
)

ABSENT_IMAGE = "localhost/finetune-trainer:absent"
POLICY = "no-pods-of-one-dataset"
OBJECTION = "this cluster wants no such pods"
LABELS = {"finetune.dev/dataset": "against-policy"}
_ADMISSION = "admissionregistration.k8s.io/v1"
_NAMED = {"name": POLICY}


@dataclass(frozen=True)
class Refusal:
    """Why the pod of a Dataset does not come, what is said of it, and what repairs it."""

    reason: str
    words: str
    repair: Callable[[str], object]
    compute: dict[str, Any] = field(default_factory=lambda: {"resources": RESOURCES})


def _removed(kind: str, name: str) -> Callable[[str], object]:
    return lambda place: kube.kubectl("delete", kind, name, namespace=place)


REFUSALS = {
    "no-account": Refusal(
        "PodForbidden",
        'serviceaccount "absent" not found',
        lambda place: kube.kubectl("create", "serviceaccount", "absent", namespace=place),
        {"resources": RESOURCES, "serviceAccountName": "absent"},
    ),
    "no-image": Refusal(
        "ImagePullFailed",
        ABSENT_IMAGE,
        lambda _: ctr("images", "tag", TRAINER_IMAGE, ABSENT_IMAGE),
        {"resources": RESOURCES, "image": ABSENT_IMAGE, "imagePullPolicy": "Never"},
    ),
    # The quota counts pods without any request, and so this one alone.
    "no-quota": Refusal("QuotaExceeded", "exceeded quota", _removed("resourcequota", "none"), {}),
    "against-policy": Refusal(
        "PodForbidden", OBJECTION, _removed("validatingadmissionpolicybinding", POLICY)
    ),
}


def _obstacles() -> list[Manifest]:
    """Return a quota and a policy that each refuse the pod of one Dataset."""
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    matches = {
        "resourceRules": [pods | {"resources": ["pods"]}],
        "objectSelector": {"matchLabels": LABELS},
    }
    policy = {
        "matchConstraints": matches,
        "validations": [{"expression": "false", "message": OBJECTION}],
    }
    binding = {"policyName": POLICY, "validationActions": ["Deny"]}
    kind = "ValidatingAdmissionPolicy"
    return [
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "none"},
            "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]},
        },
        {"apiVersion": _ADMISSION, "kind": kind, "metadata": _NAMED, "spec": policy},
        {"apiVersion": _ADMISSION, "kind": f"{kind}Binding", "metadata": _NAMED, "spec": binding},
    ]


def _policy_acts() -> bool:
    """Tell whether the API server refuses such a pod by now: it learns of policies a bit later."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial", "labels": LABELS},
        "spec": {"containers": [{"name": "trial", "image": "trial"}]},
    }
    try:
        kube.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    except kube.KubectlError as error:
        return OBJECTION in error.stderr
    return False


@pytest.fixture
def refusing(sums: Ground) -> Iterator[Ground]:
    """A cluster that refuses the pods of all these Datasets."""
    kube.apply(_obstacles(), namespace=sums.namespace)
    kube.wait_until("the policy to act", _policy_acts)
    yield sums
    for kind, name in (
        ("resourcequota", "none"),
        ("validatingadmissionpolicybinding", POLICY),
        ("validatingadmissionpolicy", POLICY),
    ):
        kube.kubectl("delete", kind, name, "--ignore-not-found", namespace=sums.namespace)
    if has_image(ABSENT_IMAGE):
        ctr("images", "rm", ABSENT_IMAGE)


def test_refused_pods_are_explained_and_come_once_the_cluster_is_repaired(refusing: Ground) -> None:
    place = refusing.namespace
    for name, refusal in REFUSALS.items():
        kube.apply(dataset(name, compute=refusal.compute), namespace=place)
    for name, refusal in REFUSALS.items():

        def explained(body: Manifest, refusal: Refusal = refusal) -> bool:
            said = condition(body, "PodsReady")
            return said.get("reason") == refusal.reason and refusal.words in said["message"]

        body = wait_for("dataset", name, place, explained)
        ready = condition(body, "Ready")
        assert ready["reason"] in ("Queued", "Starting", "Preparing"), ready
        assert refusal.words in ready["message"]
        assert condition(body, "Failed")["status"] == "False"

    for refusal in REFUSALS.values():
        refusal.repair(place)

    for name in REFUSALS:
        body = wait_for_condition("dataset", name, place, "Ready")
        assert set(body["status"]["restarts"].values()) <= {0}, body["status"]["restarts"]
