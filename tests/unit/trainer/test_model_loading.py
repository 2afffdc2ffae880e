"""The base model is loaded without running its code, and computed in a type the device has."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.model import compute_type, load_base
from toy_llama import toy_llama_folder

CODE = """
from pathlib import Path
Path(__file__).with_name("trace").write_text("I ran")
Path("{trace}").write_text("I ran")
from transformers import LlamaConfig as Planted, LlamaForCausalLM as PlantedModel
"""


@pytest.mark.parametrize("kind", ["planted", "llama"], ids=["an unknown type", "a known type"])
def test_code_that_a_model_brings_is_never_run(tmp_path, kind):
    folder, trace = toy_llama_folder(tmp_path / "model"), tmp_path / "trace"
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": kind,
        "auto_map": {
            "AutoConfig": "planted.Planted",
            "AutoModelForCausalLM": "planted.PlantedModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "planted.py").write_text(CODE.format(trace=trace))
    if kind == "planted":
        with pytest.raises(ConfigurationError):
            load_base(folder, torch.float32)
    else:
        assert type(load_base(folder, torch.float32)).__module__.startswith("transformers.")
    assert not trace.exists()
    assert not (folder / "trace").exists()


@pytest.mark.parametrize("change", ["gone", "cut"])
def test_a_tensor_that_is_not_there_whole_is_refused_by_name_and_never_drawn(tmp_path, change):
    folder = toy_llama_folder(tmp_path / "model")
    [file] = folder.glob("*.safetensors")
    tensors, name = load_file(file), "model.layers.0.mlp.up_proj.weight"
    whole = tensors.pop(name)
    save_file(tensors | ({name: whole[:-1].clone()} if change == "cut" else {}), file)
    with pytest.raises(ConfigurationError, match="up_proj") as raised:
        load_base(folder, torch.float32)
    assert raised.value.reason == "WeightsMismatch"


@pytest.mark.parametrize(
    ("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float16)]
)
def test_a_gpu_computes_in_bfloat16_where_it_can(monkeypatch, has_bfloat16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)
    assert compute_type("Auto", torch.device("cuda")) is expected


def test_a_cpu_computes_in_32_bits_and_a_named_type_is_taken_as_it_is():
    assert compute_type("Auto", torch.device("cpu")) is torch.float32
    assert compute_type("BFloat16", torch.device("cpu")) is torch.bfloat16
