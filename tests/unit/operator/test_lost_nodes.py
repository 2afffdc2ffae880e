"""A node that is lost: its pods never end, so their Job does not either; the operator goes on."""

from __future__ import annotations

from datetime import timedelta

import pytest

import builders
from builders import EXPERIMENT, NOW, ended_pod, pod, prepared, published
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import PodFacts
from finetune_operator.planners import plan
from observed_runs import running, seen

PATIENCE = builders.observed(EXPERIMENT).policy.node_lost_seconds
BEGUN = prepared(**builders.attempt(1, startedTime="2026-05-04T11:00:00Z"))
BEGUN["conditions"] = builders.conditions(Ready="False Training")


def lost(index: int, overdue: float = 0.0) -> PodFacts:
    """Return a pod whose time to stop was over so long before it counts as lost, or after."""
    since = NOW - timedelta(seconds=PATIENCE + overdue)
    return pod(index, deleting=True, deleting_since=since, disrupted=True)


@pytest.mark.parametrize(
    ("pods", "ends"),
    [
        pytest.param((lost(0), lost(1)), True, id="all ranks"),
        pytest.param((lost(0),), True, id="the only rank"),
        pytest.param((lost(0, -1), lost(1)), False, id="one of them might still come back"),
        pytest.param((lost(0), pod(1)), False, id="a rank elsewhere runs: it will say so itself"),
        pytest.param((ended_pod(0, FailureClass.COMPLETED), lost(1)), True, id="the rest is done"),
    ],
)
def test_an_attempt_ends_with_the_last_pod_that_can_be_waited_for(
    pods: tuple[PodFacts, ...], ends: bool
) -> None:
    status = plan(seen(BEGUN, running(*pods))).status
    assert status["attempt"].get("ended") == ("Disruption" if ends else None)
    assert status["restarts"]["disruption"] == int(ends)


def test_its_job_is_deleted_before_the_next_attempt_is_recorded() -> None:
    now = seen(BEGUN, running(lost(0), lost(1)))
    following = plan(published(now, plan(now)))
    assert [ref.name for ref in following.delete] == [builders.job(EXPERIMENT).ref.name]
    assert following.status["attempt"]["number"] == 1


def test_the_step_is_repeated_when_the_pods_are_overdue() -> None:
    assert plan(seen(BEGUN, running(lost(0, -7), lost(1, -9)))).requeue_seconds == 7


def test_a_job_that_its_queue_has_stopped_waits_for_quota_all_the_same() -> None:
    stopped = running(lost(0), lost(1), suspended=True)
    queue = {"scheduling": {"queueName": "research"}}
    assert plan(seen(BEGUN, stopped, **queue)).status["attempt"].get("ended") is None
