"""The choice of a token: shares as transformers' warpers leave them, drawn as often as they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from finetune_trainer.decoding import Decoding
from finetune_trainer.token_choice import candidates, next_tokens

GREEDY = Decoding(max_new_tokens=20, stop=frozenset())


@pytest.mark.parametrize(
    ("ours", "warper"),
    [
        pytest.param({"temperature": 0.4}, TemperatureLogitsWarper(0.4), id="temperature"),
        pytest.param({"top_k": 5}, TopKLogitsWarper(5), id="top k"),
        pytest.param({"top_p": 0.6}, TopPLogitsWarper(0.6), id="top p"),
        pytest.param({"min_p": 0.3}, MinPLogitsWarper(0.3), id="min p"),
    ],
)
def test_a_sampling_setting_leaves_the_shares_the_library_leaves(ours, warper):
    logits = torch.randn(7, 40, generator=torch.Generator().manual_seed(2)) * 3
    assert_same_shares(logits, replace(GREEDY, do_sample=True, **ours), [warper])


def test_all_sampling_settings_act_in_the_librarys_order():
    logits = torch.randn(9, 60, generator=torch.Generator().manual_seed(3)) * 2
    decoding = replace(GREEDY, do_sample=True, temperature=0.7, top_k=20, top_p=0.8, min_p=0.1)
    warpers = [
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.8),
        MinPLogitsWarper(0.1),
    ]
    assert_same_shares(logits, decoding, warpers)


def assert_same_shares(logits, decoding, warpers):
    shares, ids = candidates(logits, decoding)
    found = torch.zeros_like(logits).scatter(1, ids, shares / shares.sum(-1, keepdim=True))
    theirs = LogitsProcessorList(warpers)(torch.zeros(len(logits), 1).long(), logits.clone())
    torch.testing.assert_close(found, theirs.softmax(-1))


def test_tokens_are_drawn_as_often_as_their_shares_say():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(4000, 4)
    drawn = torch.arange(4000) / 4000
    decoding = replace(GREEDY, do_sample=True)
    chosen = next_tokens(logits, decoding, seen_BV=None, uniforms_B=drawn)
    found = torch.bincount(chosen, minlength=4) / 4000
    torch.testing.assert_close(found, logits[0].softmax(-1), atol=1e-3, rtol=0)


def test_the_largest_random_number_never_draws_what_was_left_out():
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    decoding = replace(GREEDY, do_sample=True, top_p=0.5)
    chosen = next_tokens(logits, decoding, seen_BV=None, uniforms_B=torch.tensor([1.0]))
    assert chosen.tolist() == [0]
