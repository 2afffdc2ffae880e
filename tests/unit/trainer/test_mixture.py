"""Epochs drawn from weighted sources."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from finetune_trainer.mixture import Mixture, shares
from finetune_trainer.plan import Plan, PlanSettings

SOURCES = np.array([0] * 60 + [1] * 30 + [2] * 10, np.uint8)


def plan(weights, seed=1, epochs=4.0):
    settings = PlanSettings(seed=seed, samples=7, budget=10, epochs=epochs)
    return Plan([5] * 100, [1] * 100, settings, mixture=Mixture(SOURCES, weights))


def epoch(weights, number, **more):
    one = plan(weights, **more)
    per = one.steps_per_epoch
    return [i for n in range(per * number, per * (number + 1)) for i in one.step(n).samples]


@pytest.mark.parametrize(
    ("weights", "counts"),
    [((1, 1, 1), [34, 33, 33]), ((3, 1, 1), [60, 20, 20]), ((1, 9, 0.001), [10, 90, 0])],
    ids=str,
)
def test_drawn_shares_equal_the_weights_within_one_record(weights, counts):
    for number in range(3):
        drawn = Counter(SOURCES[epoch(weights, number)].tolist())
        assert [drawn[source] for source in range(3)] == counts


def test_an_epoch_keeps_its_size():
    assert len(epoch((5, 1, 1), 2)) == 100


def test_records_repeat_only_where_a_source_is_used_up():
    """Source 0 of 60 gives 30 per epoch, source 2 of 10 gives 50."""
    drawn = [Counter(epoch((3, 2, 5), number)) for number in range(4)]
    for pair in (drawn[0] + drawn[1], drawn[2] + drawn[3]):
        assert {pair[i] for i in range(60)} == {1}
    for one in drawn:
        assert {one[i] for i in range(90, 100)} == {5}


def test_every_round_of_a_source_is_a_new_permutation():
    once = [i for i in epoch((3, 2, 5), 0) if i < 60]
    again = [i for i in epoch((3, 2, 5), 2) if i < 60]
    assert set(once) != set(again)


def test_an_epoch_needs_no_other_and_the_seed_decides():
    assert epoch((3, 1, 1), 3) == epoch((3, 1, 1), 3)
    assert epoch((3, 1, 1), 3) != epoch((3, 1, 1), 3, seed=2)


def test_a_source_without_samples_takes_no_share():
    drawn = Mixture(np.array([0, 0, 2, 2], np.uint8), (1, 8, 1)).entries(
        0, lambda source, number, count: np.arange(count)
    )
    assert sorted(drawn.tolist()) == [0, 1, 2, 3]


def test_shares_sum_to_the_total():
    for total in range(30):
        counts = shares(total, [0.2, 3, 1.1])
        assert sum(counts) == total
        assert all(
            abs(one - total * w / 4.3) < 1 for one, w in zip(counts, [0.2, 3, 1.1], strict=True)
        )
