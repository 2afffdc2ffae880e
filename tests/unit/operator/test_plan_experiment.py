"""One observation of an experiment leads to one answer."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import builders
from builders import (
    DATASET,
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
    progress,
    published,
    ready_dataset,
)
from finetune_api.conditions import CONDITION_TYPES
from finetune_api.names import CONFIG_KEY
from finetune_api.run_config import TrainingConfig
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed, PodFacts, Policy
from finetune_operator.planners import plan, stalled
from finetune_operator.status import is_final

SUSPEND = {"runPolicy": {"suspend": True}}
DATASET_KEY = builders.key(DATASET)
CHECKPOINT = {"step": 40, "uri": "pvc://a/attempt-1.0/step-40", "digest": builders.digest("c")}


def seen(status: dict[str, Any] | None = None, *jobs: Any, **changes: Any) -> Observed:
    """Return what is observed of an experiment; `changes` are spec fields."""
    return observed(EXPERIMENT, our_object(EXPERIMENT, status=status, **changes), jobs=jobs)


def with_dataset(dataset: Any, /, **changes: Any) -> Observed:
    """Return an observation with another Dataset."""
    found = our_object(EXPERIMENT, **changes)
    return observed(EXPERIMENT, found, references={DATASET_KEY: dataset})


def preparing(number: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the status of an experiment whose preparation is recorded."""
    status = prepared()
    digest = status["preparation"]["specDigest"]
    status["preparation"] = {"attempt": number, "specDigest": digest} | fields
    return {name: status[name] for name in ("revision", "preparation", "dataset")}


def running(*pods: PodFacts, **facts: Any) -> Any:
    """Return the Job of the first attempt."""
    return job(EXPERIMENT, 1, *pods, **facts)


STOPPING = {"conditions": builders.conditions(Ready="False Training", Suspended="Unknown Pending")}
STOPPING["conditions"][1]["reason"] = "SuspendRequested"
ALL_RUN = (pod(0), pod(1))
PENDING = (pod(0, "Pending", bound=False), pod(1, "Pending", bound=False))
ONE_DIED = (ended_pod(0, FailureClass.PEER_LOST), ended_pod(1, exit_code=137, outcome=None))
PREPARE_JOB = {"component": "prepare"}


