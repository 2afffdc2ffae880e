"""A Job that gets no pods, or none that start, is asked why, but not before it had its time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from finetune_operator.gathered_children import HEADWAY_SECONDS, asked_about, headway_seconds
from finetune_operator.observed import ChildRef, JobFacts, PodFacts

MADE = datetime(2026, 1, 1, tzinfo=UTC)
REF = ChildRef("batch/v1", "Job", "ml", "run-a1", "u1", "1")
WAITS = PodFacts("p", "u", "Pending", bound=True, waiting=("ContainerCreating", ""))
JOB = JobFacts(ref=REF, attempt=1, component="attempt", created=MADE)


@pytest.mark.parametrize(
    ("job", "age", "expected"),
    [
        pytest.param(JOB, 5, HEADWAY_SECONDS - 5, id="young"),
        pytest.param(JOB, HEADWAY_SECONDS, 0, id="overdue"),
        pytest.param(replace(JOB, pods=(PodFacts("p", "u", "Pending"),)), 99, None, id="has a pod"),
        pytest.param(
            replace(JOB, pods=(WAITS,)), HEADWAY_SECONDS, 0, id="a pod without its volumes"
        ),
        pytest.param(
            replace(JOB, pods=(WAITS,), suspended=True), 99, None, id="pods that the queue stops"
        ),
        pytest.param(replace(JOB, failed=True), 99, None, id="failed"),
        pytest.param(replace(JOB, complete=True), 99, None, id="complete"),
        pytest.param(replace(JOB, gone=True), 99, None, id="gone"),
    ],
)
def test_a_job_is_given_time_only_while_it_waits_for_its_first_pod(job, age, expected):
    assert headway_seconds(job, MADE + timedelta(seconds=age)) == expected


def test_events_are_asked_of_the_pod_that_is_held_and_else_of_the_job():
    assert asked_about(JOB) == REF
    assert asked_about(replace(JOB, pods=(WAITS,))) == ChildRef("v1", "Pod", "ml", "p", "u", "")
