"""An update that is not finite ends the run, is counted, or takes the run back."""

from __future__ import annotations

import pytest

from finetune_api.training_settings import NonFinitePolicy
from finetune_trainer.errors import NotFiniteError
from finetune_trainer.non_finite import RollbackDueError, judge
from finetune_trainer.run_record import RunRecord

NAN = float("nan")
FAIL, SKIP, ROLLBACK = NonFinitePolicy


def test_fail_names_the_step_and_a_remedy():
    with pytest.raises(NotFiniteError, match="step 8") as ended:
        judge(RunRecord(), FAIL, 7, float("inf"))
    assert (ended.value.exit_code, "learningRate" in ended.value.remedy) == (22, True)


@pytest.mark.parametrize("policy", NonFinitePolicy, ids=str)
def test_a_finite_norm_is_no_event(policy):
    judge(record := RunRecord(), policy, 0, 1.0)
    assert record == RunRecord()


def test_skip_counts_and_ends_at_the_sixth_in_a_row():
    record = RunRecord()
    for step in range(5):
        judge(record, SKIP, step, NAN)
    assert (record.skipped, record.skipped_in_a_row) == (5, 5)
    with pytest.raises(NotFiniteError, match="6 in a row and 6 in all"):
        judge(record, SKIP, 5, NAN)


def test_skip_ends_at_the_51st_in_all_across_restarts():
    record = RunRecord()
    for step in range(50):
        judge(record, SKIP, 2 * step, NAN)
        judge(record, SKIP, 2 * step + 1, 1.0)
    record = RunRecord(**record.as_json())
    with pytest.raises(NotFiniteError, match="1 in a row and 51 in all"):
        judge(record, SKIP, 100, NAN)


def test_rollback_goes_back_twice_and_then_ends():
    record = RunRecord()
    for rollbacks in range(2):
        record.rollbacks = rollbacks
        with pytest.raises(RollbackDueError, match="step 4"):
            judge(record, ROLLBACK, 3, NAN)
    record.rollbacks = 2
    with pytest.raises(NotFiniteError, match="after 2 rollbacks"):
        judge(record, ROLLBACK, 3, NAN)


def test_a_record_taken_back_keeps_the_rollbacks_made_since():
    record = RunRecord(step=4, tokens=40, rollbacks=2)
    record.take_over(RunRecord(step=2, tokens=20, rollbacks=0).as_json())
    assert (record.step, record.tokens, record.rollbacks) == (2, 20, 2)


def test_the_loss_curve_leaves_out_what_was_skipped():
    record = RunRecord()
    record.add_values(1, 2.0, rate=0.1, norm=1.0, point=False)
    record.add_values(2, NAN, rate=0.1, norm=NAN, point=True)
    record.add_values(3, NAN, rate=0.1, norm=NAN, point=True)
    assert record.history == [[2, 2.0, 0.1, 0.0]]


def test_an_overflow_of_the_loss_scale_is_no_event_until_the_scale_is_used_up():
    record = RunRecord()
    for step in range(30):
        judge(record, FAIL, step, NAN, scaled=True)
    assert (record.overflows, record.skipped) == (30, 0)
    with pytest.raises(NotFiniteError):
        judge(record, FAIL, 30, NAN, scaled=True)
    judge(record, FAIL, 31, 1.0, scaled=True)
    assert record.overflows_in_a_row == 0
