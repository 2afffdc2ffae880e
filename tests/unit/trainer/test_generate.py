"""Generation: batching changes no answer, rows end on their own, sampling belongs to the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import finetune_trainer.generate as generation
from finetune_trainer.generate import Decoding, Prompt, generate
from finetune_trainer.model import load_base
from toy_llama import toy_llama_folder

PROMPTS = [
    Prompt("a", (5, 6, 7)),
    Prompt("b", (9,)),
    Prompt("c", tuple(range(20, 33))),
    Prompt("d", (40, 2)),
]
GREEDY = Decoding(max_new_tokens=8, stop=frozenset())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return load_base(toy_llama_folder(tmp_path_factory.mktemp("toy")), torch.float32)


@pytest.mark.parametrize(
    "decoding",
    [GREEDY, replace(GREEDY, do_sample=True, temperature=2.0, top_p=0.9, seed=3)],
    ids=["greedy", "sampled"],
)
def test_an_answer_does_not_depend_on_its_batch(model, monkeypatch, decoding):
    together = generate(model, PROMPTS, decoding)
    monkeypatch.setattr(generation, "BATCH", 1)
    assert generate(model, PROMPTS[::-1], decoding) == together


def test_greedy_answers_equal_those_of_the_library(model):
    ours = generate(model, PROMPTS[:1], GREEDY)["a"]
    model.set_attn_implementation("sdpa")
    tokens = torch.tensor([PROMPTS[0].tokens])
    theirs = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
    )
    model.set_attn_implementation("segments")
    assert theirs[0, 3:].tolist() == ours


def test_a_row_ends_before_its_stop_token_while_others_go_on(model):
    whole = generate(model, PROMPTS, GREEDY)
    stop = whole["a"][2]
    ended = generate(model, PROMPTS, replace(GREEDY, stop=frozenset({stop})))
    for name, tokens in whole.items():
        cut = tokens.index(stop) if stop in tokens else len(tokens)
        assert ended[name] == tokens[:cut]


def test_sampling_repeats_with_the_seed_and_differs_with_another(model):
    hot = replace(GREEDY, do_sample=True, temperature=3.0)
    assert generate(model, PROMPTS, hot) == generate(model, PROMPTS, hot)
    assert generate(model, PROMPTS, hot) != generate(model, PROMPTS, replace(hot, seed=1))


def test_a_small_top_p_leaves_the_greedy_token(model):
    narrow = replace(GREEDY, do_sample=True, top_p=1e-6)
    assert generate(model, PROMPTS, narrow) == generate(model, PROMPTS, GREEDY)


def test_the_context_bounds_the_answer(model):
    long = Prompt("long", tuple(2 + i % 50 for i in range(125)))
    assert len(generate(model, [long], GREEDY)["long"]) == 3


def test_generation_leaves_attention_and_mode_as_they_were(model):
    model.train()
    generate(model, PROMPTS[:1], GREEDY)
    assert model.training
    assert model.config._attn_implementation == "segments"
