"""Tiny random models of the families that are most fine-tuned, saved in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from toy_llama import VOCABULARY

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
HEADS_OF_OWN_SIZE = {"head_dim": 12}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": HEADS_OF_OWN_SIZE,
    "gemma": HEADS_OF_OWN_SIZE,
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "phi3": {},
}
"""What differs from `SHAPE`; windows are shorter than the samples, so that they act."""
PADDED = {"gemma2": {"batching": "Padded", "attention": "Eager"}}
"""Families that segments do not serve, with what a plan resolves for them: Gemma 2 caps scores."""


def tiny_model(folder: Path, family: str, **changes: Any) -> Path:
    """Save a model of a family with weights from a seed; float32."""
    config = CONFIG_MAPPING[family](**SHAPE | FAMILIES.get(family, {}) | changes)
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The library's small start makes attention nearly uniform: mistakes would not show.
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    return folder
