"""Late reading of step values, and what the progress port shows."""

from __future__ import annotations

import torch

from finetune_api.run_progress import Progress
from finetune_trainer.objective import Objective
from finetune_trainer.progress import METRICS_FILE, PROGRESS_FILE, Board
from finetune_trainer.ring import Ring
from finetune_trainer.run_record import RunRecord


def test_norms_come_out_first_then_the_values_in_order_and_in_full():
    ring = Ring(every=3, distributed=False)
    for step in range(5):
        ring.close(step, torch.tensor([float(step)]), torch.tensor(step + 0.5))
    assert list(ring.values()) == []
    assert list(ring.norms()) == [(step, step + 0.5) for step in range(5)]
    early = [(one.step, one.loss, one.norm) for one in ring.values()]
    late = [(one.step, one.loss, one.norm) for one in ring.rest()]
    assert early == [(0, 0.0, 0.5), (1, 1.0, 1.5), (2, 2.0, 2.5)]
    assert late == [(3, 3.0, 3.5), (4, 4.0, 4.5)]


def test_a_cleared_ring_has_nothing_left():
    ring = Ring(every=1, distributed=False)
    ring.close(0, torch.tensor([1.0]), torch.tensor(1.0))
    ring.clear()
    assert (list(ring.norms()), list(ring.rest())) == ([], [])


def test_the_board_publishes_a_valid_answer_and_labelled_series(tmp_path):
    board = Board(tmp_path, "uid/2", {"experiment": "demo", "attempt": "2"})
    board.values(loss=2.5, learning_rate=1e-3, gradient_norm=0.7)
    board.total("train_skipped_updates", 2)
    board.total("train_skipped_updates", 3)
    board.observe("train_phase_seconds", 0.2, phase="forward")
    board.set(phase="Training", step=1, total_steps=4)
    answer = Progress.model_validate_json((tmp_path / PROGRESS_FILE).read_bytes())
    assert (answer.step, answer.total_steps, answer.loss) == (1, 4, 2.5)
    text = (tmp_path / METRICS_FILE).read_text()
    assert 'finetune_train_loss{attempt="2",experiment="demo"} 2.5' in text
    assert 'finetune_train_skipped_updates_total{attempt="2",experiment="demo"} 3.0' in text
    assert "# TYPE finetune_train_skipped_updates_total counter" in text
    assert (
        'finetune_train_phase_seconds_sum{attempt="2",experiment="demo",phase="forward"} 0.2'
        in text
    )


def test_best_ignores_the_baseline_and_values_that_are_not_finite():
    record = RunRecord(objective=Objective("loss"))
    for step, loss in ((0, 0.5), (4, 2.0), (8, float("nan")), (12, 1.5), (16, 1.5)):
        record.add_evaluation(step, {"loss": loss}, rows=3)
    assert record.ranking() == [12, 16, 4]
    assert record.best().step == 12


def test_the_loss_curve_is_the_same_when_a_run_was_interrupted():
    whole, part = RunRecord(), RunRecord()
    for done in range(1, 9):
        whole.add_values(done, done / 3, rate=0.1, norm=1.0, point=done % 4 == 0)
    for done in range(1, 9):
        if done == 6:
            part = RunRecord(**part.as_json())
        part.add_values(done, done / 3, rate=0.1, norm=1.0, point=done % 4 == 0)
    assert part.history == whole.history


def test_an_attempt_tells_where_it_began_and_what_its_steps_took(tmp_path):
    board = Board(tmp_path, "uid/2", {"attempt": "2"})
    assert board.attempt() == {"first_step": None, "step_seconds": None}
    board.resume(RunRecord(step=40), 100)
    for step in range(41, 51):
        board.step_values(tokens=8, seconds=0.5, step=step)
    assert board.attempt() == {"first_step": 40, "step_seconds": 5.0}
    board.resume(RunRecord(step=44), 100)
    assert board.attempt() == {"first_step": 40, "step_seconds": 2.0}
    board.step_values(tokens=8, seconds=0.5, step=45)
    answer = Progress.model_validate_json((tmp_path / PROGRESS_FILE).read_bytes())
    assert (answer.first_step, answer.step) == (40, 44)
    assert board.attempt() == {"first_step": 40, "step_seconds": 2.5}
