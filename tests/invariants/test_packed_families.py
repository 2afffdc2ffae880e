"""Samples that share a micro-batch do not see each other, in every family of models."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune_trainer.data import micro_batch
from finetune_trainer.token_cache import TokenCache
from one_rank import one_rank
from tiny_models import FAMILIES, PADDED, tiny_model
from toy_llama import VOCABULARY, token_cache

SAMPLES = 6
CACHE = token_cache(SAMPLES)
CHANGED, KEPT = 1, 4
"""Samples of one micro-batch: changing the one must leave the other as it is."""
families = pytest.mark.parametrize("family", FAMILIES)


def task_of(folder, family, adapter="None"):
    run = one_rank(
        folder / "run",
        tiny_model(folder / "model", family),
        CACHE,
        {"globalBatchSize": SAMPLES, "totalSteps": 1, "stepsPerEpoch": 1, "maxTokensPerDevice": 200}
        | PADDED.get(family, {}),
        adapter={"type": adapter},
    )
    return run.engine.task.eval(), {"padded": family in PADDED}


def library_losses(folder, family, sample):
    """Return -log p of a sample's supervised tokens by the library's own model, alone in a row."""
    attention = "eager" if family in PADDED else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation=attention)
    part = slice(CACHE.offsets[sample], CACHE.offsets[sample + 1])
    tokens = torch.from_numpy(CACHE.tokens[part].astype("int64"))
    with torch.no_grad():
        shares = model(input_ids=tokens[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    losses = -shares.gather(1, tokens[1:, None])[:, 0]
    return losses[torch.from_numpy(CACHE.flags[part][1:] == 1)]


@families
def test_every_sample_of_a_micro_batch_has_the_losses_the_library_gives_it_alone(tmp_path, family):
    task, form = task_of(tmp_path, family)
    packed = task.row_losses(micro_batch(CACHE, range(SAMPLES), 1.0, **form))
    alone = torch.cat([library_losses(tmp_path, family, i) for i in range(SAMPLES)])
    torch.testing.assert_close(packed, alone, rtol=0, atol=2e-6)


@families
@pytest.mark.parametrize("adapter", ["None", "LoRA"], ids=["full", "LoRA"])
def test_changing_one_sample_leaves_the_gradient_of_another_bit_for_bit(tmp_path, family, adapter):
    task, form = task_of(tmp_path, family, adapter)
    for name, parameter in task.model.named_parameters():
        if "lora_B" in name:  # zeros would hide what passes through the adapters
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    start, end = CACHE.offsets[CHANGED : CHANGED + 2]
    tokens = CACHE.tokens.copy()
    tokens[start:end] = (tokens[start:end] + 7) % VOCABULARY
    other = TokenCache(tokens, CACHE.flags, CACHE.offsets, CACHE.rows)
    before, after = (gradient_of_kept(task, cache, form) for cache in (CACHE, other))
    assert any(gradient.any() for gradient in before.values())
    for name, gradient in before.items():
        assert torch.equal(after[name], gradient), name


def gradient_of_kept(task, cache, form):
    """Return the gradient of one sample's loss, all samples lying in the same micro-batch."""
    batch = micro_batch(cache, range(SAMPLES), 1.0, **form)
    owners = torch.repeat_interleave(torch.arange(SAMPLES), torch.from_numpy(cache.supervised))
    batch.weights.mul_((owners == KEPT).float())
    task.zero_grad(set_to_none=True)
    task(batch).backward()
    named = task.model.named_parameters()
    return {name: one.grad.clone() for name, one in named if one.requires_grad}
