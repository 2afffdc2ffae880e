"""PodGroups of attempts that are over go: with the next attempt, the last one with its Job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import builders
from builders import EXPERIMENT, NOW, job, our_object, prepared
from finetune_api.names import JOB_SET, POD_GROUP
from finetune_operator.observed import Observed, Policy
from finetune_operator.planners import plan
from observed_runs import ALL_RUN

POLICY = Policy(image="trainer:test", optional_kinds=frozenset({JOB_SET, POD_GROUP}))
VOLCANO = {"scheduling": {"gang": "Volcano"}}


def seen(status: dict[str, Any], *jobs: Any, **spec: Any) -> Observed:
    found = our_object(EXPERIMENT, status=status, **(spec or VOLCANO))
    return builders.observed(EXPERIMENT, found, policy=POLICY, jobs=jobs)


def groups(observed: Observed) -> list[str]:
    """Return the PodGroups that go; nobody observes them, so they have no UID."""
    found = [ref for ref in plan(observed).delete if ref.kind == POD_GROUP]
    assert {(ref.uid, ref.api_version) for ref in found} <= {("", "scheduling.volcano.sh/v1beta1")}
    return [ref.name for ref in found]


def test_the_group_before_goes_when_the_next_attempt_is_made() -> None:
    assert groups(seen(prepared(attempt={"number": 3}))) == ["assistant-a2"]


def test_the_first_attempt_has_none_before_it() -> None:
    assert groups(seen(prepared(attempt={"number": 1}))) == []


def test_an_attempt_that_runs_keeps_its_group_and_asks_nothing() -> None:
    status = prepared(**builders.attempt(2))
    assert groups(seen(status, job(EXPERIMENT, 2, *ALL_RUN))) == []


def test_without_a_gang_there_is_none() -> None:
    plain = {"scheduling": {"gang": "None"}}
    assert groups(seen(prepared(attempt={"number": 3}), **plain)) == []


@pytest.mark.parametrize(("hours", "expected"), [(1, []), (24 * 8, ["assistant-a2"])])
def test_the_last_group_goes_with_its_job(hours: int, expected: list[str]) -> None:
    status = prepared(**builders.attempt(2), completionTime="2026-01-01T00:00:00Z")
    status["completionTime"] = (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status["conditions"] = builders.conditions(Ready="True Completed", Complete="True Completed")
    prepare = job(EXPERIMENT, 1, component="prepare")
    ended = job(EXPERIMENT, 2, complete=True)
    observed = seen(status, ended, replace(prepare, complete=True))
    assert groups(observed) == expected
