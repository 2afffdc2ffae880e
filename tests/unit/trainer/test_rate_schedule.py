"""The learning rate is a pure function of the step and of the number of steps."""

from __future__ import annotations

import pytest

from finetune_api.training_settings import Scheduler
from finetune_trainer.rate_schedule import Schedule

COSINE_HALF = 0.1464466


def test_warm_up_ends_at_the_peak_and_cosine_at_the_floor():
    schedule = Schedule(peak=1.0, total=12, warmup=3, shape=Scheduler.COSINE, floor=0.1)
    rates = [schedule.rate(step) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert schedule.rate(12) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        (Scheduler.CONSTANT, [1, 1, 1, 1, 1, 1, 1, 1]),
        (Scheduler.LINEAR, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (
            Scheduler.COSINE,
            [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602],
        ),
        (Scheduler.COSINE_WITH_RESTARTS, [1, 0.8535534, 0.5, 0.1464466] * 2),
        (
            Scheduler.INVERSE_SQRT,
            [1, 0.7071068, 0.5773503, 0.5, 0.4472136, 0.4082483, 0.3779645, 0.3535534],
        ),
        (Scheduler.WARMUP_STABLE_DECAY, [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
    ],
    ids=str,
)
def test_every_shape_takes_its_known_values(shape, rates):
    schedule = Schedule(peak=1.0, total=8, warmup=0, shape=shape, cycles=2, decay=0.5)
    assert [schedule.rate(step) for step in range(8)] == pytest.approx(rates, abs=1e-7)


@pytest.mark.parametrize("shape", list(Scheduler), ids=str)
def test_no_shape_leaves_the_room_between_floor_and_peak(shape):
    schedule = Schedule(peak=2.0, total=50, warmup=5, shape=shape, floor=0.25, cycles=3)
    rates = [schedule.rate(step) for step in range(5, 50)]
    assert rates[0] == 2.0
    assert min(rates) >= 0.5
    assert max(rates) == 2.0


@pytest.mark.parametrize(
    ("shape", "field", "value"),
    [
        (Scheduler.COSINE_WITH_RESTARTS, "cycles", 4),
        (Scheduler.WARMUP_STABLE_DECAY, "decay", 0.5),
        (Scheduler.LINEAR, "floor", 0.2),
        (Scheduler.INVERSE_SQRT, "warmup", 7),
    ],
    ids=str,
)
def test_a_setting_of_a_shape_changes_the_curve(shape, field, value):
    plain = Schedule(peak=1.0, total=20, warmup=2, shape=shape)
    changed = Schedule(**{**plain.__dict__, field: value})
    assert [plain.rate(step) for step in range(20)] != [changed.rate(step) for step in range(20)]


def test_a_run_that_is_all_warm_up_has_finite_rates():
    schedule = Schedule(peak=1.0, total=4, warmup=4, shape=Scheduler.LINEAR)
    assert [schedule.rate(step) for step in range(4)] == [0.2, 0.4, 0.6, 0.8]
