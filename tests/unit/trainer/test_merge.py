"""Merging by tensor gives the weights that PEFT's own merge gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from finetune_api.model_settings import AdapterType
from finetune_trainer.artifact_files import model_config
from finetune_trainer.merge import (
    MergedWeights,
    MergeFailedError,
    SafetensorsFolder,
    trained_weights,
)
from finetune_trainer.merged_model import merged_weights, tied_weights, write_weights
from finetune_trainer.path_store import PathStore
from finetune_trainer.weight_shards import TensorPlan
from toy_llama import VOCABULARY
from unit.trainer.trained_toy import NEW, trained_toy

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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank_pattern": {"q_proj": 2}}))
    with pytest.raises(MergeFailedError, match="rank_pattern"):
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


TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def written(merged: MergedWeights, base: Path, folder: Path, rows: int = 0) -> PreTrainedModel:
    """Return what plain transformers loads from a merged model's files."""
    folder.mkdir()
    files = write_weights(PathStore(folder, "x"), merged, 20_000, lambda _: None)
    assert len(files) > 1
    (folder / "config.json").write_bytes(model_config(base, "float32", rows))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@TIED
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="LoRA"),
        pytest.param({"rslora": True, "layers": [1]}, id="rsLoRA on one block"),
        pytest.param({"type": AdapterType.DORA}, id="DoRA"),
        pytest.param({"modules_to_save": ["norm", "lm_head"]}, id="norm and head in full"),
        pytest.param({"modules_to_save": ["layers.0.mlp"], "kind": "NF4"}, id="NF4, an mlp whole"),
        pytest.param({"kind": "FP4"}, id="FP4"),
        pytest.param({"kind": "NF4", "type": AdapterType.DORA}, id="NF4 and DoRA"),
        pytest.param({"kind": "NF4", "target_modules": ["q_proj"]}, id="NF4, few targets"),
        pytest.param({"rows": NEW}, id="new rows"),
        pytest.param({"rows": NEW, "modules_to_save": ["embed_tokens"]}, id="rows and embeddings"),
        pytest.param({"rows": NEW, "type": AdapterType.NONE}, id="full training with new rows"),
    ],
)
def test_a_merged_model_computes_what_the_trained_one_computes(tmp_path: Path, settings, tied):
    model, base, checkpoint = trained_toy(tmp_path, tied=tied, **settings)
    rows = VOCABULARY + 2 if "rows" in settings else VOCABULARY
    found = written(merged_weights(base, checkpoint, torch.float32), base, tmp_path / "m", rows)
    tokens = torch.cat((torch.arange(2, 20), torch.arange(VOCABULARY, rows)))[None]
    expected = model(input_ids=tokens).logits
    assert found.get_input_embeddings().weight.shape[0] == rows
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == tied
    torch.testing.assert_close(found(input_ids=tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_8_bit_base_is_merged_as_its_adapter_saw_it(tmp_path: Path):
    model, base, checkpoint = trained_toy(tmp_path, tied=False, kind="Int8")
    tokens = torch.arange(2, 20)[None]
    expected = model(input_ids=tokens).logits
    seen = written(merged_weights(base, checkpoint, torch.float32), base, tmp_path / "m")
    # Products with 8 bits round their inputs too: the merged model is close, not equal.
    torch.testing.assert_close(seen(input_ids=tokens).logits, expected, rtol=0.1, atol=0.1)


def test_the_original_base_is_taken_where_it_is_asked_for(tmp_path: Path):
    _, base, checkpoint = trained_toy(tmp_path, tied=False, kind="NF4")
    name = "model.layers.0.mlp.up_proj.weight"
    update = trained_weights(checkpoint).updates[name]
    plain = load_file(base / "model.safetensors")[name]
    original = merged_weights(base, checkpoint, torch.float32, original=True).tensor(name)
    torch.testing.assert_close(original, update.of(plain))
    seen = merged_weights(base, checkpoint, torch.float32).tensor(name)
    assert not torch.allclose(seen, original, atol=1e-4)


def test_without_a_type_only_changed_tensors_become_32_bit(tmp_path: Path):
    _, base, checkpoint = trained_toy(tmp_path, tied=False, target_modules=["q_proj"])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    found = merged_weights(base, checkpoint, None)
    kinds = {plan.name: plan.dtype for plan in found.plans()}
    wide = {name for name, dtype in kinds.items() if dtype is torch.float32}
    assert wide == {f"model.layers.{n}.self_attn.q_proj.weight" for n in range(2)}
    assert all(found.tensor(name).dtype is dtype for name, dtype in kinds.items())


def test_a_table_of_another_size_is_refused_unless_the_run_grew_it(tmp_path: Path):
    _, base, checkpoint = trained_toy(tmp_path, tied=False, type=AdapterType.NONE, rows=NEW)
    (checkpoint / "model.json").unlink()
    with pytest.raises(MergeFailedError, match="embed_tokens"):
        merged_weights(base, checkpoint, torch.float32).tensor("model.embed_tokens.weight")
