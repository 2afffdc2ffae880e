"""Which architectures may share a row is proven on each loaded model, and known beforehand."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from finetune_api.model_shape import OWN_ATTENTION, model_shape
from finetune_trainer.attention import padded_attention, takes_segments
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.probes import check_loss, probe, samples_stay_apart
from finetune_trainer.problems.causal_lm import CausalLanguageModelling

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
LINEAR = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
SMALL_HEADS = {"head_dim": 8}


def task(family, **sizes):
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **(SIZES | sizes))
    attention = "segments" if takes_segments(config) else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return CausalLanguageModelling(model, 5)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        pytest.param("llama", {}, id="llama"),
        pytest.param("qwen2", {}, id="qwen2"),
        pytest.param("qwen3", SMALL_HEADS, id="qwen3"),
        pytest.param("gemma", SMALL_HEADS, id="gemma"),
        pytest.param("gemma3_text", SMALL_HEADS, id="gemma3"),
        pytest.param("mistral", {"sliding_window": 4}, id="mistral with a window"),
        pytest.param("mixtral", EXPERTS, id="mixtral"),
        pytest.param("phi", {}, id="phi"),
        pytest.param("phi3", {}, id="phi3"),
        pytest.param("granite", {}, id="granite"),
        pytest.param("cohere", {}, id="cohere"),
        pytest.param("gpt2", GPT2, id="gpt2"),
        pytest.param("gpt_neox", {}, id="gpt-neox"),
    ],
)
def test_samples_of_known_families_share_a_row_without_seeing_each_other(family, sizes):
    loaded = task(family, **sizes)
    probe(loaded)
    assert model_shape(loaded.model.config.to_dict()).unpackable == ""


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        pytest.param("gemma2", SMALL_HEADS, id="soft-capped scores"),
        pytest.param("gpt_oss", EXPERTS | SMALL_HEADS, id="sinks"),
        pytest.param("mamba", {"state_size": 4}, id="mamba"),
        pytest.param("qwen3_next", LINEAR, id="linear attention"),
        pytest.param("bloom", {"n_layer": 2, "n_head": 4}, id="positions as biases"),
    ],
)
def test_other_families_are_found_out_and_right_in_rows_of_their_own(family, sizes):
    loaded = task(family, **sizes)
    assert not samples_stay_apart(loaded)
    assert model_shape(loaded.model.config.to_dict()).unpackable != ""
    config = loaded.model.config
    loaded.model.set_attn_implementation(padded_attention(config, "SDPA"))
    check_loss(loaded, padded=True)


def test_families_with_attention_of_their_own_are_not_even_tried():
    config = AutoConfig.for_model("stablelm", **SIZES)
    assert not takes_segments(config)
    assert "from outside" in model_shape(config.to_dict()).unpackable


def test_a_head_that_the_loss_does_not_know_is_refused():
    loaded = task("llama")
    loaded.model.register_forward_hook(lambda *call: call[-1].__class__(logits=call[-1].logits * 2))
    with pytest.raises(ConfigurationError, match="head of LlamaForCausalLM"):
        check_loss(loaded)


def test_probing_leaves_mode_and_attention_as_they_were():
    loaded = task("llama").train()
    probe(loaded)
    assert loaded.training
    assert loaded.model.config._attn_implementation == "segments"


def test_the_list_of_families_with_attention_of_their_own_is_the_librarys():
    own = {
        family
        for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if not MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]]._supports_attention_backend
    }
    assert own == OWN_ATTENTION
