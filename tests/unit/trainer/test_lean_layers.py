"""Lean layers compute what transformers' layers compute and keep what the memory formula says."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_trainer.lean_layers import lean

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"]


def toy(family: str, **settings):
    torch.manual_seed(2)
    config = AutoConfig.for_model(
        family,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return model


def parts(model, kind: str):
    return next(one for name, one in model.named_modules() if name.endswith(kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["input_layernorm", "mlp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_is_bit_equal_and_gradients_agree(family, kind, dtype):
    theirs, ours = (parts(toy(family).to(dtype), kind) for _ in range(2))
    assert lean(ours) == 1
    assert isinstance(ours, type(theirs))
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for module in (theirs, ours):
        given = x.clone().requires_grad_()
        y = module(given)
        (y.float() * torch.linspace(-1, 1, 32)).sum().backward()
        gradients = {name: one.grad for name, one in module.named_parameters()}
        results.append((y, given.grad, gradients))
    assert torch.equal(results[0][0], results[1][0])
    tolerance = 2e-6 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(results[1][1], results[0][1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(results[1][2], results[0][2], rtol=tolerance, atol=4 * tolerance)
    assert all(one.dtype is dtype for one in results[1][2].values())


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_of_the_listed_families_give_the_same_logits(family):
    model, tokens = toy(family).eval(), torch.arange(3, 15)[None]
    before = model(input_ids=tokens).logits
    names = list(model.state_dict())
    assert lean(model) >= 4
    assert lean(model) == 0
    assert torch.equal(model(input_ids=tokens).logits, before)
    assert list(model.state_dict()) == names


def test_an_activation_without_a_lean_form_keeps_the_library_forward():
    mlp = parts(toy("llama", hidden_act="relu"), "mlp")
    assert lean(mlp) == 0


def test_a_class_of_the_same_name_from_elsewhere_is_left_alone():
    class LlamaRMSNorm(torch.nn.Module):
        pass

    assert lean(LlamaRMSNorm()) == 0
