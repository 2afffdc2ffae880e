"""What nobody saw live is recorded like what was seen: the operator was away."""

from __future__ import annotations

import builders
import good_ends
from finetune_api.names import EXPERIMENT, attempt_job, preparation_job
from finetune_api.run_outcome import FailureClass
from finetune_operator.planners import plan

NAME = builders.NAMES[EXPERIMENT]


def ended(component: str, failure: FailureClass, **status: object) -> builders.Manifest:
    """Return the status after the end of a Job that no status names yet."""
    told = good_ends.GOOD_ENDS[EXPERIMENT, component]()
    outcome = told if failure is FailureClass.COMPLETED else None
    pods = [builders.ended_pod(index, failure, outcome=outcome) for index in range(2)]
    good = failure is FailureClass.COMPLETED
    job = builders.job(EXPERIMENT, 1, *pods, component=component, complete=good, failed=not good)
    found = builders.our_object(EXPERIMENT, status=status)
    return plan(builders.observed(EXPERIMENT, found, jobs=(job,))).status


def test_a_preparation_that_ended_unseen_is_named_among_the_children() -> None:
    begun = {"attempt": 1, "specDigest": builders.prepared()["preparation"]["specDigest"]}
    pin = {"name": "questions", "digest": builders.digest("d"), "uri": "pvc://artifacts/x"}
    status = ended("prepare", FailureClass.COMPLETED, revision=1, preparation=begun, dataset=pin)
    assert status["preparation"]["complete"]
    assert status["children"]["prepareJob"] == preparation_job(NAME, 1, 1)


def test_an_attempt_that_ended_unseen_is_named_among_the_children() -> None:
    for failure in (FailureClass.COMPLETED, FailureClass.PEER_LOST):
        begun = builders.prepared(attempt={"number": 1, "generation": 1})
        status = ended("attempt", failure, **begun)
        assert status["attempt"]["ended"] == failure.value
        assert status["children"]["job"] == attempt_job(NAME, 1)
