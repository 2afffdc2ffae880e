"""A base model is built as spec and plan say: first weights, dropout, type, attention, rows."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from finetune_api.model_settings import Attention
from finetune_api.training_settings import Mode
from finetune_trainer.attention import packed_attention
from finetune_trainer.base_form import base_form, run_type
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model_config import has_dropout, model_config
from finetune_trainer.router_balance import check_balance
from finetune_trainer.segments import SEGMENT_LOOP
from run_configs import run_config
from tiny_models import tiny_model
from toy_llama import toy_llama_folder

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return toy_llama_folder(tmp_path / "toy")


def built(folder, dtype=torch.float32, **options):
    return base_form(run_config(**options), folder, CPU).model(folder, dtype)


def weights(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


def test_random_weights_are_drawn_from_the_seed_alone(folder):
    torch.manual_seed(1)
    one = weights(built(folder, initialWeights="Random"))
    torch.manual_seed(2)
    again = weights(built(folder, initialWeights="Random"))
    other = weights(built(folder, initialWeights="Random", plan={"seed": 8}))
    loaded = weights(built(folder))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, loaded)


def test_drawing_weights_leaves_the_global_random_state(folder):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    built(folder, initialWeights="Random")
    assert torch.equal(torch.rand(1), expected)


def test_random_weights_need_no_files_of_weights(folder):
    (folder / "model.safetensors").unlink()
    assert weights(built(folder, initialWeights="Random")).isfinite().all()


def test_intermediate_dropout_sets_every_dropout_of_the_configuration(tmp_path):
    AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=4).save_pretrained(tmp_path)
    config = model_config(tmp_path, 0.25)
    assert (config.attn_pdrop, config.embd_pdrop, config.resid_pdrop) == (0.25, 0.25, 0.25)
    assert not has_dropout(model_config(tmp_path, 0.0))
    assert has_dropout(config)


def test_intermediate_dropout_changes_a_training_forward(folder):
    tokens = torch.arange(2, 12)[None]
    positions = torch.arange(10)[None]
    model = built(folder, intermediateDropout=0.5, attention="Eager", plan={"batching": "Padded"})
    model.train()
    torch.manual_seed(1)
    one = model(tokens, position_ids=positions, use_cache=False).logits
    torch.manual_seed(2)
    other = model(tokens, position_ids=positions, use_cache=False).logits
    assert not torch.equal(one, other)


def test_a_router_is_balanced_where_the_configuration_asks_and_the_run_trains(tmp_path):
    asked = tiny_model(
        tmp_path / "asked", "mixtral", output_router_logits=True, router_aux_loss_coef=0.25
    )
    form = base_form(run_config(), asked, CPU)
    assert (form.balance.coefficient, form.balance.experts, form.balance.chosen) == (0.25, 8, 2)
    assert not form.config.output_router_logits
    run = run_config()
    frozen = run.spec.model_copy(update={"mode": Mode.EVALUATE})
    evaluated = base_form(run.model_copy(update={"spec": frozen}), asked, CPU)
    assert (evaluated.balance, evaluated.config.output_router_logits) == (None, False)
    silent = tiny_model(tmp_path / "silent", "mixtral", router_aux_loss_coef=0.25)
    assert base_form(run_config(), silent, CPU).balance is None


def test_a_router_loss_that_is_defined_otherwise_is_refused_and_not_left_out(tmp_path):
    AutoConfig.for_model("jetmoe", output_router_logits=True).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="output_router_logits") as refused:
        check_balance(tmp_path)
    assert refused.value.reason == "UnsupportedModel"
    AutoConfig.for_model("jetmoe").save_pretrained(tmp_path)
    check_balance(tmp_path)


def test_dropout_is_refused_where_the_architecture_has_none(tmp_path):
    AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="intermediateDropout") as refused:
        model_config(tmp_path, 0.1)
    assert refused.value.reason == "DeadSetting"


@pytest.mark.parametrize(
    ("options", "name", "padded"),
    [
        ({"plan": {"attention": "SDPA"}}, SEGMENT_LOOP, False),
        ({"plan": {"attention": "Varlen"}}, SEGMENT_LOOP, False),
        ({"plan": {"attention": "SDPA", "batching": "Padded"}}, "sdpa", True),
        ({"plan": {"attention": "Eager", "batching": "Padded"}}, "eager", True),
    ],
    ids=["the loop", "planned kernel without GPU", "padded", "eager"],
)
def test_attention_is_the_planned_one_or_what_the_device_has_of_it(folder, options, name, padded):
    form = base_form(run_config(**options), folder, CPU)
    assert (form.attention, form.padded) == (name, padded)
    assert form.model(folder, torch.float32).config._attn_implementation == name


@pytest.mark.parametrize("asked", ["Varlen", "FlashAttention2", "FlashAttention3"])
def test_a_kernel_that_was_asked_for_is_refused_where_it_does_not_run(asked):
    with pytest.raises(ConfigurationError, match=f"model.attention: {asked} does not run"):
        packed_attention(Attention(asked), Attention(asked), torch.bfloat16, CPU)


def test_a_family_with_attention_of_its_own_gets_rows_of_its_own_unless_packed_was_asked(tmp_path):
    AutoConfig.for_model("bloom", hidden_size=32, n_layer=1, n_head=4).save_pretrained(tmp_path)
    assert base_form(run_config(), tmp_path, CPU).padded
    with pytest.raises(ConfigurationError, match="batching"):
        base_form(run_config(training={"batching": "Packed"}), tmp_path, CPU)


@pytest.mark.parametrize("dtype", ["BFloat16", "Float16", "Float32"])
def test_arithmetic_is_in_the_planned_type(dtype):
    found = run_type(run_config(plan={"computeDtype": dtype}), CPU)
    assert str(found).removeprefix("torch.") == dtype.lower()
