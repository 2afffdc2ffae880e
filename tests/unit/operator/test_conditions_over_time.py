"""Conditions are complete from the first write, and change time only when they change status."""

from __future__ import annotations

from datetime import timedelta

import pytest

from builders import DATASET, EXPERIMENT, EXPORT, NOW, observed
from finetune_api.conditions import CONDITION_TYPES
from finetune_api.meta import Condition
from finetune_api.status_parts import AttemptRecord, ObjectStatus
from finetune_operator.planners import plan
from finetune_operator.status import Situation, Verdict, as_json, judged, verdicts, with_record

LATER = NOW + timedelta(minutes=1)
TRUE_BEFORE = Condition(type="Ready", status="True", reason="Ready", last_transition_time=NOW)


def judge(known: Condition, said: Verdict) -> Condition:
    """Return the condition after one more verdict."""
    (found,) = judged([known], {known.type: said}, types=[known.type], generation=2, now=LATER)
    return found


def test_the_transition_time_moves_with_the_status() -> None:
    assert judge(TRUE_BEFORE, Verdict("False", "Queued")).last_transition_time == LATER


def test_another_reason_alone_is_no_transition() -> None:
    found = judge(TRUE_BEFORE, Verdict("True", "Completed"))
    assert (found.reason, found.last_transition_time) == ("Completed", NOW)
    assert found.observed_generation == 2


def test_a_message_fits_its_field() -> None:
    assert len(judge(TRUE_BEFORE, Verdict("True", "Ready", "m" * 5000)).message) == 1024


@pytest.mark.parametrize("kind", [DATASET, EXPERIMENT, EXPORT])
def test_all_conditions_exist_from_the_first_write(kind: str) -> None:
    written = plan(observed(kind)).status["conditions"]
    assert [condition["type"] for condition in written] == list(CONDITION_TYPES[kind])
    assert all(condition["lastTransitionTime"] for condition in written)


@pytest.mark.parametrize(
    ("situation", "row"),
    [
        (Situation.UNDER_WAY, "Ready=False Reconciling=True Stalled=False Complete=False Failed=False"),  # noqa: E501
        (Situation.SUSPENDED, "Ready=False Reconciling=False Stalled=False Complete=False Failed=False"),  # noqa: E501
        (Situation.FINISHED, "Ready=True Reconciling=False Stalled=False Complete=True Failed=False"),  # noqa: E501
        (Situation.REFUSED, "Ready=False Reconciling=False Stalled=True Complete=False Failed=False"),  # noqa: E501
        (Situation.FAILED, "Ready=False Reconciling=False Stalled=True Complete=False Failed=True"),
    ],
)  # fmt: skip
def test_a_situation_reads_the_same_to_people_and_programs(situation: Situation, row: str) -> None:
    said = verdicts(situation, "Reason", "message")
    names = [part.split("=")[0] for part in row.split()]
    assert " ".join(f"{name}={said[name].status}" for name in names) == row


def test_an_empty_map_is_never_applied() -> None:
    assert "children" not in as_json(ObjectStatus())


def test_the_history_keeps_the_newest_ten() -> None:
    history: list[AttemptRecord] = []
    for number in range(1, 13):
        history = with_record(history, AttemptRecord(number=number, outcome="UnknownError"))
    assert [record.number for record in history] == list(range(12, 2, -1))
