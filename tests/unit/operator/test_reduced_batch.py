"""Exhausted GPU memory: fatal, or the same steps in smaller micro-batches."""

from __future__ import annotations

import json
from typing import Any

import pytest

import builders
from builders import EXPERIMENT, attempt, condition, ended_pod, our_object, prepared
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed
from finetune_operator.planners import plan
from observed_runs import running

REDUCE = {"onGpuOutOfMemory": "ReduceBatch"}


def exhausted(policy: dict[str, Any], times: int = 0, **changes: Any) -> Observed:
    """Return an attempt whose GPU memory is exhausted, after `times` halvings."""
    pods = [ended_pod(i, FailureClass.GPU_OUT_OF_MEMORY) for i in range(2)]
    status = prepared(**attempt(), restarts={"gpuOutOfMemory": times})
    status["plan"] = builders.PLAN | {"maxTokensPerDevice": 1024} | changes
    found = our_object(EXPERIMENT, status=status, runPolicy=policy)
    return builders.observed(EXPERIMENT, found, jobs=(running(*pods, failed=True),))


@pytest.mark.parametrize(
    ("policy", "times", "changes"),
    [
        pytest.param({}, 0, {}, id="nothing was allowed"),
        pytest.param(REDUCE, 3, {}, id="the budget is spent"),
        pytest.param(REDUCE | {"retries": {"gpuOutOfMemory": 1}}, 1, {}, id="the given budget is"),
        pytest.param(REDUCE, 0, {"maxTokensPerDevice": 128}, id="the longest sample fills it"),
    ],
)
def test_it_ends_the_run_where_no_smaller_batch_may_follow(
    policy: dict[str, Any], times: int, changes: dict[str, Any]
) -> None:
    answer = plan(exhausted(policy, times, **changes))
    assert condition(answer, "Failed") == ("True", "OutOfGPUMemory")


def test_the_next_attempt_gets_half_the_tokens_and_the_same_steps() -> None:
    answer = plan(exhausted(REDUCE))
    assert condition(answer, "Ready") == ("False", "Restarting")
    assert answer.status["restarts"]["gpuOutOfMemory"] == 1


@pytest.mark.parametrize(("times", "tokens"), [(0, 1024), (1, 512), (2, 256), (9, 128)])
def test_each_halving_is_told_to_the_ranks_down_to_the_longest_sample(
    times: int, tokens: int
) -> None:
    status = prepared(attempt={"number": 2}, restarts={"gpuOutOfMemory": times})
    status["plan"] = builders.PLAN | {"maxTokensPerDevice": 1024}
    found = our_object(EXPERIMENT, status=status, runPolicy=REDUCE)
    answer = plan(builders.observed(EXPERIMENT, found))
    told = json.loads(builders.child(answer, "ConfigMap")["data"]["config.json"])["plan"]
    assert told["maxTokensPerDevice"] == tokens
    assert told["globalBatchSize"] == builders.PLAN["globalBatchSize"]
