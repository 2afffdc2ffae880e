"""Every combination of facts about two ranks has an answer, and the answer lasts."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import good_ends
from builders import (
    EXPERIMENT,
    NOW,
    attempt,
    ended_pod,
    ended_status,
    pod,
    prepared,
    published,
)
from finetune_api.conditions import CONDITION_TYPES
from finetune_api.run_outcome import FailureClass
from finetune_operator.observed import Observed
from finetune_operator.planners import plan
from finetune_operator.status import is_final
from observed_runs import (
    STOPPING,
    SUSPEND,
    running,
    seen,
)

RANK_FACTS = {
    "unknown": (),
    "pending": (pod(0, "Pending", bound=False, ready=False),),
    "running": (pod(0),),
    "completed": (ended_pod(0, FailureClass.COMPLETED, outcome=good_ends.trained()),),
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
        decided_again = plan(again)
        if decided.status["attempt"] == decided_again.status["attempt"]:
            assert plan(published(again, decided_again)).status == decided_again.status
        if is_final(again.object.status):
            assert decided_again.apply == ()
            assert decided_again.status == decided.status
        if any(rank.may_run and not rank.deleting for rank in ranks):
            assert decided.status["attempt"]["number"] == 1, "a rank may still run"


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
