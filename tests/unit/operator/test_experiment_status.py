"""What people read of a running experiment: progress, checkpoints, result, events."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

import builders
import good_ends
from builders import (
    EXPERIMENT,
    NOW,
    attempt,
    condition,
    ended_pod,
    job,
    message,
    observed,
    pod,
    prepared,
    progress,
    published,
)
from finetune_api.run_outcome import FailureClass
from finetune_operator.planners import plan, stalled
from observed_runs import (
    ALL_RUN,
    CHECKPOINT,
    running,
    seen,
)


def test_progress_of_rank_zero_reaches_the_status() -> None:
    told = progress(
        "Training", percentage=40, step=40, total_steps=100, loss=1.5, eta_seconds=7800.0,
        metrics={"loss": 1.2}, metrics_step=20, save_seconds=4.0,
        checkpoint=CHECKPOINT, best={"metric": "loss", "value": 1.2, "step": 20},
    )  # fmt: skip
    baseline = {"name": "loss", "split": "validation", "value": 3.0, "step": 0}
    stale = {"name": "loss", "split": "validation", "value": 2.0, "step": 10}
    status = prepared(**attempt(), metrics=[baseline, stale])
    decided = plan(seen(status, running(*ALL_RUN, progress=told)))
    assert decided.status["progress"]["eta"] == "2h10m"
    assert decided.status["checkpoints"]["latest"] == CHECKPOINT | {"attempt": 1}
    assert decided.status["checkpoints"]["saveSeconds"] == 4.0
    assert [(m["step"], m["value"]) for m in decided.status["metrics"]] == [(0, 3.0), (20, 1.2)]
    assert condition(decided, "CheckpointAvailable") == ("True", "AsExpected")
    assert decided.pull_progress


def test_an_unchanged_answer_of_rank_zero_changes_no_status_at_a_later_time() -> None:
    told = running(*ALL_RUN, progress=progress("Training", step=4))
    first = seen(prepared(**attempt()), told)
    second = published(first, plan(first))
    later = replace(second, now=NOW + timedelta(minutes=1))
    assert plan(later).status == plan(second).status == plan(first).status


def test_a_run_whose_progress_is_not_known_yet_keeps_its_stage() -> None:
    training = builders.conditions(Ready="False Training")
    decided = plan(seen(prepared(**attempt(), conditions=training), running(*ALL_RUN)))
    assert condition(decided, "Ready") == ("False", "Training")


def test_a_damaged_checkpoint_is_reported_once() -> None:
    told = running(*ALL_RUN, progress=progress("Training", quarantined=1, checkpoint=CHECKPOINT))
    first = seen(prepared(**attempt()), told)
    decided = plan(first)
    assert [event.reason for event in decided.events] == ["Training", "Quarantined"]
    assert condition(decided, "CheckpointAvailable") == ("True", "Quarantined")
    assert plan(published(first, decided)).events == ()


@pytest.mark.parametrize(
    ("peak", "told_again"),
    [
        (None, []),
        (10_000, []),
        (11_400, []),
        (11_600, ["MemoryOffPlan"]),
        (8_000, ["MemoryOffPlan"]),
    ],
    ids="{0} of 10,000 bytes".format,
)
def test_a_peak_far_from_the_memory_plan_is_told_once(peak, told_again) -> None:
    status = prepared(**attempt())
    plan_status = status["plan"] | {"gpus": 1}
    memory = {"memory_peak_bytes": peak, "memory_planned_bytes": 10_000}
    told = running(*ALL_RUN, progress=progress("Training", **memory))
    first = seen(status | {"plan": plan_status}, told)
    decided = plan(first)
    assert [event.reason for event in decided.events] == ["Training", *told_again]
    assert decided.status["progress"].get("peakMemoryBytes") == peak
    assert plan(published(first, decided)).events == ()


def test_the_result_names_checkpoint_and_choice() -> None:
    done = ended_pod(0, FailureClass.COMPLETED, outcome=good_ends.trained())
    other = pod(1, "Succeeded", exit_code=0)
    decided = plan(seen(prepared(**attempt()), running(done, other, complete=True)))
    assert condition(decided, "Ready") == ("True", "Completed")
    assert decided.status["result"]["step"] == 90
    assert decided.status["completionTime"] == "2026-05-04T12:00:00Z"


def test_a_job_that_completes_in_silence_is_tried_again() -> None:
    silent = (pod(0, "Succeeded", exit_code=0), pod(1, "Succeeded", exit_code=0))
    decided = plan(seen(prepared(**attempt()), running(*silent, complete=True)))
    assert condition(decided, "Ready") == ("False", "Restarting")
    assert decided.status["restarts"]["unknown"] == 1


def test_queued_says_what_the_pods_wait_for() -> None:
    stuck = pod(0, "Pending", bound=False, ready=False, waiting=("Unschedulable", "0/3 nodes"))
    decided = plan(seen(prepared(**attempt()), running(stuck)))
    assert message(decided) == "attempt 1: Unschedulable: 0/3 nodes"
    assert condition(decided, "PodsReady") == ("False", "Unschedulable")


def test_the_fence_never_goes_down() -> None:
    decided = plan(replace(seen(prepared(fence=7)), fence=3))
    assert decided.status["fence"] == 7


def test_what_cannot_be_carried_out_stalls_the_run_but_no_result() -> None:
    taken = stalled(seen(prepared(attempt={"number": 1})), "NameTaken", "Service is not ours")
    assert condition(taken, "Stalled") == ("True", "NameTaken")
    done = observed(EXPERIMENT, builders.complete_experiment())
    assert condition(stalled(done, "NameTaken", "x"), "Complete")[0] == "True"


def test_events_tell_of_transitions_only() -> None:
    first = seen(prepared(**attempt()), running(*ALL_RUN, progress=progress("Training")))
    second = published(first, plan(first))
    assert [event.reason for event in plan(first).events] == ["Training"]
    assert plan(second).events == ()
    evaluating = running(*ALL_RUN, progress=progress("Evaluating"))
    assert plan(replace(second, jobs=(evaluating,))).events == ()


def test_only_the_newest_ended_jobs_are_kept() -> None:
    status = prepared(attempt={"number": 4}, children={"job": "assistant-a4"})
    old = [job(EXPERIMENT, n, failed=True) for n in (1, 2, 3)]
    decided = plan(seen(status, *old, job(EXPERIMENT, 4, *ALL_RUN)))
    assert [ref.name for ref in decided.delete] == ["assistant-a1"]
