"""A Job in a queue: created suspended, started and stopped by the queue, never by us."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import builders
from builders import (
    EXPERIMENT,
    NOW,
    attempt,
    condition,
    message,
    our_object,
    pod,
    prepared,
    published,
)
from finetune_operator.child_facts import job_facts, project
from finetune_operator.cluster.answers import quota_message
from finetune_operator.observed import Observed
from finetune_operator.planners import plan
from observed_runs import ALL_RUN, running

QUEUE = {"scheduling": {"queueName": "research", "queuePriorityClassName": "high"}}
LONG_AGO = (NOW - timedelta(seconds=50)).strftime("%Y-%m-%dT%H:%M:%SZ")


def seen(status: dict[str, Any], *jobs: Any, **spec: Any) -> Observed:
    """Return an experiment in a queue."""
    found = our_object(EXPERIMENT, status=status, **QUEUE, **spec)
    return builders.observed(EXPERIMENT, found, jobs=jobs)


def started(**status: Any) -> dict[str, Any]:
    """Return the status of an attempt that ran."""
    found = prepared(**attempt(1, startedTime=LONG_AGO), **status)
    return found | {"conditions": builders.conditions(Ready="False Training")}


def test_the_job_is_created_suspended_with_the_labels_of_its_queue() -> None:
    job = plan(seen(prepared(attempt={"number": 1}))).apply[-1]
    assert job["spec"]["suspend"] is True
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "research"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    pods = job["spec"]["template"]["metadata"]["labels"]
    assert not any("kueue" in name for name in pods)


def test_a_preparation_does_not_queue() -> None:
    first = builders.observed(EXPERIMENT, our_object(EXPERIMENT, **QUEUE))
    job = plan(published(first, plan(first))).apply[-1]
    assert "suspend" not in job["spec"]
    assert condition(plan(first), "QuotaReserved") == ("True", "AsExpected")


def test_without_a_queue_nothing_says_suspend() -> None:
    found = builders.observed(
        EXPERIMENT, our_object(EXPERIMENT, status=prepared(attempt={"number": 1}))
    )
    assert "suspend" not in plan(found).apply[-1]["spec"]


def test_waiting_says_the_queues_own_words() -> None:
    told = "couldn't assign flavors: insufficient unused quota for cpu, 300m more needed"
    job = running(suspended=True, message=told)
    answer = plan(seen(prepared(attempt={"number": 1}), job))
    assert condition(answer, "Ready") == ("False", "Queued")
    assert condition(answer, "QuotaReserved") == ("False", "WaitingForQuota")
    assert told in message(answer)


def test_an_admitted_job_has_its_quota() -> None:
    answer = plan(seen(prepared(**attempt()), running(*ALL_RUN)))
    assert condition(answer, "QuotaReserved") == ("True", "AsExpected")


def test_quota_taken_back_costs_one_disruption_and_no_attempt() -> None:
    leaving = [pod(i, deleting=True, deleting_since=NOW) for i in range(2)]
    job = running(*leaving, suspended=True)
    first = plan(seen(started(), job))
    assert first.status["restarts"]["disruption"] == 1
    assert first.status["attempt"]["number"] == 1
    assert "startedTime" not in first.status["attempt"]
    assert "ended" not in first.status["attempt"]
    assert first.status["activeSeconds"] == 50
    assert (first.delete, first.apply) == ((), ())
    again = plan(replace(published(seen(started(), job), first), jobs=(job,)))
    assert again.status["restarts"]["disruption"] == 1
    assert condition(again, "Ready") == ("False", "Queued")


def test_the_same_attempt_starts_again_when_quota_is_back() -> None:
    old = [pod(i, "Failed", gone=True, name=f"old-{i}", ready=False) for i in range(2)]
    status = prepared(**attempt(1, createdTime=LONG_AGO)) | {"activeSeconds": 50}
    waiting = plan(seen(status, running(*old, pod(0, "Pending", bound=False))))
    assert "startedTime" not in waiting.status["attempt"]
    back = plan(seen(status, running(*old, *ALL_RUN)))
    assert back.status["attempt"]["number"] == 1
    assert back.status["attempt"]["startedTime"]


def test_time_before_quota_was_taken_back_is_counted_once() -> None:
    old = [pod(i, "Failed", gone=True, name=f"old-{i}", ready=False) for i in range(2)]
    status = prepared(**attempt(1, createdTime=LONG_AGO)) | {"activeSeconds": 50}
    status["conditions"] = builders.conditions(
        Ready="False Queued", Suspended="Unknown SuspendRequested"
    )
    job = running(*old, suspended=True, gone=True, created=NOW - timedelta(seconds=900))
    ended = plan(seen(status, job, runPolicy={"suspend": True}))
    assert condition(ended, "Suspended")[0] == "True"
    assert ended.status["activeSeconds"] == 50


def test_a_queue_that_takes_back_more_often_than_the_cap_ends_the_run() -> None:
    spent = started(restarts={"disruption": 3})
    job = running(*ALL_RUN, suspended=True)
    answer = plan(seen(spent, job, runPolicy={"retries": {"disruption": 3}}))
    assert condition(answer, "Failed") == ("True", "Disrupted")


def test_a_job_that_its_owner_never_queued_is_not_taken_for_preempted() -> None:
    found = our_object(EXPERIMENT, status=started())
    job = running(*ALL_RUN, suspended=True)
    answer = plan(builders.observed(EXPERIMENT, found, jobs=(job,)))
    assert answer.status["restarts"]["disruption"] == 0


def test_a_job_that_somebody_else_suspended_does_not_wait_for_a_quota() -> None:
    found = our_object(EXPERIMENT, status=prepared(**attempt()))
    answer = plan(builders.observed(EXPERIMENT, found, jobs=(running(suspended=True),)))
    assert "not by this operator" in message(answer)
    assert "quota" not in message(answer)
    assert condition(answer, "QuotaReserved") == ("True", "AsExpected")


def test_suspension_of_a_job_survives_its_projection() -> None:
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "a", "namespace": "n", "uid": "u"},
        "spec": {"suspend": True, "template": {"large": "x" * 1000}},
    }
    projected = project(manifest)
    assert job_facts(projected).suspended
    assert "template" not in projected["spec"]


def test_the_words_of_a_workload_are_those_of_its_missing_quota() -> None:
    waiting = {"type": "QuotaReserved", "status": "False", "message": "300m more needed"}
    assert quota_message([{"status": {"conditions": [waiting]}}]) == "300m more needed"
    assert quota_message([{"status": {"conditions": [waiting | {"status": "True"}]}}]) == ""
    assert quota_message([]) == ""
