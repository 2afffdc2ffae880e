"""One observation of an experiment leads to one answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import builders
from builders import (
    DATASET,
    EXPERIMENT,
    NOW,
    attempt,
    condition,
    ended_status,
    job,
    message,
    our_object,
    pod,
    prepared,
    progress,
    published,
    ready_dataset,
)
from finetune_operator.observed import Observed, Policy
from finetune_operator.planners import plan
from observed_runs import (
    ALL_RUN,
    DATASET_KEY,
    ONE_DIED,
    PENDING,
    PREPARE_JOB,
    STOPPING,
    SUSPEND,
    preparing,
    running,
    seen,
    with_dataset,
)


@pytest.mark.parametrize(
    ("observation", "reason", "applied", "deleted"),
    [
        pytest.param(with_dataset(None), "Preparing", 0, 0, id="no dataset"),
        pytest.param(with_dataset(our_object(DATASET)), "Preparing", 0, 0, id="dataset not ready"),
        pytest.param(seen(), "Preparing", 0, 0, id="preparation recorded first"),
        pytest.param(seen(preparing()), "Preparing", 3, 0, id="then its children"),
        pytest.param(
            seen(preparing(), job(EXPERIMENT, 1, pod(), **PREPARE_JOB)),
            "Preparing", 0, 0, id="preparation runs",
        ),
        pytest.param(seen(prepared()), "Queued", 0, 0, id="attempt recorded first"),
        pytest.param(
            seen(prepared(attempt={"number": 1})), "Queued", 4, 0, id="then all four"
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
