"""The learning rate is a pure function of the step; norms and biases never decay."""

from __future__ import annotations

import pytest
from torch import nn

from finetune_api.training_settings import Scheduler
from finetune_trainer.optim import Schedule, parameter_groups


def test_warm_up_ends_at_the_peak_and_cosine_at_the_floor():
    schedule = Schedule(peak=1.0, total=12, warmup=3, shape=Scheduler.COSINE, floor=0.1)
    rates = [schedule.rate(step) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert schedule.rate(12) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shape", "rate"),
    [(Scheduler.CONSTANT, 2.0), (Scheduler.LINEAR, 1.0), (Scheduler.COSINE, 1.0)],
    ids=str,
)
def test_half_way_every_shape_has_its_value(shape, rate):
    assert Schedule(peak=2.0, total=8, warmup=0, shape=shape).rate(4) == pytest.approx(rate)


def test_a_run_that_is_all_warm_up_has_finite_rates():
    schedule = Schedule(peak=1.0, total=4, warmup=4, shape=Scheduler.LINEAR)
    assert [schedule.rate(step) for step in range(4)] == [0.2, 0.4, 0.6, 0.8]


def test_tensors_of_one_dimension_do_not_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.RMSNorm(3))
    decayed, spared = parameter_groups(model.named_parameters(), 0.1)
    assert [one.ndim for one in decayed["params"]] == [2]
    assert {one.ndim for one in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_frozen_tensors_are_in_no_group():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(requires_grad=False)
    (group,) = parameter_groups(model.named_parameters(), 0.1)
    assert [one.ndim for one in group["params"]] == [1]
