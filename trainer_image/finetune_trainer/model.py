"""Loads the base model of a local folder, in the type asked for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from finetune_trainer.errors import ConfigurationError
from finetune_trainer.segments import SEGMENTS

TYPES = {
    "BFloat16": torch.bfloat16,
    "Float16": torch.float16,
    "Float32": torch.float32,
}


def compute_type(name: str, device: torch.device) -> torch.dtype:
    """Return the type of arithmetic; Auto is bfloat16 on GPUs that have it, else float16."""
    if name in TYPES:
        return TYPES[name]
    if device.type != "cuda":
        return torch.float32
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def load_base(
    folder: Path,
    dtype: torch.dtype,
    *,
    config: PretrainedConfig | None = None,
    attention: str = SEGMENTS,
) -> nn.Module:
    """Return the model of a local folder; safetensors only, no code.

    `config` replaces the folder's; `attention` is the name of a registered function.
    """
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError) as error:
        raise ConfigurationError(
            f"spec.model: the trainer cannot load it ({type(error).__name__}); check that its "
            "architecture is known and its files are whole",
            reason="UnsupportedModel",
        ) from error
    return model
