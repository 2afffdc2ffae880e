"""Merging by tensor gives the weights that PEFT's own merge gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from finetune_trainer.export_artifact import tied_weights
from finetune_trainer.merge import (
    MergedWeights,
    MergeFailedError,
    SafetensorsFolder,
    trained_weights,
)
from finetune_trainer.weight_shards import TensorPlan

# PEFT 0.21 still asks transformers 5 by the old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing.:FutureWarning", "ignore:fan_in_fan_out is set:UserWarning"
)
SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def qwen() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2))


def trained(model: PreTrainedModel, folder: Path, *, rslora: bool = False):
    """Write a checkpoint of a random adapter and return the model that PEFT merges."""
    folder.mkdir()
    config = LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", use_rslora=rslora)
    wrapped = get_peft_model(model, config)
    for name, value in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.3)
    tensors = {
        name.replace(".default.", "."): value.detach().clone()
        for name, value in wrapped.named_parameters()
        if "lora_" in name
    }
    save_file(tensors, folder / "trainable-00000-of-00001.safetensors")
    settings = {
        "lora_alpha": 32,
        "use_rslora": rslora,
        "fan_in_fan_out": wrapped.peft_config["default"].fan_in_fan_out,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return wrapped.merge_and_unload()


def merged(base: Path, checkpoint: Path, dtype: torch.dtype = torch.float32) -> MergedWeights:
    return MergedWeights(
        SafetensorsFolder(base), trained_weights(checkpoint), dtype, tied_weights(base)
    )


@pytest.mark.parametrize("rslora", [False, True], ids=["alpha / r", "alpha / sqrt r"])
@pytest.mark.parametrize("build", [llama, qwen, gpt2])
def test_the_merged_tensors_are_those_of_peft(tmp_path: Path, build, rslora: bool):
    model = build()
    model.save_pretrained(tmp_path / "base")
    expected = trained(model, tmp_path / "checkpoint", rslora=rslora).state_dict()
    found = merged(tmp_path / "base", tmp_path / "checkpoint")
    names = [plan.name for plan in found.plans()]
    assert set(names) == set(load_file(tmp_path / "base" / "model.safetensors"))
    for name in names:
        torch.testing.assert_close(found.tensor(name), expected[name], rtol=1e-6, atol=1e-6)


def test_base_files_without_the_inner_models_prefix_are_merged_too(tmp_path: Path):
    model = gpt2()
    model.save_pretrained(tmp_path / "base")
    expected = trained(model, tmp_path / "checkpoint").state_dict()
    path = tmp_path / "base" / "model.safetensors"
    short = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    save_file(short, path, metadata={"format": "pt"})
    found = merged(tmp_path / "base", tmp_path / "checkpoint")
    name = "h.0.attn.c_attn.weight"
    torch.testing.assert_close(found.tensor(name), expected[f"transformer.{name}"])


def test_sums_are_taken_in_32_bit_whatever_the_result_is_held_in(tmp_path: Path):
    model = llama()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    trained(model.float(), tmp_path / "checkpoint")
    name = "model.layers.0.mlp.up_proj.weight"
    exact = merged(tmp_path / "base", tmp_path / "checkpoint").tensor(name)
    rounded = merged(tmp_path / "base", tmp_path / "checkpoint", torch.bfloat16).tensor(name)
    assert torch.equal(rounded, exact.to(torch.bfloat16))


def test_a_trained_tensor_without_a_place_in_the_base_is_refused(tmp_path: Path):
    model = llama()
    model.save_pretrained(tmp_path / "base")
    trained(model, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "trainable-00000-of-00001.safetensors"
    save_file(load_file(path) | {"score.weight": torch.zeros(1, 16)}, path)
    with pytest.raises(MergeFailedError, match=r"score\.weight was trained"):
        merged(tmp_path / "base", tmp_path / "checkpoint")


def test_adapters_with_settings_the_merge_does_not_know_are_refused(tmp_path: Path):
    model = llama()
    trained(model, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(MergeFailedError, match="use_dora"):
        trained_weights(tmp_path / "checkpoint")


def test_planning_reads_no_tensor_and_keeps_whole_numbers(tmp_path: Path):
    save_file(
        {"counts": torch.tensor([1, 2]), "weight": torch.ones(2, dtype=torch.bfloat16)},
        tmp_path / "model.safetensors",
    )
    folder = SafetensorsFolder(tmp_path)
    found = MergedWeights(folder, trained_weights(tmp_path / "none"), torch.float32, {})
    assert sorted(found.plans(), key=str) == [
        TensorPlan("counts", torch.int64, (2,)),
        TensorPlan("weight", torch.float32, (2,)),
    ]
