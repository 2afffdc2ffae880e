"""GPU time is counted, told and limited: a budget stops a run with a checkpoint, and not twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import builders
from builders import EXPERIMENT, NOW, condition, message, our_object, prepared, published
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed, Policy
from finetune_operator.planners import plan
from observed_runs import ALL_RUN, PENDING, running

GPUS = {"compute": {"nodes": 2, "gpusPerNode": 4, "strategy": "DDP"}}
"""Eight GPUs: 450 seconds of them are one GPU-hour."""
PRICES = Policy(image="trainer:test", gpu_hour_prices={"H100": 3.0, "*": 2.0}, currency="USD")


def ago(seconds: float) -> str:
    """Return a recorded time."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def run(
    seconds: float,
    *jobs: Any,
    budget: dict[str, Any] | None = None,
    compute: dict[str, Any] | None = None,
    **status: Any,
) -> Observed:
    """Return an attempt on eight GPUs that has been on its nodes for a time."""
    recorded = prepared(**builders.attempt(1, startedTime=ago(seconds), gpus=8))
    recorded["conditions"] = builders.conditions(Ready="False Training")
    policy = {"runPolicy": {"budget": budget}} if budget else {}
    gpus = {"compute": GPUS["compute"] | (compute or {})}
    found = our_object(EXPERIMENT, status=recorded | status, **gpus, **policy)
    return builders.observed(EXPERIMENT, found, jobs=jobs or (running(*ALL_RUN),))


def with_budget(seen: Observed, **budget: Any) -> Observed:
    """Return the observation after an edit of the budget."""
    policy = seen.object.spec.run_policy
    changed = policy.model_validate(
        policy.model_dump(by_alias=True, exclude_none=True) | {"budget": budget}
    )
    spec = seen.object.spec.model_copy(update={"run_policy": changed})
    return replace(seen, object=seen.object.model_copy(update={"spec": spec}))


def test_gpu_time_is_time_on_nodes_times_gpus_of_all_attempts() -> None:
    seen = run(450, cost={"gpuSeconds": 900, "endedGpuSeconds": 900})
    cost = plan(seen).status["cost"]
    assert (cost["gpuSeconds"], cost["endedGpuSeconds"]) == (4500, 900)


def test_waiting_for_nodes_costs_nothing() -> None:
    status = prepared(**builders.attempt(1, gpus=8, createdTime=ago(9999)))
    found = our_object(EXPERIMENT, status=status, **GPUS)
    waiting = builders.observed(EXPERIMENT, found, jobs=(running(*PENDING),))
    assert "cost" not in plan(waiting).status


def test_an_attempt_that_never_got_a_node_has_not_run() -> None:
    """Its Job is as old as its wait."""
    policy = {"runPolicy": {"suspend": True}}
    status = prepared(**builders.attempt(1, gpus=8, createdTime=ago(9999)))
    status["conditions"] = builders.conditions(
        Ready="False Queued", Suspended="Unknown SuspendRequested"
    )
    job = running(*PENDING, gone=True, created=NOW - timedelta(seconds=9999))
    gone = replace(job, pods=tuple(replace(pod, gone=True) for pod in job.pods))
    found = our_object(EXPERIMENT, status=status, **GPUS, **policy)
    ended = plan(builders.observed(EXPERIMENT, found, jobs=(gone,)))
    assert condition(ended, "Suspended") == ("True", "SuspendRequested")
    assert ended.status["activeSeconds"] == 0
    assert ended.status["cost"]["gpuSeconds"] == 0


def test_an_end_nobody_saw_the_start_of_is_counted_from_its_job() -> None:
    pods = [builders.ended_pod(i, FailureClass.PEER_LOST) for i in range(2)]
    job = running(*pods, failed=True, created=NOW - timedelta(seconds=450))
    status = prepared(**builders.attempt(1, gpus=8))
    ended = plan(
        builders.observed(EXPERIMENT, our_object(EXPERIMENT, status=status, **GPUS), jobs=(job,))
    )
    assert ended.status["activeSeconds"] == 450
    cost = ended.status["cost"]
    assert (cost["gpuSeconds"], cost["endedGpuSeconds"]) == (3600, 3600)


@pytest.mark.parametrize(
    ("compute", "budget", "amount", "currency"),
    [
        pytest.param({}, None, 2.0, "USD", id="any product"),
        pytest.param({"gpuProducts": ["H100", "A100"]}, None, 3.0, "USD", id="the dearest"),
        pytest.param(
            {"nodeSelector": {"nvidia.com/gpu.product": "H100"}}, None, 3.0, "USD", id="selected"
        ),
        pytest.param({}, {"gpuHours": 9, "gpuHourPrice": 5}, 5.0, None, id="own price"),
        pytest.param(
            {}, {"gpuHours": 9, "gpuHourPrice": 5, "currency": "EUR"}, 5.0, "EUR", id="own currency"
        ),
    ],
)
def test_a_price_is_the_runs_own_or_the_administrators(
    compute: dict[str, Any], budget: dict[str, Any] | None, amount: float, currency: str | None
) -> None:
    seen = replace(run(450, budget=budget, compute=compute), policy=PRICES)
    cost = plan(seen).status["cost"]
    assert (cost["amount"], cost.get("currency")) == (amount, currency)


