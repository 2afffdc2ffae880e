"""Weights of rows: a mean over tokens, or over samples of each one's mean."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_api.training_settings import LossAveraging
from finetune_trainer.data import micro_batch
from finetune_trainer.losses import RowWeights
from toy_llama import token_cache

CACHE = token_cache(6)
ROWS = CACHE.supervised.tolist()


@pytest.mark.parametrize("cuts", [[range(6)], [[0, 1], [2], [3, 4, 5]]], ids=["one", "three"])
def test_with_samples_every_sample_weighs_the_same_however_the_step_is_cut(cuts):
    weights = RowWeights(LossAveraging.SAMPLES, supervised=sum(ROWS), samples=6)
    found = np.concatenate([micro_batch(CACHE, one, weights).weights.numpy() for one in cuts])
    borders = np.cumsum(ROWS)[:-1]
    assert [part.sum() for part in np.split(found, borders)] == pytest.approx([1 / 6] * 6)


def test_with_tokens_every_token_weighs_the_same():
    weights = RowWeights(LossAveraging.TOKENS, supervised=sum(ROWS), samples=6)
    found = micro_batch(CACHE, range(6), weights).weights
    assert found.tolist() == pytest.approx([1 / sum(ROWS)] * sum(ROWS))
