"""Status writes: transitions at once, creeping numbers rarely, the same never."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from finetune_operator.observed import Key
from finetune_operator.status_writes import StatusWrites, Verdict

KEY = Key("FineTuneExperiment", "ml", "run")
START = datetime(2026, 1, 1, tzinfo=UTC)


def status(*, percentage: int = 0, loss: float = 2.0, reason: str = "Training") -> dict:
    return {
        "conditions": [{"type": "Ready", "status": "False", "reason": reason}],
        "progress": {"percentage": percentage, "loss": loss},
    }


def verdict_after(seconds: float, stored: dict, planned: dict, *, active: int = 1) -> Verdict:
    writes = StatusWrites()
    writes.share_budget(active, 10)
    writes.note(KEY, START)
    return writes.verdict(KEY, stored, planned, START + timedelta(seconds=seconds))


def test_an_equal_status_is_not_written():
    assert verdict_after(3600, status(), status()) == Verdict()


def test_nulls_are_no_difference_because_the_server_does_not_store_them():
    planned = {**status(), "completionTime": None}
    assert verdict_after(3600, status(), planned) == Verdict()


def test_a_transition_is_written_at_once():
    planned = status(reason="Evaluating")
    assert verdict_after(0, status(), planned) == Verdict(now=True)


@pytest.mark.parametrize(
    ("seconds", "percentage", "expected"),
    [
        pytest.param(9, 1, Verdict(later_seconds=1), id="moved, too soon"),
        pytest.param(10, 1, Verdict(now=True), id="moved, 10 s passed"),
        pytest.param(10, 0, Verdict(later_seconds=50), id="not moved"),
        pytest.param(60, 0, Verdict(now=True), id="not moved, a minute passed"),
    ],
)
def test_progress_waits_for_its_interval(seconds, percentage, expected):
    planned = status(percentage=percentage, loss=1.9)
    assert verdict_after(seconds, status(), planned) == expected


def test_cost_that_grows_is_written_once_a_minute():
    stored, planned = ({**status(), "cost": {"gpuSeconds": spent}} for spent in (80, 160))
    assert verdict_after(10, stored, planned) == Verdict(later_seconds=50)
    assert verdict_after(60, stored, planned) == Verdict(now=True)


def test_many_active_runs_stretch_the_interval_to_their_share_of_the_budget():
    planned = status(percentage=5)
    assert verdict_after(49, status(), planned, active=500) == Verdict(later_seconds=1)
    assert verdict_after(50, status(), planned, active=500) == Verdict(now=True)


def test_the_first_look_after_a_start_writes_progress_without_delay():
    planned = status(percentage=5)
    assert StatusWrites().verdict(KEY, status(), planned, START) == Verdict(now=True)
