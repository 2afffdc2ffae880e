"""A new rerun token: what runs is stopped first, nothing of the old revision is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import builders
from builders import (
    DATASET,
    EXPERIMENT,
    attempt,
    complete_experiment,
    condition,
    digest,
    ended_pod,
    message,
    our_object,
    prepared,
    published,
    ready_dataset,
)
from finetune_api.finetune_experiment import RerunFrom
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed, Plan
from finetune_operator.planners import plan
from observed_runs import ALL_RUN, CHECKPOINT, running, seen


def asked(status: dict[str, Any], *jobs: Any, **spec: Any) -> Observed:
    """Return an experiment of revision 1 whose spec has a new token."""
    return seen(status, *jobs, rerun="again", **spec)


def complete(rerun_from: RerunFrom = RerunFrom.START) -> Observed:
    """Return a complete experiment that is asked to run again."""
    found = complete_experiment(checkpoints={"latest": CHECKPOINT | {"attempt": 1}})
    spec = found.spec.model_copy(update={"rerun": "again", "rerun_from": rerun_from})
    return builders.observed(EXPERIMENT, found.model_copy(update={"spec": spec}))


def test_a_complete_run_begins_anew_and_its_result_stays_on_record() -> None:
    status = plan(complete()).status
    assert (status["revision"], status["rerun"]) == (2, "again")
    assert "result" not in status
    assert status["preparation"]["attempt"] == 0
    [before] = status["revisions"]
    assert (before["revision"], before["outcome"], before["digest"]) == (
        1,
        "Completed",
        digest("e"),
    )
    assert condition(status, "Complete") == ("False", "Pending")


def test_numbers_of_attempts_never_repeat() -> None:
    observed = complete()
    for _ in range(2):  # the revision, then its preparation
        observed = published(observed, plan(observed))
    assert observed.object.status.preparation.attempt == 1
    status = observed.object.status.model_copy(
        update={
            "preparation": complete().object.status.preparation,
            **{name: getattr(complete().object.status, name) for name in ("plan", "model")},
        }
    )
    ready = replace(observed, object=observed.object.model_copy(update={"status": status}))
    assert plan(ready).status["attempt"]["number"] == 2


def test_what_was_recorded_for_a_revision_is_not_begun_twice() -> None:
    first = plan(complete())
    assert plan(published(complete(), first)).status["revision"] == 2


def step(observed: Observed, *jobs: Any) -> tuple[Plan, Observed]:
    """Return the answer, and what is observed after it."""
    answer = plan(observed)
    return answer, replace(published(observed, answer), jobs=jobs)


def test_what_runs_is_recorded_then_stopped_then_waited_for() -> None:
    live, stopping = running(*ALL_RUN), running(*ALL_RUN, deleting=True)
    gone = running(*(ended_pod(i, FailureClass.CHECKPOINTED) for i in range(2)), gone=True)
    first, after = step(asked(prepared(**attempt()), live), live)
    assert (first.status["attempt"]["ended"], first.delete) == ("Replaced", ())
    second, after = step(after, stopping)
    assert [ref.name for ref in second.delete] == ["assistant-a1"]
    third, after = step(after, gone)
    assert "2 of its pods" in message(third)
    assert third.status["revision"] == 1
    fourth, _ = step(after, gone)
    assert fourth.status["revision"] == 2
    assert fourth.events[0].reason == "RevisionStarted"
    assert fourth.status["restarts"]["unknown"] == 0


def test_a_token_taken_back_in_time_costs_nothing() -> None:
    first = plan(asked(prepared(**attempt()), running(*ALL_RUN)))
    back = replace(
        published(asked(prepared(**attempt())), first),
        object=our_object(EXPERIMENT, status=first.status),
        jobs=(running(*(ended_pod(i, FailureClass.CHECKPOINTED) for i in range(2)), failed=True),),
    )
    assert plan(back).status["attempt"]["number"] == 2
    assert plan(back).status["restarts"]["unknown"] == 0


def test_a_run_that_goes_on_keeps_its_preparation_and_its_checkpoints() -> None:
    status = plan(complete(RerunFrom.LAST_CHECKPOINT)).status
    assert status["preparation"]["complete"]
    assert status["preparation"]["revision"] == 1
    assert status["checkpoints"]["latest"]["step"] == 40
    observed = published(
        complete(RerunFrom.LAST_CHECKPOINT), plan(complete(RerunFrom.LAST_CHECKPOINT))
    )
    observed = published(observed, plan(observed))
    config = builders.child(plan(observed), "ConfigMap")["data"]["config.json"]
    assert '"preparedRevision":1' in config
    assert '"revision":2' in config


def test_without_a_checkpoint_to_go_on_from_it_begins_at_the_start() -> None:
    found = complete(RerunFrom.LAST_CHECKPOINT)
    status = found.object.status.model_copy(
        update={"checkpoints": type(found.object.status.checkpoints)()}
    )
    bare = replace(found, object=found.object.model_copy(update={"status": status}))
    assert not plan(bare).status["preparation"]["complete"]


def test_failures_of_an_earlier_revision_delay_nothing() -> None:
    records = [
        {"number": n, "outcome": "UnknownError", "class": "Unknown", "revision": 1} for n in (2, 1)
    ]
    ended = {"ended": "Unknown", "endedTime": builders.NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}
    status = prepared(**attempt(2, **ended), history=records)
    assert plan(seen(status)).requeue_seconds == 10
    later = [record | {"revision": 1} for record in records]
    assert plan(seen(status | {"revision": 2, "history": later})).status["attempt"]["number"] == 3


@pytest.mark.parametrize("token", [None, "first"])
def test_the_token_an_object_is_created_with_is_no_wish_to_run_again(token: str | None) -> None:
    data = our_object(DATASET, **({"rerun": token} if token else {}))
    first = builders.observed(DATASET, data)
    status = plan(first).status
    assert status.get("rerun") == token
    assert plan(published(first, plan(first))).status["revision"] == 1


def test_a_dataset_that_runs_again_is_not_ready_until_it_is() -> None:
    done = ready_dataset(revision=1, attempt={"number": 1, "ended": "Completed"})
    wanted = done.model_copy(update={"spec": done.spec.model_copy(update={"rerun": "x"})})
    status = plan(builders.observed(DATASET, wanted)).status
    assert condition(status, "Ready")[0] == "False"
    assert "digest" not in status
