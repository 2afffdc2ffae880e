"""A run without a sign of life is ended by the operator where its own pod could not do it."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from builders import EXPERIMENT, condition, ended_pod, pod, prepared, progress, published
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed
from finetune_operator.planners import plan
from observed_runs import ALL_RUN, CHECKPOINT, running


def training(
    silent: float | None, *pods: Any, policy: dict[str, Any] | None = None, **told: Any
) -> Observed:
    """Return a run that trains, whose most silent rank was last heard of so long ago."""
    status = prepared(**builders.attempt(1, startedTime="2026-05-04T11:00:00Z"))
    status["conditions"] = builders.conditions(Ready="False Training")
    status["checkpoints"] = {"latest": CHECKPOINT | {"attempt": 1}}
    answer = progress("Training", silent_seconds=silent, step=41, **told)
    job = running(*(pods or ALL_RUN), progress=answer)
    found = builders.our_object(EXPERIMENT, status=status, runPolicy=policy or {})
    return builders.observed(EXPERIMENT, found, jobs=(job,))


def stopping(seen: Observed) -> str | None:
    """Return for what the attempt is being ended."""
    recorded: str | None = plan(seen).status["attempt"].get("stopping")
    return recorded


@pytest.mark.parametrize(
    ("seen", "hangs"),
    [
        pytest.param(training(1201), True, id="twice the limit"),
        pytest.param(training(1200), False, id="the watchdog in the pod comes first"),
        pytest.param(training(1999, median_step_seconds=100.0), False, id="its steps are long"),
        pytest.param(training(2001, median_step_seconds=100.0), True, id="twenty long steps"),
        pytest.param(training(101, policy={"hangTimeoutSeconds": 50}), True, id="own limit"),
        pytest.param(training(1e9, policy={"hangTimeoutSeconds": 0}), False, id="no limit"),
        pytest.param(training(None), False, id="no rank has ever beaten"),
        pytest.param(training(1e9, pod(0), pod(1, "Pending")), False, id="a pod is not up"),
        pytest.param(training(1e9, pod(0, deleting=True), pod(1)), False, id="a pod is going"),
    ],
)
def test_a_run_hangs_when_its_pods_run_and_no_rank_shows_life(seen: Observed, hangs: bool) -> None:
    assert stopping(seen) == ("Hang" if hangs else None)


def test_a_pod_that_does_not_answer_is_left_to_its_liveness_probe() -> None:
    status = prepared(**builders.attempt(1, startedTime="2026-05-04T00:00:00Z"))
    status["conditions"] = builders.conditions(Ready="False Training")
    found = builders.our_object(EXPERIMENT, status=status)
    silent = builders.observed(EXPERIMENT, found, jobs=(running(*ALL_RUN),))
    assert stopping(silent) is None


def test_a_hang_is_recorded_then_stopped_then_tried_again_from_the_newest_checkpoint() -> None:
    seen = training(1300)
    recorded = plan(seen)
    assert recorded.delete == ()
    assert [(e.type, e.reason) for e in recorded.events] == [("Warning", "Hang")]
    stopped = plan(published(seen, recorded))
    assert [ref.name for ref in stopped.delete] == ["assistant-a1"]
    killed = [ended_pod(i, exit_code=137, outcome=None) for i in range(2)]
    status = published(seen, recorded).object
    ended = plan(builders.observed(EXPERIMENT, status, jobs=(running(*killed, gone=True),)))
    assert ended.status["attempt"]["ended"] == "Hang"
    assert ended.status["restarts"] | {"hang": 1} == ended.status["restarts"]
    assert ended.status["restarts"]["unknown"] == 0
    [record] = ended.status["history"]
    assert (record["class"], record["outcome"]) == ("Hang", "Hang")
    assert condition(ended, "Ready") == ("False", "Restarting")
    after = builders.observed(EXPERIMENT, published(seen, ended).object)
    assert plan(after).status["attempt"]["number"] == 2
    assert plan(after).status["checkpoints"]["latest"]["step"] == 40


def test_a_run_that_keeps_hanging_fails_for_good() -> None:
    seen = training(1300, policy={"retries": {"hang": 0}})
    recorded = published(seen, plan(seen)).object
    gone = running(ended_pod(0, FailureClass.PEER_LOST), failed=True)
    answer = plan(builders.observed(EXPERIMENT, recorded, jobs=(gone,)))
    assert condition(answer, "Failed") == ("True", "Hang")