@pytest.mark.parametrize(
    ("observation", "reason", "applied", "deleted"),
    [
        pytest.param(with_dataset(None), "Preparing", 0, 0, id="no dataset"),
        pytest.param(with_dataset(our_object(DATASET)), "Preparing", 0, 0, id="dataset not ready"),
        pytest.param(seen(), "Preparing", 0, 0, id="preparation recorded first"),
        pytest.param(seen(preparing()), "Preparing", 2, 0, id="then its children"),
        pytest.param(
            seen(preparing(), job(EXPERIMENT, 1, pod(), **PREPARE_JOB)),
            "Preparing", 0, 0, id="preparation runs",
        ),
        pytest.param(seen(prepared()), "Queued", 0, 0, id="attempt recorded first"),
        pytest.param(
            seen(prepared(attempt={"number": 1})), "Queued", 3, 0, id="then service, config, job"
        ),
        pytest.param(
            seen(prepared(attempt={"number": 1}), running(*PENDING)), "Queued", 0, 0, id="no node"
        ),
        pytest.param(
            seen(prepared(**attempt()), running(*ALL_RUN)), "Starting", 0, 0, id="pods on nodes"
        ),
        pytest.param(
            seen(prepared(**attempt()), running(*ALL_RUN, progress=progress("Training"))),
            "Training", 0, 0, id="steps",
        ),
        pytest.param(
            seen(prepared(**attempt()), running(*ALL_RUN, progress=progress("Saving"))),
            "Training", 0, 0, id="a save is part of training",
        ),
        pytest.param(
            seen(prepared(**attempt()), running(*ALL_RUN, progress=progress("Evaluating"))),
            "Evaluating", 0, 0, id="evaluation",
        ),
        pytest.param(
            seen(prepared(**attempt()), running(*ONE_DIED, failed=True)),
            "Restarting", 0, 0, id="an end is recorded first",
        ),
        pytest.param(seen(prepared(**attempt())), "Restarting", 0, 0, id="the job vanished"),
        pytest.param(
            seen(ended_status("Unknown"), running(pod(0), gone=True)),
            "Restarting", 0, 0, id="an old rank is left",
        ),
        pytest.param(
            seen(ended_status("Unknown"), running(pod(0))), "Restarting", 0, 1, id="stopped first"
        ),
        pytest.param(seen(ended_status("Unknown")), "Queued", 0, 0, id="second attempt recorded"),
        pytest.param(
            seen(prepared(**attempt()), running(*ALL_RUN), **SUSPEND),
            "Queued", 0, 0, id="the wish to suspend is recorded first",
        ),
        pytest.param(
            seen(prepared(**attempt(), **STOPPING), running(*ALL_RUN), **SUSPEND),
            "Training", 0, 1, id="then the job is deleted",
        ),
        pytest.param(
            seen(prepared(**attempt(), **STOPPING), running(pod(0), gone=True), **SUSPEND),
            "Training", 0, 0, id="pods end with grace",
        ),
        pytest.param(
            seen(prepared(**attempt(), **STOPPING), **SUSPEND), "Suspended", 0, 0, id="suspended"
        ),
        pytest.param(
            seen(prepared(**attempt(), **STOPPING)), "Queued", 0, 0, id="wish taken back, no cost"
        ),
        pytest.param(
            seen(prepared(), **SUSPEND), "Suspended", 0, 0, id="suspended before the first attempt"
        ),
        pytest.param(
            seen(preparing(), job(EXPERIMENT, 1, pod(), **PREPARE_JOB), **SUSPEND),
            "Preparing", 0, 0, id="a preparation is not suspended",
        ),
        pytest.param(seen(ended_status("Suspended")), "Queued", 0, 0, id="goes on at once"),
        pytest.param(
            replace(seen(prepared(attempt={"number": 1})), predecessor_pods=2),
            "Preparing", 0, 0, id="pods of a predecessor",
        ),
    ],
)  # fmt: skip
def test_one_observation_leads_to_one_answer(
    observation: Observed, reason: str, applied: int, deleted: int
) -> None:
    decided = plan(observation)
    answer = (condition(decided, "Ready")[1], len(decided.apply), len(decided.delete))
    assert answer == (reason, applied, deleted)


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        pytest.param(None, "DependencyNotFound", id="missing"),
        pytest.param(our_object(DATASET), "DependencyNotReady", id="not begun"),
        pytest.param(
            our_object(DATASET, status={"conditions": builders.conditions(Failed="True X")}),
            "DependencyFailed", id="failed",
        ),
        pytest.param(
            builders.with_metadata(ready_dataset(), deletion_timestamp=NOW),
            "DependencyNotFound", id="being deleted",
        ),
    ],
)  # fmt: skip
def test_what_is_awaited_is_named_and_wakes_the_run(dataset: Any, reason: str) -> None:
    decided = plan(with_dataset(dataset))
    assert condition(decided, "DependenciesReady") == ("False", reason)
    assert "Dataset questions" in message(decided)
    assert decided.waits_for == (DATASET_KEY,)
    assert condition(decided, "Reconciling")[0] == "True"


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        pytest.param(
            with_dataset(ready_dataset(recordType="Text")), "IncompatibleDataset", id="record type"
        ),
        pytest.param(
            with_dataset(
                ready_dataset(), dataset={"name": "questions", "digest": builders.digest("0")}
            ),
            "DigestMismatch", id="other content than pinned",
        ),
        pytest.param(
            replace(seen(), policy=Policy(image="x", models_allowed=("Qwen/*",))),
            "ModelNotAllowed", id="model",
        ),
        pytest.param(seen(storage={}), "InvalidSpec", id="no place for results"),
        pytest.param(
            replace(seen(), foreign_names=frozenset({"Job assistant-p1"})),
            "NameTaken", id="name taken",
        ),
    ],
)  # fmt: skip
def test_a_check_that_fails_stalls_without_children_and_without_an_end(
    observation: Observed, reason: str
) -> None:
    decided = plan(observation)
    states = {name: condition(decided, name) for name in ("Ready", "Stalled", "Failed")}
    assert states["Ready"] == ("False", reason)
    assert states["Stalled"] == ("True", reason)
    assert states["Failed"][0] == "False"
    assert decided.apply == ()


def test_a_refused_run_goes_on_once_the_cause_is_gone() -> None:
    refused = with_dataset(ready_dataset(recordType="Text"))
    later = replace(published(refused, plan(refused)), references={DATASET_KEY: ready_dataset()})
    decided = plan(later)
    assert condition(decided, "Ready") == ("False", "Preparing")
    assert condition(decided, "Stalled")[0] == "False"


