"""Facts of Jobs and Pods: the same from the whole manifest and from what the cache keeps."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from builders import NOW, outcome
from finetune_api.names import ATTEMPT_LABEL, COMPONENT_LABEL, OWNER_UID_ANNOTATION
from finetune_api.run_outcome import FailureClass
from finetune_operator.child_facts import INDEX_ANNOTATION, job_facts, pod_facts, project
from finetune_operator.observed import Manifest
from good_ends import trained

TRUE = {"status": "True", "message": ""}


def a_pod(**status: Any) -> Manifest:
    """Return a Pod as the API server gives it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "run-a1-1-x",
            "namespace": "lab",
            "uid": "uid-pod",
            "annotations": {INDEX_ANNOTATION: "1", OWNER_UID_ANNOTATION: "uid", "other": "x" * 900},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:spec": "x" * 4000}}],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "trainer", "image": "x" * 200}]},
        "status": {"phase": "Running", "podIP": "10.0.0.9"} | status,
    }


def a_container(name: str = "trainer", **state: Any) -> dict[str, Any]:
    """Return status fields with one container."""
    return {"containerStatuses": [{"name": name, "image": "x" * 200, "state": state}]}


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    """Return status fields of a container that ended."""
    return a_container(terminated={"exitCode": code, "message": message, "reason": reason})


LONGEST = outcome(FailureClass.DATA, message="m" * 1024, remedy="r" * 256).encoded().decode()
PODS = {
    "running": a_pod(conditions=[{"type": "Ready", **TRUE}]),
    "unschedulable": a_pod(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
    ),
    "no image": a_pod(
        phase="Pending", **a_container(waiting={"reason": "ErrImagePull", "message": "x" * 5000})
    ),
    "out of memory": a_pod(phase="Failed", **ended(137, reason="OOMKilled")),
    "evicted": a_pod(
        phase="Failed", reason="Evicted", conditions=[{"type": "DisruptionTarget", **TRUE}]
    ),
    "with an outcome": a_pod(phase="Failed", **ended(11, LONGEST)),
    "with noise for an outcome": a_pod(phase="Failed", **ended(1, "Traceback…")),
    "without status": a_pod() | {"status": None},
}


@pytest.mark.parametrize("name", PODS)
def test_the_cache_keeps_what_facts_need_and_little_more(name: str) -> None:
    kept = project(PODS[name])
    assert pod_facts(kept) == pod_facts(PODS[name])
    assert project(kept) == kept
    assert len(json.dumps(kept)) < 1024 + len(json.dumps(LONGEST))


def test_a_pod_tells_where_it_is_and_how_it_ended() -> None:
    facts = pod_facts(PODS["with an outcome"])
    assert (facts.index, facts.bound, facts.exit_code, facts.phase) == (1, True, 11, "Failed")
    assert facts.outcome is not None
    assert facts.outcome.failure_class is FailureClass.DATA


@pytest.mark.parametrize(
    "message",
    [
        "", "not JSON", "[]", "null", '{"class":"Completed","surprise":1}', '{"class":"Nonsense"}',
        '{"class":"Data","step":-1}', "{" * 4000, trained().encoded().decode() + " " * 5000,
    ],
)  # fmt: skip
def test_what_is_no_outcome_is_treated_as_absent(message: str) -> None:
    assert pod_facts(a_pod(phase="Failed", **ended(1, message))).outcome is None


def test_only_the_trainer_speaks_for_its_pod() -> None:
    status = a_container(name="sidecar", terminated={"exitCode": 3})
    assert pod_facts(a_pod(phase="Failed", **status)).exit_code is None


@pytest.mark.parametrize(
    ("mounted", "waiting"), [("False", ("ContainerCreating", "")), ("True", None)]
)
def test_a_pod_with_its_volumes_waits_for_nothing_but_its_image(
    mounted: str, waiting: tuple[str, str] | None
) -> None:
    conditions = [{"type": "PodReadyToStartContainers", "status": mounted, "message": ""}]
    state = a_container(waiting={"reason": "ContainerCreating"})
    found = a_pod(phase="Pending", conditions=conditions, **state)
    assert pod_facts(project(found)).waiting == waiting


def test_a_pod_killed_for_memory_tells_its_limit() -> None:
    found = PODS["out of memory"]
    limits = {"name": "trainer", "resources": {"limits": {"memory": "784Mi"}}}
    facts = pod_facts(project(found | {"spec": {"containers": [limits]}}))
    assert (facts.out_of_memory, facts.memory_limit) == (True, "784Mi")
    assert pod_facts(project(found)).memory_limit == ""


def test_an_unknown_phase_may_still_run() -> None:
    facts = pod_facts(a_pod(phase="Surprise"))
    assert (facts.phase, facts.may_run) == ("Unknown", True)


def test_a_deletion_time_is_read() -> None:
    going = a_pod()
    going["metadata"]["deletionTimestamp"] = "2026-05-04T12:00:00Z"
    facts = pod_facts(project(going))
    assert (facts.deleting, facts.deleting_since) == (True, NOW)
    assert facts.deletion_asked == NOW
    going["metadata"]["deletionGracePeriodSeconds"] = 30
    assert pod_facts(project(going)).deletion_asked == NOW - timedelta(seconds=30)


def test_a_job_tells_when_it_was_judged_not_when_its_last_pod_ended() -> None:
    judged = {"type": "FailureTarget", "lastTransitionTime": "2026-05-04T12:00:00Z", **TRUE}
    ended = {"type": "Failed", "lastTransitionTime": "2026-05-04T12:00:30Z", **TRUE}
    assert job_facts(project(a_job([judged, ended]))).failed_since == NOW
    assert job_facts(project(a_job([ended]))).failed_since is None


@pytest.mark.parametrize(
    ("conditions", "complete", "failed"),
    [
        ([], False, False),
        ([{"type": "Complete", **TRUE}], True, False),
        ([{"type": "Failed", "status": "True", "message": "backoff"}], False, True),
        ([{"type": "FailureTarget", **TRUE}], False, True),
        ([{"type": "Complete", "status": "False"}], False, False),
    ],
)
def test_a_job_ends_by_its_conditions(
    conditions: list[Manifest], complete: bool, failed: bool
) -> None:
    facts = job_facts(project(a_job(conditions)))
    assert (facts.complete, facts.failed) == (complete, failed)
    assert (facts.attempt, facts.component) == (3, "prepare")


def a_job(conditions: list[Manifest]) -> Manifest:
    """Return a Job as the API server gives it."""
    labels = {ATTEMPT_LABEL: "3", COMPONENT_LABEL: "prepare"}
    metadata = {"name": "run-p3", "namespace": "lab", "uid": "uid-job", "labels": labels}
    status = {"conditions": conditions}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "status": status}
