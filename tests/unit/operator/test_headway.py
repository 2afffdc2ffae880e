"""A Job that gets no pods is asked why, but not before it had its time, nor once it has one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from finetune_operator.gathered_children import HEADWAY_SECONDS, headway_seconds
from finetune_operator.observed import ChildRef, JobFacts, PodFacts

MADE = datetime(2026, 1, 1, tzinfo=UTC)
REF = ChildRef("batch/v1", "Job", "ml", "run-a1", "u1", "1")
JOB = JobFacts(ref=REF, attempt=1, component="attempt", created=MADE)


@pytest.mark.parametrize(
    ("job", "age", "expected"),
    [
        pytest.param(JOB, 5, HEADWAY_SECONDS - 5, id="young"),
        pytest.param(JOB, HEADWAY_SECONDS, 0, id="overdue"),
        pytest.param(replace(JOB, pods=(PodFacts("p", "u", "Pending"),)), 99, None, id="has a pod"),
        pytest.param(replace(JOB, failed=True), 99, None, id="failed"),
        pytest.param(replace(JOB, complete=True), 99, None, id="complete"),
        pytest.param(replace(JOB, gone=True), 99, None, id="gone"),
    ],
)
def test_a_job_is_given_time_only_while_it_waits_for_its_first_pod(job, age, expected):
    assert headway_seconds(job, MADE + timedelta(seconds=age)) == expected