RANK_FACTS = {
    "unknown": (),
    "pending": (pod(0, "Pending", bound=False, ready=False),),
    "running": (pod(0),),
    "completed": (ended_pod(0, FailureClass.COMPLETED, outcome=builders.trained()),),
    "completed in silence": (pod(0, "Succeeded", exit_code=0),),
    "out of memory": (ended_pod(0, FailureClass.UNKNOWN, out_of_memory=True, exit_code=137),),
    "bad data": (ended_pod(0, FailureClass.DATA),),
    "peer lost": (ended_pod(0, FailureClass.PEER_LOST),),
    "killed": (pod(0, "Failed", exit_code=137),),
    "checkpointed": (ended_pod(0, FailureClass.CHECKPOINTED),),
    "evicted": (ended_pod(0, FailureClass.CHECKPOINTED, disrupted=True),),
    "being deleted": (pod(0, deleting=True, deleting_since=NOW),),
    "on a lost node": (pod(0, deleting=True, deleting_since=NOW - timedelta(hours=1)),),
    "gone": (pod(0, gone=True, deleting=True, deleting_since=NOW),),
}
JOB_FACTS: dict[str, dict[str, bool]] = {
    "live": {}, "complete": {"complete": True}, "failed": {"failed": True},
    "being deleted": {"deleting": True}, "gone": {"gone": True},
}  # fmt: skip
STATUSES = {
    "recorded": prepared(**attempt()),
    "restarting": ended_status("Unknown", seconds_ago=60),
    "stopping": prepared(**attempt(), **STOPPING),
    "no budget": prepared(**attempt(), restarts={"unknown": 3, "peerLost": 5, "disruption": 100}),
}
COMBINATIONS = [
    pytest.param(status, facts, suspend, id=f"{status}, job {facts}, suspend {suspend}")
    for status in STATUSES
    for facts in JOB_FACTS
    for suspend in (False, True)
]


@pytest.mark.parametrize(("status", "facts", "suspend"), COMBINATIONS)
def test_every_combination_of_rank_facts_has_a_lasting_answer(
    status: str, facts: str, suspend: bool
) -> None:
    spec = SUSPEND if suspend else {}
    for first, second in itertools.product(RANK_FACTS.values(), repeat=2):
        ranks = (*first, *(replace(pod, index=1, name="pod-1") for pod in second))
        seen_now = seen(STATUSES[status], running(*ranks, **JOB_FACTS[facts]), **spec)
        decided = plan(seen_now)
        assert_holds(seen_now, decided.status)
        again = published(seen_now, decided)
        if decided.status["attempt"] == plan(again).status["attempt"]:
            assert plan(plan_published(again)).status == plan(again).status
        if is_final(again.object.status):
            assert plan(again).apply == ()
            assert plan(again).status == decided.status
        if any(rank.may_run and not rank.deleting for rank in ranks):
            assert decided.status["attempt"]["number"] == 1, "a rank may still run"


def plan_published(seen_now: Observed) -> Observed:
    """Return what is observed after one more step."""
    return published(seen_now, plan(seen_now))


def assert_holds(before: Observed, status: dict[str, Any]) -> None:
    """Check what holds for every answer."""
    assert [c["type"] for c in status["conditions"]] == list(CONDITION_TYPES[EXPERIMENT])
    assert status["attempt"]["number"] >= before.object.status.attempt.number
    states = {c["type"]: c["status"] for c in status["conditions"]}
    assert not (states["Complete"] == "True" and states["Failed"] == "True")
    assert (states["Reconciling"] == "True") == (
        "True" not in (states["Complete"], states["Stalled"], states["Suspended"])
    )
    assert len(json.dumps(status)) < 32768


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
    assert [child["metadata"]["name"] for child in plan(third).apply] == ["assistant-p1-2"] * 2


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
    _, config_map, child = plan(seen(status)).apply
    config = TrainingConfig.model_validate_json(config_map["data"][CONFIG_KEY])
    assert (config.ranks, config.grain, config.plan.total_steps) == (2, 2, 100)
    assert config.identity.run == "uid-experiment/2"
    assert [known.step for known in config.known_checkpoints] == [40]
    assert child["spec"]["completions"] == 2


def test_the_grace_period_covers_three_times_the_slowest_save() -> None:
    status = prepared(attempt={"number": 2}, checkpoints={"saveSeconds": 50.0})
    pod_spec = plan(seen(status)).apply[2]["spec"]["template"]["spec"]
    assert pod_spec["terminationGracePeriodSeconds"] == 150


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
    assert [event.reason for event in decided.events] == ["Quarantined"]
    assert condition(decided, "CheckpointAvailable") == ("True", "Quarantined")
    assert plan(published(first, decided)).events == ()


def test_the_result_names_checkpoint_and_choice() -> None:
    done = ended_pod(0, FailureClass.COMPLETED, outcome=builders.trained())
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
