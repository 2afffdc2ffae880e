"""A toy model whose trained tensors have moved, with the checkpoint that a run would leave."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from finetune_api.model_settings import Adapter, Model, Quantization
from finetune_trainer.adapter import Trained, adapter_config, saved_name, trainable_model
from finetune_trainer.adapter_targets import saved_modules
from finetune_trainer.model_record import MODEL, ModelRecord
from finetune_trainer.quantisation import quantise, quantiser
from finetune_trainer.vocabulary import NewRow
from toy_llama import VOCABULARY, toy_llama_folder

NEW = [NewRow(VOCABULARY, [4, 6]), NewRow(VOCABULARY + 1, [5])]


def trained_toy(folder: Path, *, tied: bool, kind: str = "None", rows=(), **adapter):
    """Return the model, the folder of its base and that of its checkpoint."""
    base, checkpoint = folder / "base", folder / "checkpoint"
    if not base.exists():
        toy_llama_folder(base, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = Adapter(**adapter)
    how = quantiser(Quantization(kind), Model(name="lab/toy"), torch.float32)
    if how is not None:
        quantise(model, how, torch.device("cpu"), saved_modules(model, settings))
    model = trainable_model(model, Trained(settings, rank=4, alpha=8.0, seed=5, rows=rows)).eval()
    generator = torch.Generator().manual_seed(9)
    saved = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
            saved[saved_name(name)] = parameter.detach().clone()
    checkpoint.mkdir()
    save_file(saved, checkpoint / "trainable-00000-of-00001.safetensors")
    config = adapter_config(model, "base")
    if config is not None:
        (checkpoint / "adapter_config.json").write_text(json.dumps(config))
    whole = tuple(settings.modules_to_save or ())
    vocabulary = model.config.vocab_size
    record = ModelRecord(quantization=kind, held="Float32", whole=whole, vocabulary=vocabulary)
    (checkpoint / MODEL).write_bytes(record.as_file())
    return model, base, checkpoint
