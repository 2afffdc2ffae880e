"""A Dataset: one Job until its snapshot exists, or the sentence that says why it cannot."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from builders import (
    DATASET,
    condition,
    ended_pod,
    job,
    message,
    observed,
    our_object,
    pod,
)
from finetune_api.names import CONFIG_KEY
from finetune_api.run_config import DatasetJobConfig
from finetune_api.run_outcome import FailureClass, Outcome
from finetune_operator.observed import Observed, Policy
from finetune_operator.planners import plan
from good_ends import checked_dataset

RECORDED = {"attempt": {"number": 1}, "children": {"job": "questions-d1"}}
MISSING = {
    "reason": "MissingColumn", "severity": "Error", "count": 3, "rows": [4, 7, 9],
    "message": "column answer is missing",
}  # fmt: skip


def seen(*pods: Any, **facts: Any) -> Observed:
    """Return what is observed of a Dataset whose Job was made."""
    return observed(
        DATASET, our_object(DATASET, status=RECORDED), jobs=(job(DATASET, 1, *pods, **facts),)
    )


def failed(told: Outcome) -> Observed:
    """Return what is observed once the Job has failed."""
    return seen(ended_pod(0, told.failure_class, outcome=told), failed=True)


def test_a_checked_dataset_is_ready_with_its_digest_and_counts() -> None:
    done = ended_pod(0, FailureClass.COMPLETED, outcome=checked_dataset())
    status = plan(seen(done, complete=True)).status
    assert condition(status, "Ready") == ("True", "Ready")
    assert condition(status, "Validated") == ("True", "AsExpected")
    assert (status["digest"], status["size"]) == (builders.digest("d"), "2.0 KiB")
    assert status["records"]["train"] == 90
    assert [artifact["name"] for artifact in status["artifacts"]] == ["snapshot", "report"]


def test_a_finding_stalls_the_dataset_and_names_its_rows() -> None:
    decided = plan(failed(checked_dataset("Data", **MISSING)))
    assert condition(decided, "Ready") == ("False", "InvalidData")
    assert condition(decided, "Stalled") == ("True", "InvalidData")
    assert condition(decided, "Failed") == ("True", "InvalidData")
    assert condition(decided, "Validated") == ("False", "MissingColumn")
    assert decided.status["findings"][0]["rows"] == [4, 7, 9]
    assert [event.type for event in decided.events] == ["Warning"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FailureClass.ACCESS, "AccessDenied"),
        (FailureClass.ACCESS, "SourceNotFound"),
        (FailureClass.DATA, "DigestMismatch"),
    ],
)
def test_a_source_that_cannot_be_used_is_told_from_bad_data(
    failure: FailureClass, reason: str
) -> None:
    decided = plan(failed(builders.outcome(failure, reason=reason, message="bucket raw")))
    assert condition(decided, "SourceResolved") == ("False", reason)
    assert condition(decided, "Failed") == ("True", reason)
    assert message(decided) == "bucket raw"


def test_a_service_that_fails_is_tried_again_until_the_budget_is_spent() -> None:
    told = builders.outcome(FailureClass.EXTERNAL_SERVICE)
    assert condition(plan(failed(told)), "Ready") == ("False", "Restarting")
    spent = failed(told)
    status = {**RECORDED, "restarts": {"externalService": 3}}
    again = observed(DATASET, our_object(DATASET, status=status), jobs=spent.jobs)
    assert condition(plan(again), "Failed") == ("True", "ServiceUnavailable")


@pytest.mark.parametrize("phase", ["Fetching", "Validating", "Writing"])
def test_the_stage_is_the_reason(phase: str) -> None:
    decided = plan(seen(pod(), progress=builders.progress(phase, percentage=40)))
    assert condition(decided, "Ready") == ("False", phase)
    assert decided.status["progress"]["percentage"] == 40


def test_a_dataset_that_is_suspended_from_the_start_makes_nothing() -> None:
    suspended = our_object(DATASET, runPolicy={"suspend": True})
    decided = plan(observed(DATASET, suspended))
    assert condition(decided, "Suspended") == ("True", "SuspendRequested")
    assert (decided.apply, decided.status["attempt"]["number"]) == ((), 0)


def test_the_operators_default_is_where_results_go_when_the_spec_is_silent() -> None:
    policy = Policy(image="x", default_location=builders.DEFAULT_LOCATION, addresses_allowed=("a",))
    silent = our_object(DATASET, status={"attempt": {"number": 1}}, storage={})
    config_map = builders.child(plan(observed(DATASET, silent, policy=policy)), "ConfigMap")
    config = DatasetJobConfig.model_validate_json(config_map["data"][CONFIG_KEY])
    assert config.location == builders.DEFAULT_LOCATION
    assert config.prefix == "datasets/lab/questions-uid-dataset"
    assert config.allowed_addresses == ["a"]


def test_a_dataset_without_a_place_is_refused_with_the_field() -> None:
    decided = plan(observed(DATASET, our_object(DATASET, storage={})))
    assert condition(decided, "Stalled") == ("True", "InvalidSpec")
    assert message(decided).startswith("spec.storage: ")
