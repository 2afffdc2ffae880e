"""Noise on embeddings: its scale, its keys, and that only training sees it."""

from __future__ import annotations

import math

import pytest
import torch

from finetune_trainer.data import micro_batch
from finetune_trainer.noise import noisy
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from toy_llama import token_cache
from toy_task import toy_engine

CACHE = token_cache(8)


def noise(samples, *, alpha=5.0, seed=3, step=0, number=0, padded=False):
    batch = micro_batch(CACHE, samples, 1.0, step=step, number=number, padded=padded)
    return noisy(torch.zeros(*batch.tokens.shape, 512), batch, alpha, seed)


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
def test_noise_is_scaled_by_the_length_of_the_own_sample(padded):
    drawn = noise(range(8), padded=padded)
    start = 0
    for i, length in enumerate(CACHE.lengths.tolist()):
        own = drawn[i, :length] if padded else drawn[0, start : start + length]
        bound = 5.0 / math.sqrt(length * 512)
        assert 0.97 * bound < own.abs().max() <= bound
        assert own.mean().abs() < 0.1 * bound
        start += length


def test_noise_is_keyed_by_seed_step_and_micro_batch():
    plain = noise([0, 1])
    assert torch.equal(plain, noise([0, 1]))
    for other in (noise([0, 1], seed=4), noise([0, 1], step=1), noise([0, 1], number=1)):
        assert not torch.equal(plain, other)


def test_the_noise_setting_changes_training_and_leaves_evaluation_alone(tmp_path):
    model = toy_engine(tmp_path).task.model
    batch = micro_batch(CACHE, range(4), 1.0)
    plain, noised = (CausalLanguageModelling(model, 5, noise=alpha) for alpha in (0.0, 30.0))
    assert plain(batch).item() != noised(batch).item()
    assert noised(batch).item() == noised(batch).item()
    noised.eval()
    plain.eval()
    assert torch.equal(plain.row_losses(batch), noised.row_losses(batch))


def test_without_noise_embeddings_given_are_the_ids_given(tmp_path):
    model = toy_engine(tmp_path).task.model
    batch = micro_batch(CACHE, range(4), 1.0)
    plain, faint = (CausalLanguageModelling(model, 5, noise=alpha) for alpha in (0.0, 1e-12))
    assert faint(batch).item() == pytest.approx(plain(batch).item(), abs=1e-6)
