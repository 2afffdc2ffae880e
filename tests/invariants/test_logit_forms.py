"""Heads that scale, cap, shift or adapt their logits: our loss is the library's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from finetune_trainer.data import micro_batch
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.losses import ONE_EACH
from finetune_trainer.probes import check_loss
from finetune_trainer.problems import causal_lm
from finetune_trainer.problems.causal_lm import CausalLanguageModelling
from finetune_trainer.row_loss import PLAIN
from tiny_models import SHAPE
from toy_llama import token_cache

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

HEADS: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 8, "query_pre_attn_scalar": 8},
    "phi": {},
}
"""Models with scaled, scaled, capped logits, and with a biased head."""


def task_of(family: str, smoothing: float = 0.0) -> CausalLanguageModelling:
    config = CONFIG_MAPPING[family](**SHAPE | HEADS[family])
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one) * 0.2)
    return CausalLanguageModelling(model, 3, smoothing)


@pytest.mark.parametrize("family", HEADS)
def test_the_loss_and_its_gradients_are_the_librarys_own(family):
    task, cache = task_of(family, smoothing=0.1), token_cache(1, longest=20)
    batch = micro_batch(cache, [0], ONE_EACH, padded=True)
    task(batch).backward()
    ours = {name: one.grad.clone() for name, one in task.named_parameters()}
    task.zero_grad()
    logits = task.model(input_ids=batch.tokens, use_cache=False).logits[0, batch.rows]
    F.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=0.1).backward()
    for name, one in task.named_parameters():
        torch.testing.assert_close(ours[name], one.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma2"])
def test_a_form_that_the_loss_does_not_know_is_found_at_the_start(family, monkeypatch):
    check_loss(task_of(family), padded=True)
    monkeypatch.setattr(causal_lm, "logit_form", lambda *_: PLAIN)
    with pytest.raises(ConfigurationError, match="changes its logits"):
        check_loss(task_of(family), padded=True)


def test_an_adapter_on_the_head_trains_through_the_heads_own_forward():
    import peft

    task = task_of("granite")
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")
    adapted = CausalLanguageModelling(peft.get_peft_model(task.model, config), 3)
    batch = micro_batch(token_cache(1, longest=20), [0], ONE_EACH, padded=True)
    adapted(batch).backward()
    moved = {
        name: one.grad.abs().max()
        for name, one in adapted.named_parameters()
        if one.grad is not None
    }
    assert {name.rpartition("lm_head.")[2] for name in moved} == {
        "lora_A.default.weight",
        "lora_B.default.weight",
    }
    assert moved.popitem()[1] > 0
