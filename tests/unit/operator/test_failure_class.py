"""A cause beats its consequences, whatever the other ranks report."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import EXPERIMENT, NOW, ended_pod, job, outcome, pod
from finetune_api.conditions import FAILURE_REASONS
from finetune_api.run_outcome import FailureClass
from finetune_api.run_policy import Retries, RunPolicy, TrainingRunPolicy
from finetune_api.status_parts import Restarts
from finetune_operator.observed import PodFacts
from finetune_operator.planners.failure_class import REASONS, end_of
from finetune_operator.planners.retry_budget import spent

STOPPED_BY_THE_JOB = ended_pod(0, FailureClass.CHECKPOINTED, deleting=True)
LOST_ITS_PEER = ended_pod(0, FailureClass.PEER_LOST)
DATA = outcome(FailureClass.DATA, message="column answer is missing", remedy="set spec.columns")
HANG = outcome(FailureClass.PEER_LOST, reason="Hang", rank=1)
NO_SPACE = outcome(FailureClass.RESOURCES_EXHAUSTED, reason="NoSpace", rank=1)


@pytest.mark.parametrize(
    ("culprit", "failure", "reason"),
    [
        pytest.param(
            ended_pod(1, FailureClass.CONFIGURATION), "Configuration", "ConfigurationError",
            id="exit 10",
        ),
        pytest.param(ended_pod(1, FailureClass.DATA), "Data", "InvalidData", id="exit 11"),
        pytest.param(ended_pod(1, FailureClass.ACCESS), "Access", "AccessDenied", id="exit 12"),
        pytest.param(
            ended_pod(1, FailureClass.GPU_OUT_OF_MEMORY), "GpuOutOfMemory", "OutOfGPUMemory",
            id="exit 20",
        ),
        pytest.param(
            ended_pod(1, FailureClass.RESOURCES_EXHAUSTED, outcome=NO_SPACE),
            "ResourcesExhausted", "NoSpace", id="exit 21 with its own reason",
        ),
        pytest.param(
            ended_pod(1, FailureClass.NOT_FINITE), "NotFinite", "NonFiniteLoss", id="exit 22"
        ),
        pytest.param(
            ended_pod(1, FailureClass.EXTERNAL_SERVICE), "ExternalService", "ServiceUnavailable",
            id="exit 30",
        ),
        pytest.param(
            pod(1, "Failed", exit_code=11), "Data", "InvalidData", id="exit 11 without a message"
        ),
        pytest.param(
            pod(1, "Failed", exit_code=137, out_of_memory=True),
            "ResourcesExhausted", "OutOfHostMemory", id="killed at the memory limit",
        ),
        pytest.param(
            pod(1, "Failed", reason="Evicted"), "ResourcesExhausted", "NoSpace", id="disk full"
        ),
        pytest.param(
            ended_pod(1, FailureClass.CHECKPOINTED, disrupted=True), "Disruption", "Disrupted",
            id="drained",
        ),
        pytest.param(
            pod(1, "Failed", reason="Evicted", disrupted=True), "Disruption", "Disrupted",
            id="evicted for others' sake",
        ),
        pytest.param(
            pod(1, "Failed", exit_code=137), "Unknown", "UnknownError", id="killed by a signal"
        ),
        pytest.param(
            ended_pod(1, FailureClass.UNKNOWN), "Unknown", "UnknownError", id="exit 1"
        ),
        pytest.param(
            ended_pod(1, FailureClass.PEER_LOST, outcome=HANG), "PeerLost", "Hang", id="a hang"
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("echo", [LOST_ITS_PEER, STOPPED_BY_THE_JOB], ids=["40", "75"])
def test_the_cause_is_found_behind_what_it_caused(
    culprit: PodFacts, echo: PodFacts, failure: str, reason: str
) -> None:
    end = end_of(job(EXPERIMENT, 1, echo, culprit, failed=True))
    assert (end.failure, end.reason, end.rank) == (failure, reason, 1)


def test_a_pod_killed_at_its_memory_limit_names_the_limit() -> None:
    killed = pod(1, "Failed", exit_code=137, out_of_memory=True, memory_limit="784Mi")
    assert "at its memory limit of 784Mi" in end_of(job(EXPERIMENT, pods=(killed,))).message


@pytest.mark.parametrize(
    ("pods", "failure"),
    [
        pytest.param((LOST_ITS_PEER, LOST_ITS_PEER), "PeerLost", id="everybody lost a peer"),
        pytest.param(
            (ended_pod(0, FailureClass.CHECKPOINTED), ended_pod(1, FailureClass.CHECKPOINTED)),
            "Disruption", id="a stop nobody asked for",
        ),
        pytest.param(
            (LOST_ITS_PEER, pod(1, gone=True, deleting=True)), "Disruption", id="a pod was deleted"
        ),
        pytest.param((), "Unknown", id="nobody is left to ask"),
    ],
)  # fmt: skip
def test_without_a_cause_the_consequence_counts(pods: tuple[PodFacts, ...], failure: str) -> None:
    assert end_of(job(EXPERIMENT, 1, *pods, failed=True)).failure == failure


def _taken(seconds: float | None, **marks: Any) -> PodFacts:
    """Return a rank whose deletion was asked for so long after its Job had failed."""
    asked = None if seconds is None else NOW + timedelta(seconds=seconds)
    return pod(1, deleting=True, gone=True, deletion_asked=asked, **marks)


@pytest.mark.parametrize(
    ("lost", "stopped", "failure"),
    [
        pytest.param(LOST_ITS_PEER, _taken(0), "PeerLost", id="by the Job controller"),
        pytest.param(LOST_ITS_PEER, _taken(3), "PeerLost", id="by the Job controller, later"),
        pytest.param(LOST_ITS_PEER, _taken(-1), "Disruption", id="by somebody, before"),
        pytest.param(LOST_ITS_PEER, _taken(None), "Disruption", id="nobody knows when"),
        pytest.param(
            LOST_ITS_PEER, _taken(0, disrupted=True), "Disruption", id="by who says that he did"
        ),
        pytest.param(
            LOST_ITS_PEER, replace(_taken(0), phase="Failed", exit_code=75), "PeerLost",
            id="it has saved meanwhile",
        ),
        pytest.param(
            replace(LOST_ITS_PEER, deleting=True, deletion_asked=NOW), _taken(0), "Disruption",
            id="both, and no pod ended by itself",
        ),
    ],
)  # fmt: skip
def test_who_stopped_a_rank_is_known_by_when(
    lost: PodFacts, stopped: PodFacts, failure: str
) -> None:
    ended = job(EXPERIMENT, 1, lost, stopped, failed=True, failed_since=NOW)
    assert end_of(ended).failure == failure
    unknown = end_of(replace(ended, failed_since=None)).failure
    assert unknown is FailureClass.DISRUPTION


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("Container trainer failed with exit code 11 matching FailJob rule at index 1", "Data"),
        ("Pod x has condition DisruptionTarget matching FailJob rule at index 0", "Disruption"),
        ("Container trainer failed with exit code 75", "Disruption"),
        ("Job has reached the specified backoff limit", "Unknown"),
        ("exit code 99999", "Unknown"),
    ],
)
def test_the_jobs_message_speaks_for_pods_that_are_gone(text: str, failure: str) -> None:
    assert end_of(job(EXPERIMENT, 1, failed=True, failure_message=text)).failure == failure


def test_the_lowest_exit_code_names_the_cause() -> None:
    pods = (ended_pod(0, FailureClass.EXTERNAL_SERVICE), ended_pod(1, FailureClass.DATA))
    assert end_of(job(EXPERIMENT, 1, *pods, failed=True)).failure is FailureClass.DATA


def test_the_message_is_the_pods_own_sentence_with_its_remedy() -> None:
    end = end_of(job(EXPERIMENT, 1, ended_pod(0, FailureClass.DATA, outcome=DATA), failed=True))
    assert end.message == "column answer is missing: set spec.columns"


def test_a_reason_the_operator_does_not_know_is_not_repeated() -> None:
    told = outcome(FailureClass.DATA, reason="Bitcoin")
    end = end_of(job(EXPERIMENT, 1, ended_pod(0, FailureClass.DATA, outcome=told), failed=True))
    assert end.reason == "InvalidData"


def test_every_combination_of_two_ends_has_a_class_with_a_documented_reason() -> None:
    ends: list[PodFacts] = [
        ended_pod(0, failure, **marks)
        for failure in FailureClass
        for marks in _marks()
    ]  # fmt: skip
    for first, second in itertools.product(ends, repeat=2):
        end = end_of(job(EXPERIMENT, 1, first, second, failed=True))
        assert end.failure in REASONS
        assert end.reason in FAILURE_REASONS
        assert end.message


def _marks() -> list[dict[str, Any]]:
    return [{}, {"deleting": True}, {"disrupted": True}, {"outcome": None}, {"gone": True}]


@pytest.mark.parametrize("failure", FailureClass)
def test_only_listed_classes_are_repeated_and_never_beyond_their_budget(
    failure: FailureClass,
) -> None:
    repeated = {
        FailureClass.DISRUPTION: 100,
        FailureClass.EXTERNAL_SERVICE: 3,
        FailureClass.UNKNOWN: 3,
        FailureClass.PEER_LOST: 5,
        FailureClass.HANG: 3,
        FailureClass.START_TIMEOUT: 5,
    }
    restarts, times = Restarts(), 0
    while (more := spent(restarts, TrainingRunPolicy(), failure)) is not None:
        restarts, times = more, times + 1
    assert times == repeated.get(failure, 0)


def test_a_budget_of_zero_ends_with_the_first_failure() -> None:
    assert spent(Restarts(), RunPolicy(retries=Retries(unknown=0)), FailureClass.UNKNOWN) is None
