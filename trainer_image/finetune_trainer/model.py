"""Loads the base model and adds adapters."""

from __future__ import annotations

import math
import warnings
import zlib
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from finetune_api.training_settings import Adapter, AdapterType
from finetune_trainer.errors import ConfigurationError
from finetune_trainer.plan import INIT, mix
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


def trainable_model(
    base: nn.Module, adapter: Adapter, *, rank: int | None, alpha: float | None, seed: int
) -> nn.Module:
    """Return the model with what is trained in float32 and requiring gradients."""
    if adapter.type is AdapterType.NONE:
        return base.float().requires_grad_(requires_grad=True)
    # PEFT imports half of accelerate; full fine-tuning does not pay for it.
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank or 16,
        lora_alpha=alpha or 2 * (rank or 16),
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rslora,
        target_modules=adapter.target_modules or "all-linear",
    )
    try:
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = get_peft_model(base, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise ConfigurationError(
            f"spec.adapter.targetModules: {adapter.target_modules} match no linear layer of the "
            "model; correct the names or remove the field",
            reason="NoMatchingParameters",
        ) from error
    _initialise(model, seed)
    return model


def adapter_config(model: nn.Module, base_name: str) -> dict[str, Any] | None:
    """Return PEFT's adapter_config.json with the base named by its place, None without adapter."""
    configs = getattr(model, "peft_config", None)
    if configs is None:
        return None
    values = configs["default"].to_dict()
    values |= {"base_model_name_or_path": base_name, "inference_mode": True}
    return {name: _plain(value) for name, value in values.items()}


def saved_name(name: str) -> str:
    """Return a parameter's name as PEFT and transformers save it."""
    return name.replace(".default.", ".") if ".lora_" in name else name


def _initialise(model: nn.Module, seed: int) -> None:
    """Draw adapter weights by parameter name: equal on all ranks, whatever the module order."""
    for name, parameter in model.named_parameters():
        if "lora_A" not in name:
            continue
        stream = mix(seed, INIT, zlib.crc32(saved_name(name).encode()))
        generator = torch.Generator().manual_seed(stream)
        bound = 1 / math.sqrt(parameter.shape[1])
        drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        parameter.data.copy_(drawn)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value if isinstance(value, (str, int, float, bool, list, type(None))) else str(value)
