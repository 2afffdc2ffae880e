"""What takes too long is stopped with grace, recorded, and tried again only where that helps."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import builders
from builders import (
    EXPERIMENT,
    NOW,
    attempt,
    complete_experiment,
    condition,
    ended_pod,
    message,
    our_object,
    prepared,
    progress,
    published,
)
from finetune_api.run_outcome import CheckpointRef, FailureClass
from finetune_operator.observed import Observed, Plan
from finetune_operator.planners import plan
from observed_runs import ALL_RUN, PENDING, running


def ago(seconds: float) -> str:
    """Return a recorded time."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def observed(
    policy: dict[str, Any], *jobs: Any, reason: str = "Starting", **recorded: Any
) -> Observed:
    """Return an attempt under way with a run policy and recorded times."""
    status = prepared(**attempt(1, **recorded))
    status["conditions"] = builders.conditions(Ready=f"False {reason}")
    found = our_object(EXPERIMENT, status=status, runPolicy=policy)
    return builders.observed(EXPERIMENT, found, jobs=jobs)


def queued(seconds: float, **policy: int) -> Observed:
    """Return an attempt that has waited for a node."""
    return observed(policy, running(*PENDING), reason="Queued", createdTime=ago(seconds))


def starting(seconds: float, told: Any = None, **policy: int) -> Observed:
    """Return an attempt whose pods have been on nodes for a time."""
    job = running(*ALL_RUN, progress=told)
    return observed(policy, job, createdTime=ago(9999), startedTime=ago(seconds))


def training(seconds: float, **policy: int) -> Observed:
    """Return an attempt that has trained for a time."""
    job = running(*ALL_RUN, progress=progress("Training"))
    return observed(policy, job, reason="Training", createdTime=ago(9999), startedTime=ago(seconds))


PASSED = [
    pytest.param(queued(61, queueDeadlineSeconds=60), "QueueDeadlineExceeded", id="queue"),
    pytest.param(starting(61, startDeadlineSeconds=60), "StartTimeout", id="start"),
    pytest.param(training(61, activeDeadlineSeconds=60), "DeadlineExceeded", id="active"),
]


@pytest.mark.parametrize(("seen", "reason"), PASSED)
def test_a_passed_deadline_is_recorded_before_anything_is_deleted(
    seen: Observed, reason: str
) -> None:
    first = plan(seen)
    assert first.status["attempt"]["stopping"] == reason
    assert first.delete == ()
    second = plan(published(seen, first))
    assert [ref.name for ref in second.delete] == ["assistant-a1"]
    assert second.status["attempt"].get("ended") is None


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(queued(59, queueDeadlineSeconds=60), id="queue"),
        pytest.param(queued(9999), id="no limit of waiting"),
        pytest.param(starting(59, startDeadlineSeconds=60), id="start"),
        pytest.param(starting(9999, startDeadlineSeconds=0), id="no limit of starting"),
        pytest.param(
            starting(
                61, progress("Starting", ranks_joined=2, ranks_expected=2), startDeadlineSeconds=60
            ),
            id="all have joined",
        ),
        pytest.param(training(9999), id="no limit of running"),
        pytest.param(training(9999, startDeadlineSeconds=60), id="training is no start"),
    ],
)
def test_what_is_in_time_goes_on(seen: Observed) -> None:
    assert "stopping" not in plan(seen).status["attempt"]


def test_the_next_look_is_when_the_deadline_passes() -> None:
    assert plan(training(40, activeDeadlineSeconds=60)).requeue_seconds == 20


def test_running_time_of_earlier_attempts_counts_and_waiting_does_not() -> None:
    seen = training(20, activeDeadlineSeconds=60)
    status = seen.object.status.model_copy(update={"active_seconds": 40})
    later = replace(seen, object=seen.object.model_copy(update={"status": status}))
    assert plan(later).status["attempt"]["stopping"] == "DeadlineExceeded"


def stopped(reason: str, *pods: Any) -> Plan:
    """Return the answer once the pods of a stopped attempt have ended."""
    job = running(*pods, failed=True)
    return plan(observed({}, job, createdTime=ago(99), startedTime=ago(90), stopping=reason))


def checkpointed() -> list[Any]:
    """Return two pods that left a checkpoint when they were stopped."""
    saved = CheckpointRef(step=7, uri="pvc://a/step-7", digest=builders.digest("7"))
    told = builders.outcome(FailureClass.CHECKPOINTED, checkpoint=saved, step=7)
    return [ended_pod(i, FailureClass.CHECKPOINTED, outcome=told) for i in range(2)]


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "QueueDeadlineExceeded"])
def test_a_run_that_took_too_long_has_failed_and_keeps_its_checkpoint(reason: str) -> None:
    found = stopped(reason, *checkpointed())
    assert condition(found, "Failed") == ("True", reason)
    assert found.status["attempt"]["ended"] == "Deadline"
    assert found.status["checkpoints"]["latest"]["step"] == 7
    assert found.status["activeSeconds"] == 90


def test_a_start_that_took_too_long_is_tried_again_after_a_minute_then_two() -> None:
    found = stopped("StartTimeout", *checkpointed())
    assert found.status["restarts"]["startTimeout"] == 1
    assert condition(found, "Ready") == ("False", "Restarting")
    ended = {"ended": "StartTimeout", "endedTime": ago(0), "createdTime": ago(99)}
    for count, seconds in ((1, 60), (2, 120), (9, 1800)):
        status = prepared(**attempt(1, **ended), restarts={"startTimeout": count})
        seen = builders.observed(EXPERIMENT, our_object(EXPERIMENT, status=status))
        assert plan(seen).requeue_seconds == seconds


def finished(age: float, **policy: int) -> Observed:
    """Return a complete experiment whose Job is still there."""
    found = complete_experiment(completionTime=ago(age))
    spec = found.spec.model_copy(update={"run_policy": type(found.spec.run_policy)(**policy)})
    job = builders.job(EXPERIMENT, 1, ended_pod(0, FailureClass.COMPLETED), complete=True)
    return builders.observed(EXPERIMENT, found.model_copy(update={"spec": spec}), jobs=(job,))


def test_jobs_of_a_success_are_deleted_after_their_time_and_the_status_stays() -> None:
    early = plan(finished(50, ttl_seconds_after_finished=60))
    assert (early.delete, early.requeue_seconds) == ((), 10)
    late = finished(60, ttl_seconds_after_finished=60)
    assert [ref.name for ref in plan(late).delete] == ["assistant-a1"]
    assert message(plan(late)) == message(early)


def test_jobs_of_a_failure_are_kept_for_as_long_as_failures_are() -> None:
    seen = finished(60, ttl_seconds_after_finished=10, retain_on_failure_seconds=100)
    failed = builders.conditions(Ready="False UnknownError", Failed="True UnknownError")
    status = complete_experiment(completionTime=ago(60), conditions=failed).status
    kept = replace(seen, object=seen.object.model_copy(update={"status": status}))
    assert (plan(kept).delete, plan(kept).requeue_seconds) == ((), 40)
