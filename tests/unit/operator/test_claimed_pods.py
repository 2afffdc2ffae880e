"""Whose pods are believed: labels are anybody's, an owner's UID is not."""

from __future__ import annotations

from typing import Any

import pytest

import good_ends
from finetune_api.names import (
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    CONTAINER,
    OWNER_LABELS,
    OWNER_UID_ANNOTATION,
)
from finetune_operator.gathered_children import GatheredChildren
from finetune_operator.object_cache import ObjectCache
from finetune_operator.observed import Key

DATA = Key("Dataset", "lab", "faq")
JOB = {"kind": "Job", "name": "faq-d1", "uid": "vanished-job", "controller": True}


def pod(owner: dict[str, Any] | None, uid: str | None) -> dict[str, Any]:
    told = {"exitCode": 0, "message": good_ends.checked_dataset().encoded().decode()}
    labels = {OWNER_LABELS["Dataset"]: "faq", ATTEMPT_LABEL: "1", COMPONENT_LABEL: "attempt"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "claims", "namespace": "lab", "uid": "pod", "labels": labels,
            "annotations": {OWNER_UID_ANNOTATION: uid} if uid else {},
            "ownerReferences": [owner] if owner else [],
        },
        "status": {
            "phase": "Succeeded",
            "containerStatuses": [{"name": CONTAINER, "state": {"terminated": told}}],
        },
    }  # fmt: skip


def believed(found: dict[str, Any]) -> list[str]:
    cache = ObjectCache()
    cache.store(DATA, {"metadata": {"uid": "u1", "resourceVersion": "1"}})
    cache.store_child(found)
    return [job.ref.name for job in GatheredChildren(DATA, "u1", cache).jobs()]


def test_a_pod_of_a_job_that_vanished_still_tells_its_end() -> None:
    assert believed(pod(JOB, "u1")) == ["faq-d1"]


@pytest.mark.parametrize(
    ("owner", "uid"),
    [
        pytest.param(None, "u1", id="nobody's"),
        pytest.param(None, None, id="labels alone"),
        pytest.param(JOB, None, id="without the UID"),
        pytest.param(JOB, "u2", id="of a deleted object of this name"),
        pytest.param({**JOB, "kind": "ReplicaSet"}, "u1", id="of another kind"),
        pytest.param({**JOB, "name": "other-d1"}, "u1", id="of another name"),
        pytest.param({**JOB, "controller": False}, "u1", id="of an owner that controls nothing"),
    ],
)
def test_a_pod_that_only_claims_to_be_ours_tells_nothing(owner: Any, uid: str | None) -> None:
    assert believed(pod(owner, uid)) == []
