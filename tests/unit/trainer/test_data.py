"""Micro-batches as tensors: packed, padded, empty; their weights; what is built ahead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune_api.training_settings import LossAveraging
from finetune_trainer.data import Prefetch, micro_batch, rank_step
from finetune_trainer.losses import RowWeights
from finetune_trainer.plan import Plan, PlanSettings
from toy_llama import token_cache
from toy_task import gradients, toy_engine

CACHE = token_cache(8)


def test_a_padded_micro_batch_has_a_sample_per_row_and_flat_labelled_rows():
    batch = micro_batch(CACHE, [2, 5], 1.0, padded=True)
    lengths = CACHE.lengths[[2, 5]].tolist()
    assert batch.layout is None
    assert batch.lengths.tolist() == lengths
    assert batch.tokens.shape == (2, max(lengths))
    for row, (i, length) in enumerate(zip([2, 5], lengths, strict=True)):
        assert batch.tokens[row, :length].tolist() == CACHE.sample(i)[0].tolist()
        assert not batch.tokens[row, length:].any()
    assert batch.positions.tolist() == [list(range(max(lengths)))] * 2
    assert torch.equal(batch.tokens.flatten()[batch.rows + 1], batch.labels)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_rows_and_labels_are_those_of_each_sample_alone(padded):
    batch = micro_batch(CACHE, range(8), 1.0, padded=padded)
    alone = [micro_batch(CACHE, [i], 1.0) for i in range(8)]
    assert batch.labels.tolist() == [one for each in alone for one in each.labels.tolist()]
    assert len(batch.rows) == int(CACHE.supervised.sum())


def test_padded_rows_have_the_losses_of_packed_ones(tmp_path):
    task = toy_engine(tmp_path).task
    packed = task.row_losses(micro_batch(CACHE, range(8), 1.0))
    causal = task.model.config
    causal._attn_implementation = "sdpa"
    padded = task.row_losses(micro_batch(CACHE, range(8), 1.0, padded=True))
    torch.testing.assert_close(padded, packed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_an_empty_micro_batch_is_one_token_without_a_label(padded):
    batch = micro_batch(CACHE, [], 1.0, padded=padded)
    assert batch.tokens.tolist() == [[0]]
    assert len(batch.rows) == len(batch.labels) == len(batch.weights) == 0


def test_rows_weigh_what_the_averaging_says():
    counts = CACHE.supervised[[1, 3]].tolist()
    tokens = micro_batch(CACHE, [1, 3], RowWeights(LossAveraging.TOKENS, 20, 5)).weights
    assert tokens.tolist() == pytest.approx([1 / 20] * sum(counts))
    samples = micro_batch(CACHE, [1, 3], RowWeights(LossAveraging.SAMPLES, 20, 5)).weights
    expected = [1 / (5 * count) for count in counts for _ in range(count)]
    assert samples.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("averaging", LossAveraging)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_weights_of_every_step_sum_to_one(averaging, world):
    settings = PlanSettings(seed=1, samples=5, budget=30, grain=2, averaging=averaging)
    plan = Plan(CACHE.lengths, CACHE.supervised, settings)
    for number in range(plan.total_steps):
        ranks = [rank_step(CACHE, plan, number, rank, world).batches for rank in range(world)]
        assert len({len(batches) for batches in ranks}) == 1
        assert sum(float(b.weights.sum()) for one in ranks for b in one) == pytest.approx(1.0)


def test_the_averaging_changes_the_gradient_of_a_step(tmp_path):
    found = []
    for averaging in LossAveraging:
        settings = PlanSettings(seed=1, samples=8, budget=400, averaging=averaging)
        plan = Plan(CACHE.lengths, CACHE.supervised, settings)
        (batch,) = rank_step(CACHE, plan, 0, 0, 1).batches
        found.append(toy_engine(tmp_path / averaging).task(batch).item())
    assert found[0] != pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("averaging", LossAveraging)
@pytest.mark.parametrize(("budget", "grain", "world"), [(30, 1, 1), (24, 2, 2), (60, 1, 3)])
def test_a_gradient_is_the_same_however_a_step_is_cut(tmp_path, averaging, budget, grain, world):
    def gradient(folder, **cut):
        settings = PlanSettings(seed=1, samples=8, averaging=averaging, **cut)
        plan, engine = Plan(CACHE.lengths, CACHE.supervised, settings), toy_engine(folder)
        for rank in range(world):
            for batch in rank_step(CACHE, plan, 0, rank, world).batches:
                engine.backward(engine.loss_sum(batch, last=True))
        return gradients(engine)

    whole = gradient(tmp_path / "whole", budget=400)
    split = gradient(tmp_path / "split", budget=budget, grain=grain)
    for name, expected in whole.items():
        torch.testing.assert_close(split[name], expected, rtol=0, atol=1e-6)


def test_items_come_in_order():
    assert list(Prefetch(lambda number: number * number, range(5))) == [0, 1, 4, 9, 16]


def test_an_error_of_the_thread_reaches_the_loop():
    with pytest.raises(ZeroDivisionError):
        list(Prefetch(lambda number: 1 // number, [1, 0]))


def test_a_closed_prefetch_builds_no_more():
    built = []
    prefetch = Prefetch(built.append, range(1000))
    next(iter(prefetch), None)
    prefetch.close()
    prefetch._thread.join(timeout=10)
    assert not prefetch._thread.is_alive()
    assert len(built) < 10


def test_a_micro_batch_keeps_its_layout_on_another_device():
    batch = micro_batch(CACHE, [0, 1], 1.0).to(torch.device("meta"))
    assert batch.layout is not None
    assert batch.layout.bounds_tensor.device.type == "meta"
    assert batch.layout.bounds == (0, *np.cumsum(CACHE.lengths[:2]).tolist())
