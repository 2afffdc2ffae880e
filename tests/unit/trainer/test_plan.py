"""The step plan: the worked example as golden value, and what holds for every plan."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from finetune_api.training_settings import LossAveraging
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.packing import borders, deal, pack, pack_padded
from finetune_trainer.plan import ORDER, PlainIndex, Plan, PlanSettings, mix, order

LENGTHS = [9, 7, 6, 3, 8, 4, 5, 2, 10, 6]
SUPERVISED = [4, 3, 2, 1, 4, 2, 3, 1, 5, 3]
EPOCHS = [[4, 6, 5, 9, 2, 3, 8, 7, 0, 1], [5, 9, 0, 4, 6, 3, 2, 8, 7, 1]]


def example(**changes) -> Plan:
    settings = {"seed": 1, "samples": 4, "budget": 12, "grain": 2, "epochs": 2.0} | changes
    return Plan(LENGTHS, SUPERVISED, PlanSettings(**settings))


def chats(count: int, **changes) -> Plan:
    drawn = random.Random(5)
    lengths = [min(512, 2 + int(drawn.lognormvariate(4, 0.9))) for _ in range(count)]
    settings = {"seed": 9, "samples": 16, "budget": 700, "grain": 3} | changes
    return Plan(lengths, [1] * count, PlanSettings(**settings, square_cost=1, token_cost=64))


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_order_of_an_epoch_is_the_recorded_one(epoch):
    assert order(10, 1, epoch).tolist() == EPOCHS[epoch]


def test_the_vectorised_order_sorts_by_the_scalar_function():
    expected = sorted(range(500), key=lambda i: (mix(3, ORDER, 7, i), i))
    assert order(500, 3, 7).tolist() == expected


@pytest.mark.parametrize(
    ("number", "tokens", "supervised", "micro_batches"),
    [
        pytest.param(0, 23, 12, ((4, 5), (9, 6)), id="first"),
        pytest.param(1, 21, 9, ((8,), (2, 3, 7)), id="second"),
        pytest.param(2, 16, 7, ((0,), (1,)), id="short last step"),
        pytest.param(4, 24, 11, ((8,), (2,), (6,), (3,)), id="a second grain is needed"),
    ],
)
def test_a_step_is_the_recorded_one(number, tokens, supervised, micro_batches):
    step = example().step(number)
    assert (step.tokens, step.supervised) == (tokens, supervised)
    assert step.micro_batches == micro_batches


@pytest.mark.parametrize(
    ("world", "hands"),
    [
        pytest.param(1, [[0, 1, 2, 3]], id="one rank"),
        pytest.param(2, [[0, 3], [1, 2]], id="two ranks"),
        pytest.param(3, [[0, None], [1, None], [2, 3]], id="three ranks, two idle once"),
    ],
)
def test_micro_batches_are_dealt_as_recorded(world, hands):
    plan = example()
    assert plan.hands(plan.step(4), world) == hands


def test_token_sized_steps_are_cut_as_recorded():
    plan = example(samples=0, tokens=24)
    first = plan.steps_per_epoch
    steps = [plan.step(first + n).samples for n in range(plan.total_steps - first)]
    assert steps == [(5, 9, 0), (4, 6, 3, 2), (8, 7, 1)]


def test_every_sample_comes_once_per_epoch_in_plan_order():
    plan = chats(203)
    seen = [i for n in range(plan.steps_per_epoch) for i in plan.step(n).samples]
    assert seen == order(203, 9, 0).tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_run_equally_many_micro_batches_and_each_is_run_once(world):
    plan = chats(203)
    for number in range(plan.steps_per_epoch):
        step = plan.step(number)
        hands = plan.hands(step, world)
        assert len({len(hand) for hand in hands}) == 1
        dealt = sorted(n for hand in hands for n in hand if n is not None)
        assert dealt == list(range(len(step.micro_batches)))


def test_no_micro_batch_exceeds_the_budget_and_their_number_fits_the_grain():
    plan = chats(203)
    for number in range(plan.total_steps):
        bins = plan.step(number).micro_batches
        assert len(bins) % 3 == 0
        lengths = plan.index(0).lengths
        assert max(lengths[list(one)].sum() for one in bins) <= 700
        assert sorted(i for one in bins for i in one) == sorted(plan.step(number).samples)


def test_a_step_needs_no_earlier_step():
    assert chats(203).step(12) == [chats(203).step(n) for n in range(13)][12]


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        pytest.param({"epochs": 2.0}, 6, id="whole epochs"),
        pytest.param({"epochs": 0.5}, 2, id="half an epoch, rounded up"),
        pytest.param({"epochs": 1.1}, 4, id="a tenth of three steps is one"),
        pytest.param({"max_steps": 5}, 5, id="steps given"),
        pytest.param({"drop_last": True}, 4, id="short steps dropped"),
        pytest.param({"samples": 0, "tokens": 24, "epochs": 2.0}, 6, id="token-sized"),
    ],
)
def test_the_number_of_steps_is_known_before_the_first(changes, total):
    assert example(**changes).total_steps == total


def test_epoch_ends_are_found_with_token_sized_steps_too():
    plan = example(samples=0, tokens=24)
    ends = [n for n in range(plan.total_steps) if plan.epoch_end(n)]
    assert ends == [plan.steps_per_epoch - 1, plan.total_steps - 1]
    assert plan.epoch_after(ends[0]) == 1.0


def test_the_identity_ignores_what_only_changes_speed():
    identity = example().identity("sha256:a")
    assert example(budget=64, grain=1, padded=True).identity("sha256:a") == identity
    assert example().identity("sha256:b") != identity


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"samples": 5},
        {"samples": 0, "tokens": 24},
        {"epochs": 3.0},
        {"drop_last": True},
        {"changes": {"skip": 0.1}},
    ],
    ids="+".join,
)
def test_the_identity_depends_on_whatever_decides_which_samples_meet(changes):
    assert example(**changes).identity("sha256:a") != example().identity("sha256:a")


def test_averaging_is_no_part_of_the_steps():
    plans = [example(averaging=one) for one in LossAveraging]
    assert plans[0].step(1) == plans[1].step(1)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("size", [{"samples": 16}, {"samples": 0, "tokens": 2000}], ids=str)
def test_speed_settings_never_change_which_samples_form_a_step(size, padded):
    plain, other = chats(203, **size), chats(203, **size, budget=1400, grain=2, padded=padded)
    assert [plain.step(n).samples for n in range(12)] == [other.step(n).samples for n in range(12)]


@pytest.mark.parametrize("tokens", [600, 1000, 5000])
def test_a_step_of_tokens_takes_samples_until_the_next_would_exceed_it(tokens):
    plan = chats(203, samples=0, tokens=tokens)
    lengths = plan.index(0).lengths
    steps = [plan.step(n) for n in range(plan.steps_per_epoch)]
    assert [i for step in steps for i in step.samples] == order(203, 9, 0).tolist()
    for step, following in pairwise(steps):
        assert step.tokens <= tokens < step.tokens + lengths[following.samples[0]]


def test_dropping_the_last_batch_leaves_whole_steps_of_every_epoch():
    plan = example(drop_last=True)
    assert [plan.step(n).samples for n in range(4)] == [
        (4, 6, 5, 9),
        (2, 3, 8, 7),
        (5, 9, 0, 4),
        (6, 3, 2, 8),
    ]
    tokens = example(samples=0, tokens=24, drop_last=True)
    assert [tokens.step(2).samples, tokens.step(3).samples] == [(5, 9, 0), (4, 6, 3, 2)]


def test_an_epoch_is_planned_by_its_own_lengths():
    """Sample 5 stands first in epoch 1 and has 11 tokens there: alone it fills a step."""
    longer = [11 if i == 5 else n for i, n in enumerate(LENGTHS)]
    indices = [PlainIndex(np.array(n), np.array(SUPERVISED)) for n in (LENGTHS, longer)]
    settings = PlanSettings(seed=1, tokens=16, budget=12, epochs=2.0)
    plan = Plan(LENGTHS, SUPERVISED, settings, lambda epoch: indices[epoch])
    first = plan.steps_per_epoch
    assert plan.step(first).samples == (5,)
    assert plan.step(first).tokens == 11
    assert Plan(LENGTHS, SUPERVISED, settings).step(first).samples == (5, 9)


def test_padded_micro_batches_count_every_row_as_long_as_the_longest():
    bins = pack_padded(range(10), LENGTHS, budget=20, grain=4)
    assert bins == [[8, 0], [4, 1], [2, 9, 6], [5, 3, 7]]
    assert pack_padded([8, 0, 3], LENGTHS, budget=10, grain=4) == [[8], [0], [3], []]


def test_borders_of_steps_are_found_for_one_sample_and_for_none_beyond():
    assert borders([5], 5) == [0, 1]
    assert borders([5, 5, 1, 4], 5) == [0, 1, 2, 4]


def test_a_sample_longer_than_the_budget_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="maxTokensPerDevice: 9"):
        example(budget=9)


def test_packing_opens_bins_only_by_whole_grains():
    assert [len(pack([0, 1, 2], [5, 5, 5], 5, grain)) for grain in (1, 2, 4)] == [3, 4, 4]


def test_dealing_balances_what_is_left_after_the_heaviest():
    costs = [100, 60, 50, 10]
    loads = [sum(costs[n] for n in hand if n is not None) for hand in deal(costs, 2)]
    assert loads == [110, 110]
