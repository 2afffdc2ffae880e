"""Points of a run: the ends are always among them, whatever the cadence."""

from __future__ import annotations

import itertools
import math

import pytest

from finetune_trainer.cadence import Cadence


def points(total: int = 20, epoch: int = 7, **cadence) -> list[int]:
    plan = Cadence(lambda done: done / epoch, total, **cadence)
    return [done for done in range(1, total + 1) if plan.evaluates(done)]


@pytest.mark.parametrize(
    ("cadence", "expected"),
    [
        pytest.param({}, [20], id="off: the end alone"),
        pytest.param({"evaluate_epochs": 1.0}, [7, 14, 20], id="every epoch"),
        pytest.param({"evaluate_epochs": 2.0}, [14, 20], id="every second epoch"),
        pytest.param({"evaluate_epochs": 0.5}, [4, 7, 11, 14, 18, 20], id="half epochs"),
        pytest.param({"evaluate_steps": 6}, [6, 12, 18, 20], id="every six steps"),
        pytest.param(
            {"evaluate_epochs": 1.0, "evaluate_steps": 7}, [7, 14, 20], id="duplicates merge"
        ),
    ],
)
def test_evaluations_lie_where_the_cadence_says(cadence, expected):
    assert points(**cadence) == expected


@pytest.mark.parametrize(
    ("share", "epoch", "total"),
    list(itertools.product([0.1, 0.3, 1 / 3, 0.5, 0.9, 1.0], [1, 4, 10, 33], [1, 33, 50])),
)
def test_fractions_fall_at_every_multiple_rounded_up_and_at_both_ends(share, epoch, total):
    expected = {
        whole + min(epoch, math.ceil(round(j * share * epoch, 6)))
        for whole in range(0, total, epoch)
        for j in range(1, math.ceil(1 / share) + 1)
    }
    found = points(total, epoch, evaluate_epochs=share)
    assert found == sorted({one for one in expected if one <= total} | {total})


def test_an_epoch_that_never_comes_leaves_the_end():
    assert points(total=5, epoch=7, evaluate_epochs=3.0) == [5]


@pytest.mark.parametrize("evaluation", [{}, {"evaluate_steps": 3}], ids=["off", "on"])
def test_epoch_ends_and_the_last_step_are_saved_with_evaluation_on_or_off(evaluation):
    plan = Cadence(lambda done: done / 7, 16, save_steps=5, **evaluation)
    saved = {done for done in range(1, 17) if plan.saves(done)}
    assert {5, 7, 10, 14, 15, 16} <= saved
    assert all(done in saved for done in range(1, 17) if plan.evaluates(done))


def test_points_follow_epochs_of_unequal_length():
    ends = {1: 0.25, 2: 0.5, 3: 0.75, 4: 1.0, 5: 1.5, 6: 2.0, 7: 2 + 1 / 3, 8: 2 + 2 / 3, 9: 3.0}
    plan = Cadence(ends.__getitem__, 9, evaluate_epochs=0.5)
    assert [done for done in ends if plan.evaluates(done)] == [2, 4, 5, 6, 8, 9]


def test_a_run_that_cannot_be_resumed_saves_its_end_only():
    plan = Cadence(lambda done: done / 7, 16, save_steps=5, evaluate_epochs=0.5, resumable=False)
    assert [done for done in range(1, 17) if plan.saves(done)] == [16]
