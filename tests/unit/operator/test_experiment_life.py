"""What ends an experiment, what starts it again, and what each attempt is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

import builders
import good_ends
from builders import (
    EXPERIMENT,
    NOW,
    attempt,
    condition,
    ended_pod,
    ended_status,
    job,
    message,
    observed,
    our_object,
    pod,
    prepared,
    published,
)
from finetune_api.names import CONFIG_KEY
from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import FailureClass
from finetune_operator.planners import plan
from observed_runs import (
    ALL_RUN,
    CHECKPOINT,
    STOPPING,
    SUSPEND,
    preparing,
    running,
    seen,
)


def test_a_final_failure_needs_no_children_and_stays() -> None:
    failed = seen(
        prepared(**attempt()), running(*[ended_pod(0, FailureClass.NOT_FINITE)], failed=True)
    )
    decided = plan(failed)
    assert condition(decided, "Failed") == ("True", "NonFiniteLoss")
    later = replace(published(failed, decided), jobs=())
    assert (plan(later).status, plan(later).apply) == (decided.status, ())


def test_leftovers_of_a_final_run_are_stopped_without_a_write() -> None:
    complete = observed(EXPERIMENT, builders.complete_experiment(), jobs=(running(*ALL_RUN),))
    decided = plan(complete)
    assert [ref.name for ref in decided.delete] == ["assistant-a1"]
    assert decided.status == plan(replace(complete, jobs=())).status


def test_a_new_generation_of_a_final_object_is_only_acknowledged() -> None:
    complete = builders.with_metadata(builders.complete_experiment(), generation=5)
    decided = plan(observed(EXPERIMENT, complete))
    assert decided.status["observedGeneration"] == 5
    assert {c["observedGeneration"] for c in decided.status["conditions"]} == {5}
    assert condition(decided, "Complete")[0] == "True"


def test_a_deleted_object_is_left_alone() -> None:
    going = builders.with_metadata(our_object(EXPERIMENT), deletion_timestamp=NOW)
    decided = plan(observed(EXPERIMENT, going, jobs=(running(*ALL_RUN),)))
    assert (decided.apply, decided.delete, decided.status.get("conditions")) == ((), (), [])


@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_failures_without_a_new_checkpoint_are_spaced_out(failures: int) -> None:
    history = [
        {"number": number, "outcome": "UnknownError", "class": "Unknown"}
        for number in range(failures, 0, -1)
    ]
    due = plan(seen(ended_status("Unknown", failures, history=history))).requeue_seconds
    assert due == {1: None, 2: 10.0, 3: 20.0, 4: 40.0}[failures]


def test_a_newer_checkpoint_ends_the_spacing() -> None:
    history = [{"number": n, "outcome": "UnknownError", "class": "Unknown"} for n in (3, 2, 1)]
    saved = {"latest": CHECKPOINT | {"attempt": 2}}
    status = ended_status("Unknown", 3, history=history, checkpoints=saved)
    assert condition(plan(seen(status)), "Ready") == ("False", "Queued")


def test_an_edit_before_the_first_attempt_is_prepared_again() -> None:
    edited = {"training": {"epochs": 3.0}}
    first = seen(prepared(), **edited)
    decided = plan(first)
    assert decided.status["preparation"]["ended"] == "Replaced"
    assert "plan" not in decided.status
    second = published(first, decided)
    assert plan(second).status["preparation"]["attempt"] == 2
    third = published(second, plan(second))
    assert [child["metadata"]["name"] for child in plan(third).apply] == ["assistant-p1-2"] * 3


def test_an_edit_takes_back_a_failed_preparation() -> None:
    status = preparing(ended="Access") | {
        "conditions": builders.conditions(Failed="True ModelNotFound", Ready="False ModelNotFound")
    }
    assert plan(seen(status)).status["preparation"]["ended"] == "Access"
    decided = plan(seen(status, training={"epochs": 3.0}))
    assert condition(decided, "Failed")[0] == "False"
    assert condition(decided, "Ready") == ("False", "Preparing")


def test_a_preparation_that_runs_is_stopped_before_its_successor_starts() -> None:
    live = job(EXPERIMENT, 1, pod(), component="prepare")
    first = seen(preparing(), live, training={"epochs": 3.0})
    second = published(first, plan(first))
    assert [ref.name for ref in plan(second).delete] == ["assistant-p1"]
    assert plan(second).apply == ()


def test_an_attempt_runs_what_was_resolved_and_knows_its_checkpoints() -> None:
    status = prepared(attempt={"number": 2}, checkpoints={"latest": CHECKPOINT | {"attempt": 1}})
    answer = plan(seen(status))
    config_map, child = builders.child(answer, "ConfigMap"), builders.child(answer, "Job")
    config = TrainingConfig.model_validate_json(config_map["data"][CONFIG_KEY])
    assert (config.ranks, config.grain, config.plan.total_steps) == (2, 2, 100)
    assert config.identity.run == "uid-experiment/2"
    assert [known.step for known in config.known_checkpoints] == [40]
    assert child["spec"]["completions"] == 2


def test_the_grace_period_covers_three_times_the_slowest_save() -> None:
    status = prepared(attempt={"number": 2}, checkpoints={"saveSeconds": 50.0})
    pod_spec = builders.child(plan(seen(status)), "Job")["spec"]["template"]["spec"]
    assert pod_spec["terminationGracePeriodSeconds"] == 150


def test_a_new_attempt_says_where_it_goes_on() -> None:
    status = ended_status("Disruption", checkpoints={"latest": CHECKPOINT | {"attempt": 1}})
    assert message(plan(seen(status))) == "attempt 2 is created; it goes on from step 40"


def test_a_stopped_attempt_leaves_its_last_step_and_costs_nothing() -> None:
    told = builders.outcome(FailureClass.CHECKPOINTED, step=41)
    last = ended_pod(0, FailureClass.CHECKPOINTED, outcome=told, deleting=True, gone=True)
    status = prepared(**attempt(), **STOPPING)
    decided = plan(seen(status, running(last, gone=True), **SUSPEND))
    (record,) = decided.status["history"]
    assert (record["outcome"], record["lastStep"], record["class"]) == ("Suspended", 41, "")
    assert set(decided.status["restarts"].values()) == {0}


def test_an_attempt_that_was_never_seen_to_start_still_has_a_start() -> None:
    done = ended_pod(0, FailureClass.COMPLETED, outcome=good_ends.trained())
    decided = plan(seen(prepared(**attempt()), running(done, complete=True)))
    assert decided.status["attempt"]["startedTime"] == "2026-05-04T12:00:00Z"
    assert decided.status["history"][0]["startTime"] == "2026-05-04T12:00:00Z"
