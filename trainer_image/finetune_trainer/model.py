"""Loads the base model of a local folder, in the type asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
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

    `config` replaces the folder's; `attention` is the name of a registered function. Raises
    ConfigurationError: the library would draw tensors that are missing or of another shape.
    """
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            # Without it a tensor of another shape is an error that names no remedy.
            ignore_mismatched_sizes=True,
        )
    except (ValueError, KeyError, OSError) as error:
        raise ConfigurationError(
            f"spec.model: the trainer cannot load it ({type(error).__name__}); check that its "
            "architecture is known and its files are whole",
            reason="UnsupportedModel",
        ) from error
    _refuse_drawn_tensors(found)
    whole: nn.Module = model
    return whole


def skeleton(config: PretrainedConfig, dtype: torch.dtype, *, attention: str) -> nn.Module:
    """Return the model of a configuration whose parameters are shapes and types on `meta`.

    Its buffers have their values, which the architecture computes and no file holds.
    """
    without: Any = _without_values  # torch annotates hooks as if they returned nothing
    hook = register_module_parameter_registration_hook(without)
    try:
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    finally:
        hook.remove()
    built: nn.Module = model
    return built


def _without_values(_module: nn.Module, _name: str, parameter: Any) -> nn.Parameter | None:
    if parameter is None or parameter.is_meta:  # a tied one keeps its identity
        return None
    return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)


def _refuse_drawn_tensors(found: dict[str, Any]) -> None:
    drawn = sorted([*found["missing_keys"], *(one[0] for one in found["mismatched_keys"])])
    if not drawn:
        return
    named = ", ".join(drawn[:3]) + (f" and {len(drawn) - 3} more" if len(drawn) > 3 else "")
    raise ConfigurationError(
        f"spec.model: its files do not hold {named} in the shape of its configuration; use the "
        "whole model, or model.initialWeights Random",
        reason="WeightsMismatch",
    )