def test_money_without_a_price_is_refused_before_anything_is_prepared() -> None:
    found = our_object(EXPERIMENT, **GPUS, runPolicy={"budget": {"cost": 5}})
    refused = plan(builders.observed(EXPERIMENT, found))
    assert condition(refused, "Ready") == ("False", "InvalidSpec")
    assert "no price is known for a GPU-hour of nvidia.com/gpu" in message(refused)
    priced = plan(builders.observed(EXPERIMENT, found, policy=PRICES))
    assert condition(priced, "Ready") == ("False", "Preparing")


def test_the_next_look_is_when_the_budget_is_spent() -> None:
    assert plan(run(400, budget={"gpuHours": 1})).requeue_seconds == 50
    assert plan(replace(run(400, budget={"cost": 2}), policy=PRICES)).requeue_seconds == 50


@pytest.mark.parametrize(
    ("seconds", "known", "told"),
    [(359, 0, False), (360, 0, True), (361, 2880, False), (449, 2000, True)],
)
def test_most_of_a_budget_is_told_once(seconds: float, known: int, told: bool) -> None:
    seen = run(seconds, budget={"gpuHours": 1}, cost={"gpuSeconds": known})
    notices = [event.reason for event in plan(seen).events]
    assert ("BudgetNotice" in notices) is told


def stopped(seen: Observed) -> Observed:
    """Return what is observed once the stop was recorded and its pods have ended."""
    recorded = plan(seen)
    assert recorded.delete == ()
    later = published(seen, recorded)
    assert [ref.name for ref in plan(later).delete] == ["assistant-a1"]
    pods = [
        builders.ended_pod(i, FailureClass.CHECKPOINTED, gone=True, deleting=True) for i in range(2)
    ]
    return replace(later, jobs=(running(*pods, gone=True),))


def test_a_spent_budget_suspends_and_costs_no_retry() -> None:
    seen = run(450, budget={"gpuHours": 1})
    assert condition(plan(seen), "Suspended") == ("Unknown", "BudgetExhausted")
    assert [event.reason for event in plan(seen).events] == ["BudgetExhausted"]
    ended = plan(stopped(seen))
    assert condition(ended, "Suspended") == ("True", "BudgetExhausted")
    assert condition(ended, "Ready") == ("False", "Suspended")
    assert "1.00 of 1 GPU-hours" in message(ended)
    assert ended.status["cost"]["endedGpuSeconds"] == 3600
    assert set(ended.status["restarts"].values()) == {0}
    rests = published(stopped(seen), ended)
    assert (plan(rests).apply, plan(rests).requeue_seconds) == ((), None)


def test_a_raised_budget_goes_on_by_itself() -> None:
    seen = run(450, budget={"gpuHours": 1})
    rests = published(stopped(seen), plan(stopped(seen)))
    raised = plan(with_budget(replace(rests, jobs=()), gpuHours=2))
    assert raised.status["attempt"]["number"] == 2
    assert condition(raised, "Suspended")[0] == "False"


def test_a_stop_that_was_recorded_is_carried_out_though_the_budget_was_raised() -> None:
    seen = run(450, budget={"gpuHours": 1})
    raised = with_budget(published(seen, plan(seen)), gpuHours=2)
    assert [ref.name for ref in plan(raised).delete] == ["assistant-a1"]
    ended = plan(with_budget(stopped(seen), gpuHours=2))
    assert condition(ended, "Ready") == ("False", "Queued")


def test_a_wish_to_suspend_is_told_before_a_spent_budget() -> None:
    seen = run(450, budget={"gpuHours": 1})
    ended = plan(stopped(seen))
    policy = seen.object.spec.run_policy.model_copy(update={"suspend": True})
    found = published(seen, ended).object
    both = found.model_copy(update={"spec": found.spec.model_copy(update={"run_policy": policy})})
    answer = plan(builders.observed(EXPERIMENT, both))
    assert condition(answer, "Suspended") == ("True", "SuspendRequested")


def test_a_spent_budget_fails_where_that_is_wanted() -> None:
    seen = run(450, budget={"gpuHours": 1, "onExhausted": "Fail"})
    assert plan(seen).status["attempt"]["stopping"] == "BudgetExhausted"
    ended = plan(stopped(seen))
    assert condition(ended, "Failed") == ("True", "BudgetExhausted")
    assert ended.status["history"][0]["class"] == "Budget"


def test_no_attempt_follows_one_that_ended_with_the_budget() -> None:
    status = builders.ended_status("PeerLost", cost={"gpuSeconds": 3600, "endedGpuSeconds": 3600})
    fails = our_object(
        EXPERIMENT, status=status, **GPUS,
        runPolicy={"budget": {"gpuHours": 1, "onExhausted": "Fail"}},
    )  # fmt: skip
    final = plan(builders.observed(EXPERIMENT, fails))
    assert condition(final, "Failed") == ("True", "BudgetExhausted")
    assert final.status["completionTime"]
    rests = our_object(EXPERIMENT, status=status, **GPUS, runPolicy={"budget": {"gpuHours": 1}})
    answer = plan(builders.observed(EXPERIMENT, rests))
    assert condition(answer, "Suspended") == ("True", "BudgetExhausted")


def test_a_new_revision_begins_with_its_whole_budget() -> None:
    seen = run(450, budget={"gpuHours": 1})
    rests = published(stopped(seen), plan(stopped(seen)))
    spec = rests.object.spec.model_copy(update={"rerun": "again"})
    anew = replace(rests, object=rests.object.model_copy(update={"spec": spec}), jobs=())
    begun = plan(anew)
    assert begun.status["revision"] == 2
    assert "cost" not in begun.status
